"""Operations and energy against loops over every product, against plain step-by-step runs, and the published arithmetic."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import robustsnn as rs
from robustsnn.conversion import convert, with_cos, with_srp
from robustsnn.energy import COSTS, OPERATIONS, CostModel, Energy, measure_energy
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.models.ann import AnnClassifier
from robustsnn.neurons.scaled import ScaledIF

KINDS = (nn.Linear, nn.modules.conv._ConvNd)


def seeded(build: Any, seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def products(layer: nn.Module, x: Tensor) -> int:
    """Products of a weight with a value of ``x`` (one sample) that is not 0, one by one."""
    if isinstance(layer, nn.Linear):
        return sum(1 for value in x.flatten() for _ in range(layer.out_features) if value != 0)
    dims = x.dim() - 1
    places = [range(n) for n in x.shape[1:]]
    taps = [range(k) for k in layer.kernel_size]
    out = [range(n) for n in layer(x[None]).shape[2:]]
    outof = layer.out_channels // layer.groups
    count = 0
    for channel, place in itertools.product(range(layer.in_channels), itertools.product(*places)):
        if x[(channel, *place)] == 0:
            continue
        for target, tap in itertools.product(itertools.product(*out), itertools.product(*taps)):
            if layer.transposed:
                source, end = place, target
            else:
                source, end = target, place
            before = [padding_before(layer, d) for d in range(dims)]
            reads = [source[d] * layer.stride[d] - before[d] + tap[d] * layer.dilation[d] for d in range(dims)]
            if reads == list(end):
                count += outof
    return count


def padding_before(layer: nn.Module, d: int) -> int:
    if layer.padding == "same":
        return layer.dilation[d] * (layer.kernel_size[d] - 1) // 2
    return 0 if layer.padding == "valid" else layer.padding[d]


def plain_counts(model: rs.SpikingClassifier, images: Tensor, time_steps: int) -> dict[str, list[int]]:
    """Products with values other than 0 of every layer for every image, from a single-step run with brute-force loops."""
    net = copy.deepcopy(model.net)
    for module in net.modules():
        if hasattr(module, "step_mode"):
            module.step_mode = "s"
    counts: dict[str, list[int]] = {}
    layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, KINDS)}
    for index, image in enumerate(images):
        for module in net.modules():
            if hasattr(module, "reset"):
                module.reset()
        inputs: dict[str, list[Tensor]] = {name: [] for name in layers}
        hooks = [
            layer.register_forward_pre_hook(lambda _, args, kept=inputs[name]: kept.append(args[0][0]))
            for name, layer in layers.items()
        ]
        for _ in range(time_steps):
            net(image[None])
        for hook in hooks:
            hook.remove()
        for name, layer in layers.items():
            counts.setdefault(name, []).append(sum(products(layer, x) for x in inputs[name]))
        assert len(counts["0"]) == index + 1
    return counts


def counted(energy: Energy, operation: str) -> dict[str, list[int]]:
    column = OPERATIONS.index(operation)
    return {layer.name: layer.counts[:, column].tolist() for layer in energy.layers if layer.kind != "neuron"}


LAYERS = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (4, 7)),
    "conv2d": (lambda: nn.Conv2d(2, 4, 3, padding=1), (2, 4, 5)),
    "strided": (lambda: nn.Conv2d(4, 4, (3, 2), stride=(2, 1), padding=(1, 0), groups=4), (4, 5, 4)),
    "dilated": (lambda: nn.Conv2d(2, 3, 2, dilation=2, padding=1), (2, 4, 4)),
    "skipping": (lambda: nn.Conv2d(2, 3, 1, stride=3), (2, 5, 4)),
    "same": (lambda: nn.Conv2d(2, 2, (2, 3), dilation=(1, 2), padding="same"), (2, 4, 5)),
    "valid": (lambda: nn.Conv2d(2, 2, 2, padding="valid"), (2, 3, 3)),
    "conv3d": (lambda: nn.Conv3d(2, 2, 2, padding=1), (2, 2, 3, 2)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1, output_padding=1, groups=2), (2, 3, 4)),
    "transposed1d": (lambda: nn.ConvTranspose1d(2, 3, 3, stride=2, padding=2, dilation=2), (2, 5)),
    "linear": (lambda: nn.Linear(6, 5), (6,)),
}


class Layer(nn.Module):
    """Channels of spikes, then the layer, then logits, so that the layer is fed by a neuron."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.neuron = rs.neurons.IF(v_reset=None)
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.neuron(x)).flatten(1)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", LAYERS)
def test_accumulations_of_a_layer_are_the_products_with_spikes(name: str) -> None:
    build, shape = LAYERS[name]
    layer = seeded(build).double()
    images = uniform(2, *shape)
    model = rs.SpikingClassifier(Layer(layer), time_steps=3).eval()
    energy = measure_energy(model, images)
    want = []
    for image in images:
        v, total = torch.zeros_like(image), 0
        for _ in range(3):
            v = v + image
            spikes = (v >= 1).double()
            v = v - spikes
            total += products(layer, spikes)
        want.append(total)
    assert min(want) > 0
    (found,) = (each for each in energy.layers if each.kind != "neuron")
    assert (found.name, found.fed_by) == ("layer", "spikes")
    assert found.counts[:, 1].tolist() == want
    assert found.counts[:, [0, 2, 3, 4]].sum() == 0


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", LAYERS)
def test_macs_of_an_ann_are_its_products(name: str) -> None:
    build, shape = LAYERS[name]
    layer = seeded(build).double()
    images = torch.zeros(2, *shape, dtype=torch.float64)  # zeros are multiplied like any other value
    energy = measure_energy(AnnClassifier(nn.Sequential(layer, nn.Flatten())).eval(), images)
    want = products(layer, images[0] + 1)
    assert energy.counts.tolist() == [[want, 0, 0, 0, 0]] * 2
    assert energy.time_steps == 1


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(1, 9),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 4),
    padding=st.integers(0, 4),
    dilation=st.integers(1, 3),
    groups=st.integers(1, 2),
    transposed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_fan_out_is_a_convolution_of_the_events_with_ones(
    size: int, kernel: int, stride: int, padding: int, dilation: int, groups: int, transposed: bool, seed: int
) -> None:
    kind = nn.ConvTranspose1d if transposed else nn.Conv1d
    layer = kind(2, 4, kernel, stride, padding, dilation=dilation, groups=groups, bias=False).double()
    with torch.no_grad():
        layer.weight.fill_(1)
    images = uniform(3, 2, size, seed=seed).round()
    with torch.no_grad():
        try:
            want = layer(images).sum((1, 2)).long().tolist()
        except RuntimeError:
            return  # the output would be empty
    model = rs.SpikingClassifier(Layer(layer), time_steps=1).eval()
    assert measure_energy(model, images).counts[:, 1].tolist() == want


