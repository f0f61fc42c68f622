"""Norm-bounded attacks on images, and random noise of the same size."""

from robustsnn.attacks.image.apgd import APGD
from robustsnn.attacks.image.base import ImageAttack
from robustsnn.attacks.image.fgsm import FGSM, RFGSM
from robustsnn.attacks.image.noise import GaussianNoise, SignNoise, UniformNoise
from robustsnn.attacks.image.pgd import PGD

__all__ = ["APGD", "FGSM", "PGD", "RFGSM", "GaussianNoise", "ImageAttack", "SignNoise", "UniformNoise"]
