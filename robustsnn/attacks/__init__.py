"""Attacks: how an attacker moves; whatever model and gradient rule it is given."""

from robustsnn.attacks.ensemble import Member, SpikingAutoAttack
from robustsnn.attacks.image import (
    APGD,
    APGDT,
    FAB,
    FGSM,
    MIM,
    PGD,
    RFGSM,
    SAPGD,
    GaussianNoise,
    GradientAttack,
    ImageAttack,
    RandomSearch,
    SignNoise,
    Square,
    UniformNoise,
)
from robustsnn.attacks.registry import ATTACKS, attack_entry, build_attack

__all__ = [
    "APGD",
    "APGDT",
    "ATTACKS",
    "FAB",
    "FGSM",
    "MIM",
    "PGD",
    "RFGSM",
    "SAPGD",
    "GaussianNoise",
    "GradientAttack",
    "ImageAttack",
    "Member",
    "RandomSearch",
    "SignNoise",
    "SpikingAutoAttack",
    "Square",
    "UniformNoise",
    "attack_entry",
    "build_attack",
]
