"""Attacks for training: any attack by name through any gradient rule, every sample going through all of its steps."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robustsnn.attacks import attack_entry, build_attack
from robustsnn.attacks.image import GradientAttack, ImageAttack
from robustsnn.attacks.inputs import Model, is_stochastic
from robustsnn.attacks.named import NATIVE, WITH_LOSS
from robustsnn.classifier import SpikingClassifier
from robustsnn.errors import RobustSNNError
from robustsnn.gradients import RULES, GradientRule, build_rule

Rule = str | GradientRule | None
"""A gradient rule, its name, or None for the model's own gradient."""


def craft(attack: str, model: Model, optional: Mapping[str, object], params: Mapping[str, object]) -> ImageAttack:
    """An attack that gives up no sample early.

    Args:
        attack: its name.
        model: what is attacked.
        optional: parameters to be passed on where the attack has them, left out where they are None.
        params: further parameters of the attack; it must have them.

    Raises:
        UnknownNameError: no such attack.
        RobustSNNError: parameters that it does not have or that make no sense; a library that is not installed.
    """
    if issubclass(NATIVE.get(_key(attack), object), GradientAttack):
        model = undecided(model)
    known = _parameters(attack)
    chosen = {name: value for name, value in optional.items() if name in known and value is not None}
    if "early_stop" in known:
        chosen["early_stop"] = False
    return build_attack(attack, model, **{**chosen, **params})


def has_parameter(attack: str, name: str) -> bool:
    """Whether an attack has a parameter of this name; of ensembles and other libraries those all attacks have are known.

    Raises:
        UnknownNameError: no such attack.
    """
    return name in _parameters(attack)


def rule_of(rule: Rule) -> GradientRule | None:
    """The gradient rule itself.

    Raises:
        UnknownNameError: no such rule.
        RobustSNNError: something that is not a rule.
    """
    if rule is None or (not isinstance(rule, str | type) and callable(getattr(rule, "logits", None))):
        return rule  # type: ignore[return-value]
    if not isinstance(rule, str):
        raise RobustSNNError(
            f"rule must be a gradient rule or the name of one ({', '.join(sorted(RULES))}), got {rule!r}"
        )
    return build_rule(rule)


def seen_through(model: nn.Module, rule: GradientRule | None) -> nn.Module:
    """The model as the attacker differentiates it.

    Raises:
        RobustSNNError: a rule for a model without spiking neurons.
    """
    if rule is None:
        return model
    if not isinstance(model, SpikingClassifier):
        raise RobustSNNError(
            f"gradient rules differentiate spiking neurons, and {type(model).__name__} has none; leave `rule` out"
        )
    return model.through(rule)


def undecided(model: Model) -> Model:
    """The same model, for attacks that give up no sample early and so need not know which ones are fooled.

    Whether a stochastic model is fooled is decided by ten further passes at each step, whose answer training has no use for.
    """
    adaptive = hasattr(getattr(model, "rule", None), "begin")
    return model if adaptive or not is_stochastic(model) or not isinstance(model, nn.Module) else _Undecided(model)


class _Undecided(nn.Module):
    """Does not say that it is stochastic."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.training = net.training

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)  # type: ignore[no-any-return]


def fresh_seed() -> int:
    """A seed drawn from torch's global generator, so that training runs can be repeated."""
    return int(torch.randint(2**62, (), device="cpu"))


def _key(attack: str) -> str:
    name = str(attack).lower()
    return WITH_LOSS[name][0] if name in WITH_LOSS else name


def _parameters(attack: str) -> set[str]:
    key = _key(attack)
    if key in NATIVE:
        names: set[str] = set()
        for kind in NATIVE[key].__mro__:
            if "__init__" in vars(kind):
                names |= set(inspect.signature(kind.__init__).parameters)  # type: ignore[misc]
        return names
    attack_entry(attack)  # raises where there is none
    return {"eps", "norm", "seed", "batch_size"}


def options_of_attack(params: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of further parameters of an attack.

    Raises:
        RobustSNNError: not a mapping of names to values.
    """
    if not isinstance(params, Mapping) or not all(isinstance(name, str) for name in params):
        raise RobustSNNError(f"params must map names of the attack's parameters to values, got {params!r}")
    return dict(params)
