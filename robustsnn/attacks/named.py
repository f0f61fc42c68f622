"""The attacks of robustsnn by name; `registry` adds ensembles and other libraries."""

from __future__ import annotations

from typing import Any

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
    ImageAttack,
    RandomSearch,
    SignNoise,
    Square,
    UniformNoise,
)
from robustsnn.attacks.inputs import Model
from robustsnn.errors import RobustSNNError, UnknownNameError

NATIVE: dict[str, type[ImageAttack]] = {
    "uniform": UniformNoise,
    "sign": SignNoise,
    "gaussian": GaussianNoise,
    "fgsm": FGSM,
    "rfgsm": RFGSM,
    "pgd": PGD,
    "mim": MIM,
    "apgd": APGD,
    "apgd-t": APGDT,
    "sa-pgd": SAPGD,
    "fab-t": FAB,
    "square": Square,
    "random-search": RandomSearch,
}
WITH_LOSS: dict[str, tuple[str, str]] = {"apgd-ce": ("apgd", "ce"), "apgd-dlr": ("apgd", "dlr")}
"""AutoAttack's names for one attack with a loss."""


def build_native(name: str, model: Model, **parameters: Any) -> ImageAttack:
    """One of `NATIVE` or `WITH_LOSS` with its parameters.

    Raises:
        UnknownNameError: no such attack.
        RobustSNNError: parameters that it does not have or that make no sense.
    """
    key = str(name).lower()
    if key in WITH_LOSS:
        key, loss = WITH_LOSS[key]
        parameters = {"loss": loss} | parameters
    if key not in NATIVE:
        raise UnknownNameError("attack", name, [*NATIVE, *WITH_LOSS])
    try:
        return NATIVE[key](model, **parameters)
    except TypeError as error:
        raise RobustSNNError(f"attack {name}: {error}") from None
