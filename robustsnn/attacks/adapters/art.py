"""The evasion attacks of the Adversarial Robustness Toolbox (Nicolae et al., 2018) that fit images and logits."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
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

INSTALL = "pip install adversarial-robustness-toolbox"

_ATTACKS = (
    "AutoAttack",
    "AutoConjugateGradient",
    "AutoProjectedGradientDescent",
    "BasicIterativeMethod",
    "BoundaryAttack",
    "BrendelBethgeAttack",
    "CarliniL0Method",
    "CarliniL2Method",
    "CarliniLInfMethod",
    "DeepFool",
    "ElasticNet",
    "FastGradientMethod",
    "HopSkipJump",
    "MomentumIterativeMethod",
    "NewtonFool",
    "PixelAttack",
    "ProjectedGradientDescent",
    "ProjectedGradientDescentNumpy",
    "ProjectedGradientDescentPyTorch",
    "RescalingAutoConjugateGradient",
    "SaliencyMapMethod",
    "SignOPTAttack",
    "SimBA",
    "SquareAttack",
    "TargetedUniversalPerturbation",
    "ThresholdAttack",
    "UniversalPerturbation",
    "VirtualAdversarialMethod",
    "ZooAttack",
)
EXCLUDED = dict.fromkeys(
    ("AdversarialPatch", "AdversarialPatchNumpy", "AdversarialPatchPyTorch", "LaserAttack", "SpatialTransformation"),
    "no norm bounds it",
) | {
    "GeoDA": "it calls what NumPy 2 has removed",
    "ShadowAttack": "it takes one colour image at a time, and no norm bounds it",
    "Wasserstein": "it is bounded in the Wasserstein distance",
}
"""Not listed: attacks on speech, video, tables, malware and detectors."""
_NO_GRADIENT = {
    "BoundaryAttack",
    "HopSkipJump",
    "PixelAttack",
    "SignOPTAttack",
    "SimBA",
    "SquareAttack",
    "ThresholdAttack",
    "VirtualAdversarialMethod",
    "ZooAttack",
}
_TARGETS_AS_LABELS = {"SaliencyMapMethod", "TargetedUniversalPerturbation"}
_ONE_BY_ONE = {"SimBA", "ZooAttack"}
_TAKES_PROBABILITIES = {"SimBA", "VirtualAdversarialMethod"}
_OWN_NORM = {"VirtualAdversarialMethod": "L2"}
_ORDERS = {"Linf": np.inf, "L2": 2, "L1": 1, "L0": 0}
_FIRST_STEP = 2.0
"""Step of the parameter-free attacks in units of eps (Croce & Hein, 2020); the library's is a third of its eps."""
_DLR = "difference_logits_ratio"


