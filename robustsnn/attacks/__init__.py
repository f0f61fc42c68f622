"""Attacks: how an attacker moves; whatever model and gradient rule it is given."""

from robustsnn.attacks.image import APGD, FGSM, PGD, RFGSM, GaussianNoise, ImageAttack, SignNoise, UniformNoise
from robustsnn.attacks.registry import ATTACKS, build_attack

__all__ = [
    "APGD",
    "ATTACKS",
    "FGSM",
    "PGD",
    "RFGSM",
    "GaussianNoise",
    "ImageAttack",
    "SignNoise",
    "UniformNoise",
    "build_attack",
]
