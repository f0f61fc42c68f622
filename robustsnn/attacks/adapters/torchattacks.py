"""Every attack of torchattacks (Kim, 2020), with what it needs to be right on spiking networks."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import torch
from torch import Tensor

from robustsnn.attacks.adapters.base import (
    LibraryAttack,
    check_fits,
    check_parameters,
    construct,
    find,
    load,
    step_size,
)
from robustsnn.attacks.adapters.target import Target
from robustsnn.errors import RobustSNNError

INSTALL = "pip install --no-deps torchattacks (its wheel pins old packages)"
OFFICIAL_STEPS = 100
"""Of the members of AutoAttack; torchattacks since 3.3.0 runs 10."""

EXCLUDED = {
    "MultiAttack": "it takes attacks, not a model; run several attacks and keep the worst case of each image",
    "LGV": "it trains copies of the model on training data; use torchattacks itself",
}
_IN_L2 = {"PGD": "PGDL2", "PGDRS": "PGDRSL2"}
_EPS_NAMES = ("eps", "max_epsilon", "std")
_NO_GRADIENT = {"VANILA", "GN", "SPSA", "OnePixel", "Pixle", "Square"}
_THREE_CHANNELS = {"TIFGSM", "PIFGSM", "PIFGSMPP"}
_NORMS = ("Linf", "L2")
_FEWEST_CLASSES = {"APGDT": 4}


class TorchAttack(LibraryAttack):
    """An attack of torchattacks: ``TorchAttack(model, "PGD", eps=8/255, steps=10)``.

    * eps goes to ``eps``, ``max_epsilon`` or, of the Gaussian noise GN, ``std``. A step size ``alpha`` that is not given
      keeps the library's ratio to eps (PGD: a quarter), so it fits other budgets too, and grows where few steps would not
      cross the ball, see `step_size`.
    * ``norm="L2"`` turns PGD into PGDL2 and PGDRS into PGDRSL2, and is passed to APGD, APGDT, FAB, Square and AutoAttack.
    * ``seed`` and ``n_classes`` are passed where the attack has them. JSMA, which knows 10 classes only, gets the next
      class of the model as its target.
    * AutoAttack's members run 100 steps as in the original, not the library's 10; with fewer than 4 classes the targeted
      DLR loss is not defined: APGDT gives way to APGD on DLR (3 classes) or is left out (2 classes), see ``members``.
    * TIFGSM, PIFGSM and PIFGSMPP assume 3 channels; others are filled up with unused ones.
    * Attacks without a budget (CW, DeepFool, EADL1, EADEN, SparseFool, JSMA, OnePixel, Pixle) keep what succeeds in the
      ball.

    Arguments as in `LibraryAttack`.
    """

    library = "torchattacks"
    members: tuple[str, ...]
    """Attacks of which it consists."""
    _named: ClassVar[tuple[str, ...]] = ("model", "eps", "max_epsilon", "norm", "seed", "n_classes", "verbose")

    def choose(self, attack: str, norm: str | None, targeted: bool) -> str | None:
        """See `LibraryAttack.choose`."""
        (library,) = load("torchattacks", INSTALL, "torchattacks")
        check_fits("torchattacks", attack, EXCLUDED)
        name = find("torchattacks attack", attack, names())
        if norm == "L2" and name in _IN_L2:
            name = _IN_L2[name]
        self.name, self.members = name, (name,)
        self._kind = getattr(library, name)
        label = f"torchattacks:{name}"
        taken = (*self._named, "std") if name == "GN" else self._named
        self._defaults = check_parameters(label, self._kind, self.parameters, taken)
        self._eps_name = next((n for n in _EPS_NAMES if n in self._defaults and (n != "std" or name == "GN")), None)
        self.minimum_norm = self._eps_name is None
        self.takes_gradient = needs_gradient(name)  # type: ignore[misc]
        self.multiple = 3 if name in _THREE_CHANNELS else 1
        modes = construct(label, self._kind, _Stub(), **self.parameters).supported_mode
        if targeted and (name == "FAB" or "targeted" not in modes):  # FAB takes the target for the label
            raise RobustSNNError(f"{label} has no targeted mode that works")
        if self.minimum_norm or name == "GN":
            return None
        own = norm or "Linf" if "norm" in self._defaults else "L2" if name in _IN_L2.values() else "Linf"
        if (norm or own) != own or own not in _NORMS:
            others = [*_IN_L2, "APGD", "APGDT", "FAB", "Square", "AutoAttack"] if norm == "L2" else []
            hint = f"; in L2 there are {', '.join(others)}" if others else ""
            raise RobustSNNError(f"{label} is bounded in {own if own in _NORMS else 'Linf or L2'}, not in {norm}{hint}")
        return own

    def run(self, target: Target, x: Tensor, y: Tensor, classes: int) -> Tensor:
        """Build the library's attack for this batch and call it."""
        needed = _FEWEST_CLASSES.get(self.name, 3 if self.parameters.get("loss") == "dlr" else 2)
        if classes < needed:
            raise RobustSNNError(
                f"torchattacks:{self.name} needs {needed} classes for its DLR loss, the model has {classes}; use APGD with "
                "loss='ce', FAB or Square"
            )
        attack = self._build(target, classes)
        attack.set_device(x.device)
        if self.name == "AutoAttack":
            self._repair_autoattack(attack._autoattack, target, classes)
        if self.multiple == 3:
            _widen_filters(attack, x.shape[1])
        if self.targeted:
            attack.set_mode_targeted_by_label(quiet=True)
        elif self.name == "JSMA":
            attack.set_mode_targeted_by_function(lambda _images, labels: (labels + 1) % classes, quiet=True)
        result: Tensor = attack(x, y)
        return result

    def _build(self, target: Target, classes: int) -> Any:
        values: dict[str, Any] = dict(self.parameters)
        if self._eps_name is not None:
            values[self._eps_name] = self.unit_eps
        offers = {"norm": self.ball.norm, "seed": self.seed, "n_classes": classes}
        values |= {name: value for name, value in offers.items() if name in self._defaults}
        if "alpha" in self._defaults and "eps" in self._defaults and "alpha" not in values:
            steps = values.get("steps", self._defaults.get("steps"))
            values["alpha"] = step_size(self._defaults["alpha"] / self._defaults["eps"], steps) * self.unit_eps
        return construct(f"torchattacks:{self.name}", self._kind, target, **values)

    def _repair_autoattack(self, ensemble: Any, target: Target, classes: int) -> None:
        """The official number of steps, and members that are defined for so few classes."""
        library = inspect.getmodule(self._kind)
        for member in ensemble.attacks:
            if hasattr(member, "steps"):
                member.steps = OFFICIAL_STEPS
        kept = [m for m in ensemble.attacks if classes >= 4 or m.attack != "APGDT"]
        kept = [m for m in kept if classes >= 3 or getattr(m, "loss", "") != "dlr"]
        if classes == 3 and not any(getattr(m, "loss", "") == "dlr" for m in kept):
            options = {"norm": self.ball.norm, "eps": self.unit_eps, "steps": OFFICIAL_STEPS, "seed": self.seed}
            kept.insert(1, library.APGD(target, loss="dlr", **options))  # type: ignore[union-attr]
        ensemble.attacks = kept
        self.members = tuple(f"{m.attack}-{m.loss}" if m.attack == "APGD" else m.attack for m in kept)