def small_ann(pool: nn.Module | None = None, dtype: torch.dtype = torch.float64) -> AnnClassifier:
    def build() -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            pool or nn.Identity(),
            nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(6 * (4 if pool else 9), 5),
        )

    return AnnClassifier(seeded(build).to(dtype)).eval()


IMAGES = uniform(5, 1, 5, 5)


def converted(time_steps: int = 6, pool: nn.Module | None = None) -> rs.SpikingClassifier:
    return convert(small_ann(pool), "opi", time_steps, calibration=IMAGES, percentile=95.0).double()


@pytest.mark.parametrize("pool", [None, nn.MaxPool2d(2, padding=1)])
def test_a_spiking_network_against_single_steps_and_loops(pool: nn.Module | None) -> None:
    if pool is None:
        model = converted()
    else:
        net = nn.Sequential(*(ScaledIF(0.4) if isinstance(m, nn.ReLU) else m for m in small_ann(pool).net)).double()
        net[3] = nn.Sequential(pool, nn.ZeroPad2d((0, 1, 0, 1)))
        net[7] = nn.Linear(24, 5).double()
        model = rs.SpikingClassifier(net, 6).eval()
    want = plain_counts(model, IMAGES, 6)
    energy = measure_energy(model, IMAGES)
    macs = 6 * products(model.net[0], torch.ones(1, 5, 5, dtype=torch.float64))
    assert counted(energy, "macs") == {"0": [macs] * 5, "4": [0] * 5, "7": [0] * 5}
    assert counted(energy, "accumulations") == {"0": [0] * 5, "4": want["4"], "7": want["7"]}
    assert min(want["4"]) > 0
    assert energy.graded == 0
    assert energy.synaptic_operations == pytest.approx(torch.tensor([*want["4"], *want["7"]]).sum().item() / 5)


