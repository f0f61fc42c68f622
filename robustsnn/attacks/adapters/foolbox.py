"""The attacks of Foolbox (Rauber et al., 2020), fixed-budget and minimum-norm."""

from __future__ import annotations

import inspect
import re
from typing import Any

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

INSTALL = "pip install foolbox"

EXCLUDED = {
    "BinarizationRefinementAttack": "it refines adversarial images that another attack has found",
    "SpatialAttack": "it turns and shifts images, which no norm bounds",
}
_NO_GRADIENT = (
    "Noise",
    "ContrastReduction",
    "Inversion",
    "Blur",
    "Boundary",
    "HopSkipJump",
    "Dataset",
    "GenAttack",
    "Pointwise",
)
_TARGETED_ONLY = {"GenAttack"}


class FoolboxAttack(LibraryAttack):
    """An attack of Foolbox: ``FoolboxAttack(model, "LinfPGD", eps=8/255, steps=40)``.

    A name without a norm takes the one that is asked for: ``"PGD"`` with ``norm="L2"`` is L2PGD. Attacks with a budget
    get it as ``epsilons=``; minimum-norm attacks (DeepFool, CW, DDN, FMN, EAD, Brendel & Bethge, ...) are told to stop
    early at eps where they measure in the norm of the ball, and keep what succeeds inside. A step size that is not given
    grows where so many steps of Foolbox's default would hardly cross the ball (`step_size`; LinfPGD: 40 steps of eps/30).
    DatasetAttack draws on the images of the batch. GenAttack is targeted only.

    Arguments as in `LibraryAttack`; ``parameters`` are those of the attack's constructor.
    """

    library = "foolbox"

    def choose(self, attack: str, norm: str | None, targeted: bool) -> str | None:
        """See `LibraryAttack.choose`."""
        foolbox, attacks = load("Foolbox", INSTALL, "foolbox", "foolbox.attacks")
        check_fits("foolbox", attack, EXCLUDED)
        known = names()
        spellings = {f"{norm}{attack}".lower(), f"{norm}inity{attack}".lower()}
        by_norm = [n for n in known if n.lower() in spellings]
        self.name = find("foolbox attack", by_norm[0] if by_norm else attack, known)
        label = f"foolbox:{self.name}"
        kind = getattr(attacks, self.name)
        options = dict(self.parameters)
        self._distance = getattr(foolbox.distances, (norm or "Linf").lower())
        defaults = check_parameters(label, kind, options, ())
        if "distance" in defaults and "distance" not in options:
            options["distance"] = self._distance
        if "rel_stepsize" in defaults and not {"rel_stepsize", "abs_stepsize"} & set(options):
            options["rel_stepsize"] = step_size(defaults["rel_stepsize"], options.get("steps", defaults.get("steps")))
        if "constraint" in defaults and "constraint" not in options:
            options["constraint"] = "l2" if norm == "L2" else "linf"
        self._kind, self._options = kind, options
        sample = self._build()
        self.minimum_norm = not isinstance(sample, attacks.base.FixedEpsilonAttack)
        self.takes_gradient = needs_gradient(self.name)  # type: ignore[misc]
        self._measures_in = _norm_of(sample.distance)
        if self.name in _TARGETED_ONLY and not targeted:
            raise RobustSNNError(f"{label} needs target classes: pass targeted=True and the classes as labels")
        if not self.minimum_norm and norm is not None and norm != self._measures_in:
            raise RobustSNNError(f"{label} is bounded in {self._measures_in}, not in {norm}")
        return self._measures_in

    def run(self, target: Target, x: Tensor, y: Tensor, classes: int) -> Tensor:
        """Call the library on one batch."""
        (foolbox,) = load("Foolbox", INSTALL, "foolbox")
        model = foolbox.PyTorchModel(target, bounds=(0, 1), device=x.device)
        goal = foolbox.criteria.TargetedMisclassification if self.targeted else foolbox.criteria.Misclassification
        attack = self._build()  # some keep what they have seen
        if self.name == "DatasetAttack":
            attack.feed(model, x)
        may_stop = not self.minimum_norm or (self._measures_in == self.ball.norm and self.ball.norm != "L0")
        raw, clipped, _ = attack(model, x, goal(y), epsilons=self.unit_eps if may_stop else None)
        result: Tensor = raw if self.minimum_norm else clipped
        return result

    def _build(self) -> Any:
        attack = construct(f"foolbox:{self.name}", self._kind, **self._options)
        if self.name == "PointwiseAttack":  # its constructor forgets the distance that it asks for later
            attack._distance = self._distance
        return attack


def names() -> list[str]:
    """Attacks of the installed Foolbox, its short names included.

    Raises:
        RobustSNNError: it is not installed.
    """
    (attacks,) = load("Foolbox", INSTALL, "foolbox.attacks")
    return [
        name
        for name, kind in vars(attacks).items()
        if inspect.isclass(kind)
        and issubclass(kind, attacks.Attack)
        and not inspect.isabstract(kind)
        and name not in EXCLUDED
    ]


def short_names() -> list[str]:
    """Names that stand for an attack once a norm is given: ``PGD``, ``DeepFoolAttack``, ...

    Raises:
        RobustSNNError: Foolbox is not installed.
    """
    prefix = re.compile("^(L0|L1|L2|Linfinity|L[iI]nf)")
    return sorted({prefix.sub("", name) for name in names()})


def needs_gradient(name: str) -> bool:
    """Whether an attack differentiates the model."""
    return not any(part in name for part in _NO_GRADIENT)


def _norm_of(distance: Any) -> str:
    order = getattr(distance, "p", None)
    return "Linf" if order == torch.inf else f"L{order:g}" if order is not None else "Linf"