def names() -> list[str]:
    """Attacks of the installed torchattacks.

    Raises:
        RobustSNNError: it is not installed.
    """
    (library,) = load("torchattacks", INSTALL, "torchattacks")
    return [name for name in library.__all__ if name not in EXCLUDED]


def needs_gradient(name: str) -> bool:
    """Whether an attack differentiates the model."""
    return name not in _NO_GRADIENT


class _Stub(torch.nn.Module):
    """Stands in for a model where only the attack's description is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.empty(0))


def _widen_filters(attack: Any, channels: int) -> None:
    """Depth-wise filters for a multiple of three channels, where the library writes ``groups=3`` and 3 filters."""
    if hasattr(attack, "stacked_kernel"):
        attack.stacked_kernel = _grouped(attack.stacked_kernel, channels)
    if hasattr(attack, "project_kern"):
        project = attack.project_kern
        attack.project_kern = lambda size: (_grouped(project(size)[0], channels), project(size)[1])
    if hasattr(attack, "gaussian_kern"):
        smooth = attack.gaussian_kern
        attack.gaussian_kern = lambda *size: _grouped(smooth(*size), channels)


def _grouped(kernel: Tensor, channels: int) -> Tensor:
    """Three filters ``[3, 1, h, w]`` as ``[C, C / 3, h, w]``: a third of the channels each, no channel mixed."""
    per_group = channels // 3
    filters = kernel.new_zeros(channels, per_group, *kernel.shape[2:])
    for channel in range(channels):
        filters[channel, channel % per_group] = kernel[channel // per_group, 0]
    return filters
