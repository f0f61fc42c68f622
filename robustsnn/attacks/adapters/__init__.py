"""Other people's attacks, usable wherever ours are: torchattacks, AutoAttack, Foolbox and ART.

By name: ``"torchattacks:PGD"``, ``"foolbox:LinfPGD"``, ``"art:ProjectedGradientDescent"``, ``"autoattack"``. A library is
imported when one of its attacks is asked for, and not before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from robustsnn.attacks.adapters import art, autoattack, foolbox, torchattacks
from robustsnn.attacks.adapters.art import ArtAttack
from robustsnn.attacks.adapters.autoattack import AutoAttack
from robustsnn.attacks.adapters.base import Corrections, LibraryAttack, check_fits, find
from robustsnn.attacks.adapters.foolbox import FoolboxAttack
from robustsnn.attacks.adapters.torchattacks import TorchAttack
from robustsnn.attacks.inputs import Model
from robustsnn.errors import RobustSNNError

__all__ = [
    "Adapter",
    "ArtAttack",
    "AutoAttack",
    "Corrections",
    "FoolboxAttack",
    "LibraryAttack",
    "TorchAttack",
    "adapter_for",
    "available",
]

_LIBRARIES = {"torchattacks": (torchattacks, TorchAttack), "foolbox": (foolbox, FoolboxAttack), "art": (art, ArtAttack)}


@dataclass(frozen=True)
class Adapter:
    """An attack of a library by name; called like the class of one of our own attacks.

    Attributes:
        library: ``"torchattacks"``, ``"foolbox"``, ``"art"`` or ``"autoattack"``.
        attack: its name there; a version of AutoAttack.
        takes_gradient: whether the model is differentiated.
    """

    library: str
    attack: str
    takes_gradient: bool = True
    family: ClassVar[str] = "adversarial"

    def __call__(self, model: Model, eps: float = 8 / 255, **parameters: Any) -> LibraryAttack:
        """The attack on ``model``; parameters as in `LibraryAttack`, and the library's own."""
        if self.library == "autoattack":
            return AutoAttack(model, eps, **{"version": self.attack, **parameters})
        return _LIBRARIES[self.library][1](model, self.attack, eps, **parameters)


def adapter_for(name: str) -> Adapter | None:
    """The attack of a library by name, ``"LIBRARY:ATTACK"`` or ``"autoattack"``; None if it names no library.

    The library's name may be in any case, and so may the attack's. ``"autoattack:rand"`` is version ``rand``.

    Raises:
        RobustSNNError: the library is not installed, with the way to install it; the attack does not fit, with the reason.
        UnknownNameError: it has no such attack, with the nearest.
    """
    library, _, attack = str(name).partition(":")
    library = library.lower()
    if library == "autoattack":
        return Adapter(library, find("version of AutoAttack", attack or "standard", autoattack.VERSIONS))
    if library not in _LIBRARIES:
        return None
    module = _LIBRARIES[library][0]
    check_fits(library, attack, module.EXCLUDED)
    known = module.names() + (foolbox.short_names() if library == "foolbox" else [])
    attack = find(f"{library} attack", attack, known)
    return Adapter(library, attack, module.needs_gradient(attack))


def available() -> dict[str, list[str]]:
    """Library to the names of its attacks as `adapter_for` takes them; how to install it, in one line, where it is not."""
    found: dict[str, list[str]] = {}
    for library, (module, _) in _LIBRARIES.items():
        try:
            found[library] = [f"{library}:{name}" for name in module.names()]
        except RobustSNNError:
            found[library] = [f"not installed: {module.INSTALL}"]
    try:
        autoattack.installed()
        found["autoattack"] = [f"autoattack:{version}" for version in autoattack.VERSIONS]
    except RobustSNNError:
        found["autoattack"] = [f"not installed: {autoattack.INSTALL}"]
    return found