def test_events_after_average_pooling_are_graded() -> None:
    model = converted(pool=nn.AvgPool2d(2, padding=1))
    want = plain_counts(model, IMAGES, 6)
    energy = measure_energy(model, IMAGES)
    assert counted(energy, "graded") == {"0": [0] * 5, "4": want["4"], "7": [0] * 5}
    assert counted(energy, "accumulations") == {"0": [0] * 5, "4": [0] * 5, "7": want["7"]}
    assert energy.synaptic_operations == pytest.approx(energy.graded + energy.accumulations)


def test_neurons_are_counted_with_their_spikes() -> None:
    model = converted()
    energy = measure_energy(model, IMAGES)
    sizes = {"2": 4 * 25, "5": 6 * 9}
    assert {e.name: e.neuron_updates for e in energy.layers if e.kind == "neuron"} == {
        name: 6 * size for name, size in sizes.items()
    }
    spikes = {e.name: e.spikes for e in energy.layers if e.kind == "neuron"}
    assert energy.spikes == pytest.approx(sum(spikes.values()))
    (last,) = (e for e in energy.layers if e.name == "7")
    assert last.accumulations == pytest.approx(5 * spikes["5"])


def test_order_of_layers_and_what_feeds_them() -> None:
    energy = measure_energy(converted(), IMAGES)
    assert [(e.name, e.kind, e.fed_by) for e in energy.layers] == [
        ("0", "conv2d", "image"),
        ("2", "neuron", "current"),
        ("4", "conv2d", "spikes"),
        ("5", "neuron", "current"),
        ("7", "linear", "spikes"),
    ]


def test_a_cached_input_counts_once() -> None:
    model = converted()
    plain, cached = measure_energy(model, IMAGES), measure_energy(model, IMAGES, cache_input=True)
    assert plain.macs == 6 * cached.macs == 6 * measure_energy(AnnClassifier(model.net[:1]).eval(), IMAGES).macs
    assert torch.equal(plain.counts[:, 1:], cached.counts[:, 1:])
    corrected = with_srp(model, 3)
    assert measure_energy(corrected, IMAGES).macs == 9 * cached.macs
    assert measure_energy(corrected, IMAGES, cache_input=True).macs == cached.macs


@pytest.mark.parametrize("time_steps", [1, 2, 33, 70])
@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_counts_do_not_depend_on_batches_or_pieces_of_time(time_steps: int, batch_size: int) -> None:
    model = converted(time_steps)
    energy = measure_energy(model, IMAGES, batch_size=batch_size)
    whole = Totals(model)
    assert energy.counts[:, 4].tolist() == whole.spikes(IMAGES)
    assert energy.macs == time_steps * products(model.net[0], torch.ones(1, 5, 5, dtype=torch.float64))
    assert energy.n == 5


class Totals:
    """Spikes of each image over all neurons, from one run of all steps."""

    def __init__(self, model: rs.SpikingClassifier) -> None:
        self.model = model

    def spikes(self, images: Tensor) -> list[int]:
        totals = torch.zeros(len(images), dtype=torch.int64)

        def note(node: Any, x_seq: Tensor, time_steps: int) -> Tensor:
            out = rs.neurons.execution.own_step(node, x_seq, time_steps)
            totals.add_((out != 0).transpose(0, 1).flatten(1).sum(1))
            return out

        with torch.no_grad():
            self.model.run(self.model.encode(images), note)
        return totals.tolist()