class ArtAttack(LibraryAttack):
    """An attack of ART: ``ArtAttack(model, "ProjectedGradientDescent", eps=8/255, max_iter=10)``.

    ``eps``, ``norm`` (as infinity, 2, 1, 0), ``targeted`` and ``batch_size`` are passed where the attack has them, and
    progress bars are off. A step ``eps_step`` that is not given is a third of eps, the library's ratio (more where few
    steps would not cross the ball, see `step_size`), and 2 eps for the parameter-free attacks (APGD, ACG, AutoAttack), as in
    their papers. Attacks without ``eps`` keep what succeeds in the ball. ART computes in NumPy: images go to the
    processor and back.

    ART's own ``AutoAttack`` has other members than the original; use `robustsnn.attacks.adapters.autoattack` for that.

    Arguments as in `LibraryAttack`.
    """

    library = "art"

    def choose(self, attack: str, norm: str | None, targeted: bool) -> str | None:
        """See `LibraryAttack.choose`."""
        (evasion,) = load("ART", INSTALL, "art.attacks.evasion")
        check_fits("art", attack, EXCLUDED)
        self.name = find("art attack", attack, names())
        self._kind = getattr(evasion, self.name)
        label = f"art:{self.name}"
        taken = ("estimator", "classifier", "eps", "norm", "targeted", "batch_size", "verbose")
        self._defaults = check_parameters(label, self._kind, self.parameters, taken)
        self.minimum_norm = "eps" not in self._defaults
        self.takes_gradient = needs_gradient(self.name)  # type: ignore[misc]
        if targeted and "targeted" not in self._defaults and self.name not in _TARGETS_AS_LABELS:
            raise RobustSNNError(f"{label} has no targeted mode")
        if self.name == "TargetedUniversalPerturbation" and not targeted:
            raise RobustSNNError(f"{label} needs target classes: pass targeted=True and the classes as labels")
        if self.minimum_norm or "norm" in self._defaults:
            return None
        own = _OWN_NORM.get(self.name, "Linf")
        if norm not in (None, own):
            raise RobustSNNError(f"{label} is bounded in {own}, not in {norm}")
        return own

    def run(self, target: Target, x: Tensor, y: Tensor, classes: int) -> Tensor:
        """Build ART's classifier and attack for this batch, and call it."""
        (classification,) = load("ART", INSTALL, "art.estimators.classification")
        if self.parameters.get("loss_type") == _DLR and classes < 3:
            raise RobustSNNError(f"art:{self.name}: the DLR loss needs 3 classes, the model has {classes}")
        probabilities = self.name in _TAKES_PROBABILITIES
        estimator = classification.PyTorchClassifier(
            torch.nn.Sequential(target, torch.nn.Softmax(1)) if probabilities else target,
            loss=torch.nn.CrossEntropyLoss(),
            input_shape=target.shape,
            nb_classes=classes,
            clip_values=(0.0, 1.0),
            device_type="cpu" if x.device.type == "cpu" else "gpu",
        )
        attack = construct(f"art:{self.name}", self._kind, estimator, **self._values(len(x)))
        labels = None if self.name in _TARGETS_AS_LABELS and not self.targeted else y.cpu().numpy()
        if labels is not None:
            labels = np.eye(classes, dtype=np.float32)[labels]
        with _seeded_numpy(inspect.getmodule(self._kind)):
            return torch.from_numpy(attack.generate(x=x.cpu().numpy(), y=labels))

    def _values(self, count: int) -> dict[str, Any]:
        offers: dict[str, Any] = {
            "eps": self.unit_eps,
            "norm": _ORDERS[self.ball.norm],
            "targeted": self.targeted,
            "batch_size": 1 if self.name in _ONE_BY_ONE else count,
            "verbose": False,
        }
        values = {name: value for name, value in offers.items() if name in self._defaults} | self.parameters
        if "eps_step" in self._defaults and "eps_step" not in values:
            steps_by_itself = self.name.startswith("Auto") or "Conjugate" in self.name
            steps = values.get("max_iter", self._defaults.get("max_iter"))
            values["eps_step"] = self.unit_eps * (_FIRST_STEP if steps_by_itself else step_size(1 / 3, steps))
        if "loss_type" in self._defaults and "loss_type" not in values:
            values["loss_type"] = "cross_entropy"
        return values


class _Overlay:
    """A module with some names of its own."""

    def __init__(self, module: Any, **own: Any) -> None:
        self._module = module
        vars(self).update(own)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


@contextmanager
def _seeded_numpy(module: Any) -> Iterator[None]:
    """Some attacks draw from ``np.random.RandomState()``, which nobody can seed; here the global generator seeds it."""

    def seeded(seed: int | None = None) -> np.random.RandomState:
        return np.random.RandomState(np.random.randint(2**31) if seed is None else seed)  # noqa: NPY002

    module.np = _Overlay(np, random=_Overlay(np.random, RandomState=seeded))
    try:
        yield
    finally:
        module.np = np


def names() -> list[str]:
    """Attacks of the installed ART that fit.

    Raises:
        RobustSNNError: it is not installed.
    """
    (evasion,) = load("ART", INSTALL, "art.attacks.evasion")
    return [name for name in _ATTACKS if hasattr(evasion, name)]


def needs_gradient(name: str) -> bool:
    """Whether an attack differentiates the model."""
    return name not in _NO_GRADIENT
