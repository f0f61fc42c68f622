"""Every attack by name: ours, the ensembles, and those of other libraries (``"torchattacks:PGD"``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from robustsnn.attacks.adapters import adapter_for
from robustsnn.attacks.ensemble import PRESETS, SpikingAutoAttack
from robustsnn.attacks.image import ImageAttack
from robustsnn.attacks.inputs import Model
from robustsnn.attacks.named import NATIVE, WITH_LOSS, build_native
from robustsnn.errors import RobustSNNError, UnknownNameError


@dataclass(frozen=True)
class AttackEntry:
    """How an attack is built, and what it is.

    Attributes:
        build: ``build(model, **parameters)``.
        about: one line.
        family: ``"adversarial"`` or ``"noise"``.
        takes_rule: whether the gradient rule of its model makes a difference; noise, black-box attacks and ensembles (which
            bring their own rules) do not ask for one.
        iterative: whether it has a number of ``steps``.
    """

    build: Callable[..., ImageAttack]
    about: str
    family: str = "adversarial"
    takes_rule: bool = True
    iterative: bool = True


def _native(name: str, kind: type[ImageAttack]) -> AttackEntry:
    about = (kind.__doc__ or "").split("\n\n")[0].replace("\n   ", "").replace("`", "")
    iterative = kind.family == "adversarial" and name not in ("fgsm", "rfgsm")
    takes_rule = kind.takes_gradient and kind.family == "adversarial"
    return AttackEntry(partial(build_native, name), about, kind.family, takes_rule, iterative)


ATTACKS: dict[str, AttackEntry] = {
    **{name: _native(name, kind) for name, kind in NATIVE.items()},
    **{
        name: AttackEntry(partial(build_native, name), f"{key} with loss={loss}, AutoAttack's name")
        for name, (key, loss) in WITH_LOSS.items()
    },
    **{
        f"ensemble-{preset}": AttackEntry(
            partial(SpikingAutoAttack, preset=preset),
            f"SpikingAutoAttack, preset {preset}: {len(members)} members, rules included, parameter-free",
            takes_rule=False,
            iterative=False,
        )
        for preset, members in PRESETS.items()
    },
}


def attack_entry(name: str) -> AttackEntry:
    """What is known of an attack by name; names with a colon belong to other libraries.

    Raises:
        UnknownNameError: no such attack.
        RobustSNNError: its library is not installed.
    """
    key = str(name).lower()
    if key in ATTACKS:
        return ATTACKS[key]
    foreign = adapter_for(name)
    if foreign is None:
        raise UnknownNameError("attack", name, ATTACKS)
    return AttackEntry(foreign, f"{name}, from another library", takes_rule=foreign.takes_gradient, iterative=False)


def build_attack(name: str, model: Model, **parameters: Any) -> ImageAttack:
    """An attack by name, e.g. ``build_attack("pgd", model, eps=8/255, steps=10)``.

    Raises:
        UnknownNameError: no such attack.
        RobustSNNError: parameters that it does not have or that make no sense; a library that is not installed.
    """
    try:
        return attack_entry(name).build(model, **parameters)
    except TypeError as error:
        raise RobustSNNError(f"attack {name}: {error}") from None
