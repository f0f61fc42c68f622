"""Attacks by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from robustsnn.attacks.image import APGD, FGSM, PGD, RFGSM, GaussianNoise, ImageAttack, SignNoise, UniformNoise
from robustsnn.attacks.inputs import Model
from robustsnn.errors import RobustSNNError, UnknownNameError

ATTACKS: dict[str, Callable[..., ImageAttack]] = {
    "uniform": UniformNoise,
    "sign": SignNoise,
    "gaussian": GaussianNoise,
    "fgsm": FGSM,
    "rfgsm": RFGSM,
    "pgd": PGD,
    "apgd-ce": APGD,
}


def build_attack(name: str, model: Model, **parameters: Any) -> ImageAttack:
    """An attack by name, e.g. ``build_attack("pgd", model, eps=8/255, steps=10)``.

    Raises:
        UnknownNameError: no such attack.
        RobustSNNError: parameters that it does not have or that make no sense.
    """
    key = str(name).lower()
    if key not in ATTACKS:
        raise UnknownNameError("attack", name, ATTACKS)
    try:
        return ATTACKS[key](model, **parameters)
    except TypeError as error:
        raise RobustSNNError(f"attack {name}: {error}") from None
