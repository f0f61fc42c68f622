"""Operations of networks in layouts of their own: equal to their folded twin, or to what hooks see at their layers."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

import robustsnn as rs
from robustsnn.energy import measure_energy
from robustsnn.errors import RobustSNNError

T = 5
IMAGES = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def chain(kinds: Any, make_neuron: Any) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            kinds.Conv2d(1, 4, 3, padding=1),
            make_neuron(),
            kinds.MaxPool2d(2),
            kinds.Conv2d(4, 4, 2, groups=2),
            make_neuron(),
            kinds.AvgPool2d(2),
            kinds.Flatten(),
            kinds.Linear(4, 3),
            make_neuron(),
            kinds.Linear(3, 2),
        ).eval()


def ours() -> rs.neurons.LIF:
    return rs.neurons.LIF(v_threshold=0.2)


def theirs() -> neuron.LIFNode:
    return neuron.LIFNode(v_threshold=0.2)


@pytest.mark.parametrize("mode", ["m", "s"])
@pytest.mark.parametrize("encoder", ["direct", "frequency"])
@pytest.mark.parametrize("batch_size", [4, 3, 1])
def test_spikingjelly_counts_as_the_folded_network(mode: str, encoder: str, batch_size: int) -> None:
    folded = rs.SpikingClassifier(chain(nn, ours), T, encoder).eval()
    net = chain(layer, theirs)
    functional.set_step_mode(net, mode)
    model = rs.SpikingClassifier(net, T, encoder).eval()
    assert model.layout == {"m": "multi", "s": "single"}[mode]
    want, found = measure_energy(folded, IMAGES), measure_energy(model, IMAGES, batch_size)
    assert [(e.name, e.kind, e.fed_by) for e in found.layers] == [(e.name, e.kind, e.fed_by) for e in want.layers]
    for expected, actual in zip(want.layers, found.layers):
        assert actual.counts.tolist() == expected.counts.tolist(), expected.name
    assert want.accumulations > 0 < want.graded
    if encoder == "direct":
        cached = measure_energy(model, IMAGES, batch_size, cache_input=True)
        assert cached.macs * T == found.macs


def test_square_batches_of_sequences_are_told_apart() -> None:
    net = chain(layer, theirs)
    functional.set_step_mode(net, "m")
    model = rs.SpikingClassifier(net, T).eval()
    images = torch.cat([IMAGES, 1 - IMAGES[:1]])  # as many images as steps
    single = torch.cat([measure_energy(model, image[None]).counts for image in images])
    assert measure_energy(model, images).counts.tolist() == single.tolist()
    assert len({tuple(row) for row in single.tolist()}) > 1


class Neurons(nn.Module):
    """One step of two layers; what travels between them are spikes."""

    def __init__(self, neurons: list[nn.Module]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(36, 8), nn.Linear(8, 3)
        self.neurons = nn.ModuleList(neurons)


class Hidden(Neurons):
    def forward(self, x: Tensor) -> Tensor:
        return self.neurons[1](self.second(self.neurons[0](self.first(x.flatten(1)))))


class Explicit(Neurons):
    def forward(self, x: Tensor, a: Any = None, b: Any = None) -> tuple[Tensor, Any, Any]:
        spikes, a = self.neurons[0](self.first(x.flatten(1)), a)
        spikes, b = self.neurons[1](self.second(spikes), b)
        return spikes, a, b


class Cells(Neurons):
    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        a, b = state or (None, None)
        spikes, a = self.neurons[0](self.first(x.flatten(1)), a)
        spikes, b = self.neurons[1](self.second(spikes), b)
        return spikes, (a, b)


class BatchFirst(Neurons):
    def forward(self, x: Tensor) -> Tensor:
        return self.neurons[1](self.second(self.neurons[0](self.first(x.flatten(2)))))


class Loop(Neurons):
    """Its own loop over T, on the image; the first layer once, or in every step."""

    def __init__(self, cached: bool) -> None:
        super().__init__([neuron.IFNode(), neuron.IFNode()])
        self.cached = cached

    def forward(self, x: Tensor) -> Tensor:
        current = self.first(x.flatten(1))
        outputs = []
        for t in range(T):
            current = current if self.cached or not t else self.first(x.flatten(1))
            outputs.append(self.neurons[1](self.second(self.neurons[0](current))))
        return torch.stack(outputs)


def snntorch_hidden() -> nn.Module:
    snn = importlib.import_module("snntorch")
    return Hidden([snn.Leaky(beta=0.8, threshold=0.2, init_hidden=True) for _ in range(2)])


def snntorch_explicit() -> nn.Module:
    snn = importlib.import_module("snntorch")
    return Explicit([snn.Leaky(beta=0.8, threshold=0.2) for _ in range(2)])


def norse_cells() -> nn.Module:
    norse = importlib.import_module("norse.torch")
    p = norse.LIFParameters(v_th=torch.tensor(0.1), alpha=torch.tensor(5.0))
    return Cells([norse.LIFCell(p), norse.LIFCell(p)])


def sinabs_batch_first() -> nn.Module:
    layers = importlib.import_module("sinabs.layers")
    activation = importlib.import_module("sinabs.activation")
    single = {"spike_fn": activation.SingleSpike, "spike_threshold": torch.tensor(0.2)}
    return BatchFirst([layers.IAF(**single), layers.IAF(**single)])


FOREIGN = {
    "snntorch-hidden": ("snntorch", snntorch_hidden, "single"),
    "snntorch-explicit": ("snntorch", snntorch_explicit, "state"),
    "norse": ("norse", norse_cells, "state"),
    "sinabs": ("sinabs", sinabs_batch_first, "batch_first"),
    "loop": ("torch", lambda: Loop(False), "image"),
}


def built(build: Any, layout: str) -> rs.SpikingClassifier:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return rs.SpikingClassifier(build().eval(), T, layout=layout).eval()


@pytest.mark.parametrize("name", FOREIGN)
def test_other_frameworks_against_hooks(name: str) -> None:
    package, build, layout = FOREIGN[name]
    pytest.importorskip(package)
    model = built(build, layout)
    want = []
    for image in IMAGES:
        seen: list[Tensor] = []
        hook = model.net.second.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        model.outputs(image[None])
        hook.remove()
        want.append(sum(int((x != 0).sum()) for x in seen) * 3)
    assert sum(want) > 0
    energy = measure_energy(model, IMAGES)
    layers = {e.name: e for e in energy.layers}
    assert layers["first"].macs == T * 36 * 8
    assert layers["second"].fed_by == "spikes"
    assert layers["second"].counts[:, 1].tolist() == want
    assert layers["neurons.0"].neuron_updates == T * 8
    assert (layers["neurons.0"].counts[:, 4] * 3).tolist() == want
    assert not any(module._forward_hooks for module in model.modules())


def test_a_loop_of_its_own_is_counted_as_it_runs() -> None:
    assert measure_energy(built(lambda: Loop(True), "image"), IMAGES).layers[0].macs == 36 * 8
    with pytest.raises(RobustSNNError, match="repeats the image itself"):
        measure_energy(built(lambda: Loop(False), "image"), IMAGES, cache_input=True)


def test_events_of_several_heights_are_graded() -> None:
    layers = pytest.importorskip("sinabs.layers")
    burst = {"spike_threshold": torch.tensor(0.02)}
    model = built(lambda: BatchFirst([layers.IAF(**burst), layers.IAF(**burst)]), "batch_first")
    (second,) = (e for e in measure_energy(model, IMAGES).layers if e.name == "second")
    assert second.fed_by == "graded"
    assert second.graded > 0 == second.accumulations
