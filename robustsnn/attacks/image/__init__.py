"""Norm-bounded attacks on images, and random noise of the same size."""

from robustsnn.attacks.image.apgd import APGD
from robustsnn.attacks.image.apgd_targeted import APGDT
from robustsnn.attacks.image.base import GradientAttack, ImageAttack, RestartedAttack
from robustsnn.attacks.image.fab import FAB
from robustsnn.attacks.image.fgsm import FGSM, RFGSM
from robustsnn.attacks.image.mim import MIM
from robustsnn.attacks.image.noise import GaussianNoise, SignNoise, UniformNoise
from robustsnn.attacks.image.pgd import PGD
from robustsnn.attacks.image.random_search import RandomSearch
from robustsnn.attacks.image.sapgd import SAPGD
from robustsnn.attacks.image.square import Square

__all__ = [
    "APGD",
    "APGDT",
    "FAB",
    "FGSM",
    "MIM",
    "PGD",
    "RFGSM",
    "SAPGD",
    "GaussianNoise",
    "GradientAttack",
    "ImageAttack",
    "RandomSearch",
    "RestartedAttack",
    "SignNoise",
    "Square",
    "UniformNoise",
]
