"""What all tests share: one thread, and ready-made spiking networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.models import NeuronSpec, build_network


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def rng_untouched() -> Iterator[None]:
    """Fail the test if it draws from the global generators of torch or NumPy."""
    before, numpy_before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    yield
    assert torch.equal(before, torch.get_rng_state()), "the global generator of torch was used"
    after = np.random.get_state()  # noqa: NPY002
    same = all(np.array_equal(a, b) for a, b in zip(numpy_before, after))
    assert same, "the global generator of NumPy was used"


_SMALL: dict[str, dict[str, Any]] = {
    "cnn": {"width": 4, "hidden": 16},
    "vgg11": {"width": 0.1, "hidden": 120},
    "wrn16-4": {"width": 1.0},
}


@pytest.fixture
def make_model() -> Callable[..., SpikingClassifier]:
    """A small model of any architecture whose neurons all fire in part, in eval mode and double precision."""

    def make(
        architecture: str = "cnn",
        time_steps: int = 4,
        spec: Any = None,
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
        **classifier: Any,
    ) -> SpikingClassifier:
        torch.manual_seed(seed)
        spec = spec or NeuronSpec(kind="lif", tau=2.0)
        net = build_network(architecture, (2, 8, 8), 5, spec, **_SMALL[architecture]).to(dtype)
        model = SpikingClassifier(net, time_steps, **classifier).to(dtype)
        _calibrate(model, torch.rand(16, 2, 8, 8, dtype=dtype))
        return model

    return make


def _calibrate(model: SpikingClassifier, images: torch.Tensor) -> None:
    """Give batch norm the statistics of the network's own spikes, and check that no layer is silent or saturated."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.uniform_(module.bias, 0.1, 0.5)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=1.5 / module.in_features**0.5)
            nn.init.uniform_(module.bias, 0.0, 0.4)
    rates: list[float] = []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, spikes: rates.append(spikes.mean().item()))
        for module in model.modules()
        if isinstance(module, neuron.BaseNode)
    ]
    with torch.no_grad():
        for _ in range(3):
            model.train()(images)
        rates.clear()
        model.eval()(images)
    for hook in hooks:
        hook.remove()
    assert len(rates) == len(hooks)
    assert all(0.01 < rate < 0.99 for rate in rates), rates