def test_if_everything_spikes_there_are_t_times_the_macs_of_the_ann() -> None:
    conv = seeded(lambda: nn.Conv2d(2, 3, 3, padding=1, stride=2))
    ones = torch.ones(1, 2, 6, 6)
    model = rs.SpikingClassifier(nn.Sequential(rs.neurons.IF(v_reset=None), conv, nn.Flatten()), 7).eval()
    macs = measure_energy(AnnClassifier(nn.Sequential(conv, nn.Flatten())).eval(), ones).macs
    assert measure_energy(model, ones).synaptic_operations == 7 * macs


def test_reusing_layers_and_functional_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)
            self.matrix = nn.Parameter(torch.ones(32, 3))
            self.first, self.second = rs.neurons.IF(v_reset=None), rs.neurons.IF(v_reset=None)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(self.conv(x))
            x = self.second(torch.nn.functional.conv2d(x, weight=self.conv.weight, padding=1) + x)
            return x.flatten(1) @ self.matrix

    model = rs.SpikingClassifier(seeded(Twice).double(), 4).eval()
    energy = measure_energy(model, uniform(3, 2, 4, 4))
    assert [(e.name, e.kind, e.fed_by) for e in energy.layers] == [
        ("conv", "conv2d", "image"),
        ("first", "neuron", "current"),
        ("conv", "conv2d", "spikes"),
        ("second", "neuron", "current"),
        ("matrix", "linear", "spikes"),
    ]
    assert energy.layers[4].accumulations == pytest.approx(3 * energy.layers[3].spikes)


def test_what_is_and_is_not_a_spike() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = rs.neurons.IF(v_reset=None), rs.neurons.IF(v_reset=None)
            self.layers = nn.ModuleList(nn.Linear(n, 4, bias=False) for n in (4, 4, 4, 4, 8, 4))

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.a(x), self.b(1 - x)
            fed = [x, a * 0.5, a + b, 1 - a, torch.cat([a, b], 1), self.layers[0](a)]
            return sum(layer(y) for layer, y in zip(self.layers, fed))

    model = rs.SpikingClassifier(seeded(Mixed), 3).eval()
    energy = measure_energy(model, uniform(2, 4).float())
    assert [(e.name, e.fed_by) for e in energy.layers if e.kind == "linear"] == [
        ("layers.0", "spikes"),
        ("layers.0", "image"),
        ("layers.1", "spikes"),
        ("layers.2", "graded"),
        ("layers.3", "spikes"),
        ("layers.4", "spikes"),
        ("layers.5", "current"),
    ]


@pytest.mark.parametrize("probe_steps", [0, 1, 4])
def test_srp_probes_with_the_whole_network(probe_steps: int) -> None:
    plain, time_steps = converted(4), 4
    model = with_srp(plain, probe_steps)
    energy = measure_energy(model, IMAGES)
    assert energy.time_steps == probe_steps + time_steps
    assert energy.macs == (probe_steps + time_steps) * measure_energy(plain, IMAGES, cache_input=True).macs
    assert energy.counts[:, 4].tolist() == spikes_with_srp(plain, probe_steps)


def spikes_with_srp(plain: rs.SpikingClassifier, probe_steps: int) -> list[int]:
    """Spikes that neurons send in probing and counted steps, by single steps: silenced ones send none."""
    net = copy.deepcopy(plain.net)
    sent = torch.zeros(len(IMAGES), dtype=torch.int64)
    masks: dict[nn.Module, Tensor] = {}

    def send(node: nn.Module, inputs: Any, spikes: Tensor) -> Tensor:
        spikes = spikes * masks.get(node, torch.ones_like(spikes))
        sent.add_((spikes != 0).flatten(1).sum(1))
        return spikes

    nodes = [module for module in net.modules() if isinstance(module, rs.neurons.IF)]
    for node in nodes:
        node.step_mode = "s"
        node.reset()
        node.register_forward_hook(send)
    with torch.no_grad():
        for _ in range(probe_steps):
            net(IMAGES)
        for node in nodes if probe_steps else []:
            masks[node] = (node.v > 1e-3).double()
            node.reset()
        for _ in range(plain.time_steps):
            net(IMAGES)
    return sent.tolist()


