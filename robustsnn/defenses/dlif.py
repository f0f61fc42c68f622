"""MS-MPPD: potentials of the last neurons that a perturbation moves little; with DLIF neurons the training of that paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustsnn.attacks.randomness import per_image
from robustsnn.defenses.crafting import Rule, craft, fresh_seed, rule_of, seen_through
from robustsnn.defenses.objective import CROSS_ENTROPY, Batch, Objective
from robustsnn.defenses.recording import NeuronRecord
from robustsnn.defenses.values import flag, number, radius
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.gradients.support import takes_rules

NOISES = ("fgsm", "gaussian")


@dataclass(frozen=True)
class DLIF(Objective):
    """``clean CE(x) + (1 - clean) CE(x') + r mean(e^2)``: how far a perturbation moves the last neurons' potentials.

    ``e[t] = leak e[t-1] + gain (I'[t] - I[t])`` follows the difference of the currents of the last spiking layer as its
    membrane would, without its resets. The clean current is a constant. Both passes are in training mode, the second under
    the first one's random numbers. Any neurons will do; the paper's are `NeuronSpec(kind="dlif")`.

    ``x'`` is ``x + std N(0, I)``, or FGSM of radius eps from there, clamped to [0, 1] and crafted in eval mode.

    Args:
        r: weight >= 0 of the perturbation of potentials.
        noise: ``"fgsm"`` or ``"gaussian"``.
        eps: radius of FGSM in [0, 1]; ``"4/255"`` is taken too.
        std: of the Gaussian noise, >= 0; .001 before FGSM and 8/255 alone, as published, unless given.
        clean: share of the clean images' cross entropy, in [0, 1].
        tv: mean of ``|e|`` instead of ``e^2``: MPPD-TV (ICLR 2026).
        rule: gradient rule, or its name, of FGSM; the model's own surrogates unless given.

    Raises:
        UnknownNameError: an unknown noise.
        RobustSNNError: values that make no sense; in a sum with an objective that trains on adversarial examples or
            replaces the cross entropy.

    Source: Ding et al., "Robust Stable Spiking Neural Networks", ICML 2024. Their code follows currents before the trained
    scale ``p[t]`` of DLIF neurons; here the currents are scaled, so that ``e`` is the perturbation of the potential.
    """

    replaces_cross_entropy: ClassVar[bool] = True
    needs_clean_inputs: ClassVar[bool] = True
    needs_records: ClassVar[bool] = True

    r: float = 1.0
    noise: str = "fgsm"
    eps: float = 4 / 255
    std: float | None = None
    clean: float = 0.5
    tv: bool = False
    rule: Rule = None

    def __post_init__(self) -> None:
        if self.noise not in NOISES:
            raise UnknownNameError("noise of DLIF", str(self.noise), NOISES)
        object.__setattr__(self, "r", number("DLIF", "a weight r", self.r))
        object.__setattr__(self, "eps", radius("DLIF", self.eps))
        object.__setattr__(self, "clean", number("DLIF", "a share clean", self.clean, high=1.0))
        if self.std is not None:
            object.__setattr__(self, "std", number("DLIF", "a standard deviation std", self.std))
        flag("DLIF", "tv", self.tv)
        rule_of(self.rule)

    def check(self, model: nn.Module) -> None:
        """The model needs spiking neurons that robustsnn knows."""
        if not takes_rules(model):
            raise RobustSNNError(
                "DLIF looks at the currents of spiking neurons; train a SpikingClassifier of neurons that robustsnn knows"
            )

    def criterion(self, batch: Batch) -> tuple[str, Tensor]:
        """``clean`` times the cross entropy of the images."""
        return CROSS_ENTROPY, self.clean * F.cross_entropy(batch.logits, batch.labels)

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        """``{"perturbed": (1 - clean) CE(x'), "mppd": r mean(e^2)}``."""
        logits, _, records = batch.run_again(self.perturbed(batch), records=True)
        e = perturbation(batch.records[-1], records[-1])
        return {
            "perturbed": (1 - self.clean) * F.cross_entropy(logits, batch.labels),
            "mppd": self.r * (e.abs() if self.tv else e.square()).mean(),
        }

    def perturbed(self, batch: Batch) -> Tensor:
        """The ``x'`` of a batch, ``[N, C, H, W]``."""
        images = batch.images.detach()
        std = self.std if self.std is not None else 0.001 if self.noise == "fgsm" else 8 / 255
        noisy = images + std * per_image(images, fresh_seed(), 0, torch.randn)
        if self.noise == "gaussian":
            return noisy
        view = seen_through(batch.model, rule_of(self.rule))
        params = {"eps": self.eps, "seed": fresh_seed(), "batch_size": len(images)}
        return craft("fgsm", view, {}, params)(noisy.clamp(0, 1), batch.labels)


def perturbation(clean: NeuronRecord, perturbed: NeuronRecord) -> Tensor:
    """``e`` ``[T, N, ...]``: the difference of two passes' currents, integrated by the membrane without resets."""
    difference = perturbed.currents - clean.currents.detach()
    steps = len(perturbed.spikes)
    e, found = torch.zeros_like(difference[0]), []
    for t in range(steps):
        dynamics = perturbed.dynamics.at(t)
        e = dynamics.leak * e + dynamics.input_gain * difference[t if len(difference) > 1 else 0]
        found.append(e)
    return torch.stack(found)
