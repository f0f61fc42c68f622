"""What can be told from a model's modules alone, without running it."""

from __future__ import annotations

from collections.abc import Iterator

from spikingjelly.activation_based import base, layer
from torch import nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.layouts.frameworks import is_sinabs, is_snntorch
from robustsnn.selftest.report import WARNING, Finding

_MODAL = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, layer.Dropout)
_SHOWN = 3


def training_layers(model: object) -> Iterator[Finding]:
    """Layers that work otherwise in training, and are in training."""
    named = model.named_modules() if isinstance(model, nn.Module) else []
    found = [f"{name} ({type(part).__name__})" for name, part in named if isinstance(part, _MODAL) and part.training]
    if found:
        yield Finding(
            "train-mode",
            WARNING,
            f"{_listed(found)} in training mode: noise in the logits, and batch norm learns from adversarial images; "
            "attacks switch to evaluation mode for their own work, your other measurements do not",
            "call model.eval()",
        )


def unwrapped_state(model: object) -> list[str]:
    """Modules that keep a state from call to call and that no `SpikingClassifier` resets."""
    return [
        f"{name or 'the model'} ({type(part).__name__})" for name, part in _outside(model, "") if _keeps_state(part)
    ]


def unwrapped(model: object) -> Iterator[Finding]:
    """Stateful neurons outside of a `SpikingClassifier`; whether they are reset shows only when the model runs."""
    found = unwrapped_state(model)
    if found:
        yield Finding(
            "unwrapped",
            WARNING,
            f"{_listed(found)} outside of a SpikingClassifier: unless the model resets them itself, every call starts "
            "from what the last one left",
            "wrap the network: SpikingClassifier(net, time_steps=T)",
        )


def _outside(module: object, name: str) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(module, SpikingClassifier) or not isinstance(module, nn.Module):
        return
    yield name, module
    for key, child in module.named_children():
        yield from _outside(child, f"{name}.{key}" if name else key)


def _keeps_state(module: nn.Module) -> bool:
    if isinstance(module, base.MemoryModule):
        return bool(module._memories) and not isinstance(module, layer.Dropout)
    return is_sinabs(module) or (is_snntorch(module) and bool(getattr(module, "init_hidden", False)))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more} {'is' if len(names) == 1 else 'are'}"