@pytest.mark.parametrize(
    ("probe_steps", "time_steps", "iterations"), [(2, 4, 1), (4, 4, 1), (4, 3, 1), (2, 4, 3), (4, 3, 2)]
)
@pytest.mark.parametrize("layerwise", [True, False])
def test_cos_probes_as_its_step_count_says(probe_steps: int, time_steps: int, iterations: int, layerwise: bool) -> None:
    model = with_cos(converted(time_steps), probe_steps, iterations, layerwise)
    energy = measure_energy(model, IMAGES)
    computed = model.step_count.computed
    assert energy.time_steps == computed
    assert energy.macs == computed * measure_energy(converted(), IMAGES, cache_input=True).macs
    assert {e.name: e.neuron_updates for e in energy.layers if e.kind == "neuron"} == {
        "2": 100 * computed,
        "5": 54 * computed,
    }


def test_a_model_is_handed_back_as_it_came() -> None:
    model = rs.SpikingClassifier(nn.Sequential(nn.Flatten(), nn.Linear(25, 8), rs.neurons.LIF()), 5, "poisson").eval()
    images = IMAGES.float()
    model.encoder.reseed(3)
    model(images)
    twin = copy.deepcopy(model.state_dict())
    state = model.encoder._generators[images.device].get_state()
    first, second = measure_energy(model, images), measure_energy(model, images)
    assert torch.equal(first.counts, second.counts)
    assert torch.equal(model.encoder._generators[images.device].get_state(), state)
    assert all(torch.equal(value, twin[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert first.layers[0].fed_by == "spikes"


def test_hooks_go_after_an_error() -> None:
    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("stop")

    model = rs.SpikingClassifier(nn.Sequential(nn.Flatten(), nn.Linear(25, 8), rs.neurons.LIF(), Failing()), 5).eval()
    with pytest.raises(ValueError, match="stop"):
        measure_energy(model, IMAGES.float())
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.overrides._get_current_function_mode_stack() == []


def test_poisson_frames_are_spikes_unless_normalised() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(25, 8), rs.neurons.LIF(), nn.Linear(8, 2))
    images = torch.ones(2, 1, 5, 5)  # fire in every step
    assert measure_energy(rs.SpikingClassifier(net, 3, "poisson").eval(), images).layers[0].accumulations == 3 * 25 * 8
    normalised = rs.SpikingClassifier(net, 3, "poisson", normalize=((0.5,), (0.5,))).eval()
    assert measure_energy(normalised, images).layers[0].macs == 3 * 25 * 8
    frequency = rs.SpikingClassifier(net, 3, "frequency").eval()
    assert measure_energy(frequency, images).layers[0].macs == 3 * 25 * 8
    assert measure_energy(frequency, images, cache_input=True).layers[0].macs == 3 * 25 * 8


def test_frames_of_events_are_graded() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(25, 8), rs.neurons.LIF(), nn.Linear(8, 2))
    frames = torch.zeros(2, 3, 1, 5, 5)
    frames[0, 1, 0, 2, :2] = torch.tensor([1.0, 4.0])
    frames[1, 2] = 1
    energy = measure_energy(rs.SpikingClassifier(net, 3, "frames").eval(), frames)
    assert energy.layers[0].counts[:, OPERATIONS.index("graded")].tolist() == [2 * 8, 25 * 8]
    assert energy.macs == 0
    halved = rs.SpikingClassifier(net, 3, "frames", normalize=((0.0,), (2.0,))).eval()
    assert measure_energy(halved, frames).layers[0].graded == energy.layers[0].graded
    shifted = rs.SpikingClassifier(net, 3, "frames", normalize=((0.5,), (1.0,))).eval()
    assert measure_energy(shifted, frames).layers[0].macs == 3 * 25 * 8


def test_published_arithmetic() -> None:
    chips, cmos = COSTS["neuromorphic"], COSTS["cmos-45nm"]
    assert 1 / chips.joules(accumulations=20.86e9) == pytest.approx(622.58, abs=0.01)
    assert 1 / chips.joules(accumulations=33.42e9) == pytest.approx(388.60, abs=0.01)
    macs = 1 / (22 * chips.mac)
    assert macs == pytest.approx(3.636e9, rel=1e-3)
    assert 20.86e9 / macs == pytest.approx(5.7, abs=0.05)
    assert cmos.joules(accumulations=20.86e9) == pytest.approx(18.8e-3, abs=0.05e-3)
    assert cmos.joules(macs) == pytest.approx(16.7e-3, abs=0.05e-3)
    assert chips.mac / chips.accumulation == pytest.approx(162, abs=0.5)
    assert cmos.mac / cmos.accumulation == pytest.approx(5.1, abs=0.05)
    assert cmos.graded == cmos.mac


def test_energy_is_the_sum_of_prices() -> None:
    energy = measure_energy(converted(pool=nn.AvgPool2d(2, padding=1)), IMAGES)
    mine = CostModel(3.0, 5.0, 7.0, "mine")
    want = 3 * energy.macs + 5 * energy.accumulations + 7 * energy.graded
    assert energy.energy(mine) == pytest.approx(want)
    assert mine.joules(energy.macs, energy.accumulations, energy.graded) == pytest.approx(want)
    assert energy.energy_per_image("cmos-45nm").shape == (5,)
    assert energy.energy("cmos-45nm") == pytest.approx(energy.energy(COSTS["cmos-45nm"]))
    assert energy.neuron_updates == sum(layer.neuron_updates for layer in energy.layers)
    with pytest.raises(UnknownNameError, match="neuromorphic"):
        energy.energy("A")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": nn.Linear(2, 2)}, "AnnClassifier"),
        ({"model": "view"}, "view.model"),
        ({"model": "training"}, "training mode"),
        ({"images": IMAGES[:0]}, "no images"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": True}, "batch_size"),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    model = converted()
    models = {"view": model.through(rs.gradients.BPTT()), "training": copy.deepcopy(model).train()}
    arguments = {"model": model, "images": IMAGES} | change
    if isinstance(arguments["model"], str):
        arguments["model"] = models[arguments["model"]]
    with pytest.raises(RobustSNNError, match=message):
        measure_energy(**arguments)


class Refused(nn.Module):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.rnn = nn.GRU(25, 3)
        self.attention = nn.MultiheadAttention(25, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        if self.what == "gru":
            return self.rnn(x)[0]
        if self.what == "attention":
            return self.attention(x, x, x)[0]
        return x @ x.T if self.what == "matmul" else torch.einsum("nf,nf->nf", x, x)


@pytest.mark.parametrize("what", ["gru", "attention", "matmul", "einsum"])
def test_operations_that_cannot_be_counted_are_refused(what: str) -> None:
    with pytest.raises(RobustSNNError, match="cannot count the operations of"):
        measure_energy(AnnClassifier(Refused(what)).eval(), IMAGES.float())


def test_networks_without_layers_and_compiled_ones_are_refused() -> None:
    with pytest.raises(RobustSNNError, match="nothing to count"):
        measure_energy(rs.SpikingClassifier(nn.Sequential(rs.neurons.IF(), nn.Flatten()), 2).eval(), IMAGES)
    scripted = AnnClassifier(torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(25, 2)))).eval()
    with pytest.raises(RobustSNNError, match="compiled"):
        measure_energy(scripted, IMAGES.float())


def test_rows_that_no_image_owns_are_refused() -> None:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.flatten(0, 2)).view(len(x), -1)

    model = AnnClassifier(Patches().double()).eval()
    with pytest.raises(RobustSNNError, match="batch_size=1"):
        measure_energy(model, IMAGES)
    assert measure_energy(model, IMAGES, batch_size=1).macs == 5 * 5 * 2
