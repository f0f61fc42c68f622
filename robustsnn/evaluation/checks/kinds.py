"""What kind of attack a row belongs to: noise, one step, many steps, or without gradients."""

from __future__ import annotations

from typing import Literal

from robustsnn.attacks.ensemble import PRESETS
from robustsnn.attacks.named import NATIVE

Kind = Literal["noise", "one-step", "iterative", "black-box"]

ONE_STEP = frozenset({"fgsm", "rfgsm", "ffgsm", "fgm", "fastgradientmethod"})
BLACK_BOX = (
    "square",
    "random-search",
    "transfer",
    "spsa",
    "pixle",
    "onepixel",
    "pixelattack",
    "hopskipjump",
    "boundaryattack",
    "zooattack",
    "signoptattack",
    "simba",
    "genattack",
    "pointwiseattack",
)
_ENSEMBLE = "ensemble-"


def kind_of(name: str) -> Kind:
    """The kind of an attack by its name in the registry; what is none of the others is iterative.

    Attacks of other libraries (``"torchattacks:FGSM"``) are known by their own names.
    """
    key = name.lower().rpartition(":")[2]
    base = key.partition("-")[0] if key not in NATIVE else key
    attack = NATIVE.get(key) or NATIVE.get(base)
    if attack is not None and attack.family == "noise":
        return "noise"
    if key == "gn" or "noise" in key:
        return "noise"
    if key in ONE_STEP or key.endswith("fastgradientattack"):
        return "one-step"
    if key.startswith(BLACK_BOX) or (attack is not None and not attack.takes_gradient):
        return "black-box"
    return "iterative"


def ends_without_gradients(name: str) -> bool:
    """Whether the attack is a registered ensemble whose last member takes no gradient, so that it sees what all others left."""
    preset = PRESETS.get(name.lower().removeprefix(_ENSEMBLE)) if name.lower().startswith(_ENSEMBLE) else None
    return preset is not None and kind_of(preset[-1].attack) == "black-box"
