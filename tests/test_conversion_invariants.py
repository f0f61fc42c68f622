"""What theory says of converted networks, against scalar loops and exact fractions: counts, shifts, gradients, state."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from robustsnn.classifier import SpikingClassifier
from robustsnn.conversion import accuracy_over_time, convert_qcfs, with_cos, with_srp
from robustsnn.models import ActivationSpec, ModelSpec
from robustsnn.neurons import QCFS, ScaledIF, dynamics_of, multistep, slope_of
from robustsnn.neurons.execution import own_step

CORRECT: dict[str, Callable[[SpikingClassifier], SpikingClassifier]] = {
    "qcfs": lambda snn: snn,
    "srp": lambda snn: with_srp(snn, 3),
    "cos": lambda snn: with_cos(snn, 3),
    "cos, together": lambda snn: with_cos(snn, 3, layerwise=False),
}


def images(n: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def quantised_ann(architecture: str, levels: int, **options: object) -> nn.Module:
    """An untrained network of the package whose batch norm knows its activations and whose bounds all differ."""
    spec = ModelSpec(
        architecture=architecture,
        options=options,
        neuron=ActivationSpec(kind="qcfs", levels=levels, bound=1.0),
        image_shape=(3, 8, 8),
        num_classes=5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ann = spec.build().double()
        for module in ann.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the statistics of the one batch that follows
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0.2, 0.3)
        with torch.no_grad():
            ann(images(50, 3, 8, 8))
            for position, module in enumerate(m for m in ann.modules() if isinstance(m, QCFS)):
                module.bound.fill_(0.8 + position / 16)
    return ann.eval()


@pytest.fixture(scope="module")
def residual() -> nn.Module:
    """ResNet-20 with projections, batch norm and sums before neurons."""
    return quantised_ann("resnet20", 4, width=0.25)


# --- scalar loops ----------------------------------------------------------------------------------------------------


class Chain:
    """Linear layers and soft-reset neurons as plain Python numbers, one image at a time; written from the papers alone.

    Weights and biases are multiples of 1/4, thresholds powers of two, images multiples of 1/8: nothing is rounded, so
    potentials of exactly 0 and of exactly the threshold occur.
    """

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.thresholds, sizes = [2.0, 1.0, 1.0], (4, 9, 12, 12, 3)
        layers: list[nn.Module] = []
        for number, (inside, outside) in enumerate(itertools.pairwise(sizes)):
            linear = nn.Linear(inside, outside).double()
            with torch.no_grad():
                for parameter in linear.parameters():
                    parameter.copy_(torch.randint(-8, 9, parameter.shape, generator=generator) / 4)
            layers.append(linear)
            if number < len(self.thresholds):
                layers.append(QCFS(4, self.thresholds[number]).double())
        self.net = nn.Sequential(*layers)
        self.x = torch.randint(0, 9, (5, sizes[0]), generator=generator).double() / 8
        linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
        self.weights = [layer.weight.tolist() for layer in linears]
        self.biases = [layer.bias.tolist() for layer in linears]

    def layer(self, number: int, inputs: list[float]) -> list[float]:
        """Outputs of one linear layer, in thresholds of the neurons behind it."""
        scale = self.thresholds[number] if number < len(self.thresholds) else 1.0
        rows = zip(self.weights[number], self.biases[number])
        return [(sum(w * x for w, x in zip(row, inputs)) + b) / scale for row, b in rows]

    def plain(self, image: list[float], steps: int, starts: list | None = None, masks: list | None = None) -> list:
        """Every layer's potentials after ``steps`` steps, and the mean output; potentials start at 1/2 or ``starts``."""
        v = [[0.5] * len(b) if starts is None else list(starts[i]) for i, b in enumerate(self.biases[:-1])]
        total = [0.0] * len(self.biases[-1])
        for _ in range(steps):
            values = image
            for number, threshold in enumerate(self.thresholds):
                sent = []
                for i, current in enumerate(self.layer(number, values)):
                    v[number][i] += current
                    fires = v[number][i] >= 1
                    v[number][i] -= fires
                    sent.append(threshold * fires * (1 if masks is None else masks[number][i]))
                values = sent
            total = [a + b for a, b in zip(total, self.layer(len(self.thresholds), values))]
        return [v, [value / steps for value in total]]

    def srp(self, image: list[float], probing: int, steps: int) -> list[float]:
        """Probe the whole network, silence what ends at or below 0.001, run again."""
        residuals = self.plain(image, probing)[0]
        masks = [[float(v > 1e-3) for v in layer] for layer in residuals]
        return self.plain(image, steps, None, masks)[1]

    def cos(self, image: list[float], probing: int, steps: int, iterations: int) -> list[float]:
        """Run from the starts that calibration finds."""
        return self.plain(image, steps, self.starts(image, probing, iterations))[1]

    def starts(self, image: list[float], probing: int, iterations: int) -> list[list[float]]:
        """Layer after layer: find the starts of its neurons on the calibrated outputs of the layers before."""
        starts: list[list[float]] = []
        frames = [image] * probing
        for number, threshold in enumerate(self.thresholds):
            over_time = [self.layer(number, frame) for frame in frames]
            starts.append([])
            trains = []
            for i in range(len(over_time[0])):
                currents = [step[i] for step in over_time]
                start = 0.5
                for iteration in range(iterations):
                    start = start + self.shift(currents, start, iteration)
                starts[-1].append(start)
                trains.append(self.fire(currents, start)[0])
            frames = [[threshold * train[t] for train in trains] for t in range(probing)]
        return starts

    @staticmethod
    def fire(currents: list[float], v: float) -> tuple[list[bool], list[float], float]:
        """Spikes, potentials before reset, last potential."""
        spikes, before = [], []
        for current in currents:
            before.append(v + current)
            spikes.append(before[-1] >= 1)
            v = before[-1] - spikes[-1]
        return spikes, before, v

    def shift(self, currents: list[float], start: float, iteration: int) -> float:
        """The published rule, v itself in the first iteration, with the condition on n that the release lacks."""
        spikes, before, v = self.fire(currents, start)
        n = sum(spikes)
        residual = v if iteration == 0 else 0.5 + sum(currents) - n
        if residual < 0 and n > 0:
            return -max(1.0, min(m for m, s in zip(before, spikes) if s) - 1 + 1e-3)
        if residual >= 1 and n < len(currents):
            return max(1.0, 1 - max(m for m, s in zip(before, spikes) if not s) + 1e-3)
        return 0.0


@settings(deadline=None, max_examples=20)
@given(probing=st.integers(1, 6), steps=st.integers(1, 6), seed=st.integers(0, 9999))
def test_srp_is_the_published_procedure(probing, steps, seed):
    chain = Chain(seed)
    found = with_srp(convert_qcfs(chain.net, steps), probing)(chain.x)
    assert found.tolist() == [pytest.approx(chain.srp(image, probing, steps)) for image in chain.x.tolist()]


@settings(deadline=None, max_examples=30)
@given(probing=st.integers(1, 6), steps=st.integers(1, 6), iterations=st.integers(1, 3), seed=st.integers(0, 9999))
def test_cos_is_the_published_procedure(probing, steps, iterations, seed):
    """T below, at and above the probing steps."""
    chain = Chain(seed)
    found = with_cos(convert_qcfs(chain.net, steps), probing, iterations)(chain.x)
    assert found.tolist() == [pytest.approx(chain.cos(image, probing, steps, iterations)) for image in chain.x.tolist()]


def test_the_loops_are_no_empty_exercise():
    """In the networks above many neurons are shifted, both ways, by more than one threshold and more than once."""
    shifts = []
    for seed in range(10):
        chain = Chain(seed)
        for image in chain.x.tolist():
            first, last = (chain.starts(image, 4, iterations) for iterations in (1, 3))
            shifts += [(a - 0.5, b - a) for one, other in zip(first, last) for a, b in zip(one, other)]
    kinds = (
        lambda a, b: a > 1,
        lambda a, b: a < -1,
        lambda a, b: a == 1,
        lambda a, b: a == -1,
        lambda a, b: b != 0,
    )
    for kind in kinds:
        assert sum(kind(*shift) for shift in shifts) > 5


@settings(deadline=None, max_examples=12)
@given(steps=st.sampled_from([1, 2, 4, 8]), seed=st.integers(0, 9999))
def test_iterated_cos_is_the_quantised_network_ties_included(steps, seed):
    """Q = T = rho, a power of two, so that means over time are not rounded either."""
    chain = Chain(seed)
    for layer in chain.net:
        if isinstance(layer, QCFS):
            layer.levels = steps
    model = with_cos(convert_qcfs(chain.net, steps), steps, iterations=steps)
    with torch.no_grad():
        torch.testing.assert_close(model(chain.x), chain.net(chain.x), rtol=0, atol=1e-12)


# --- whole networks --------------------------------------------------------------------------------------------------


def neuron_runs(model: SpikingClassifier, x: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Currents and spikes ``[T, N, ...]`` of every neuron and the potential that is left, in thresholds."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def watch(node, x_seq, time_steps):
        spikes, v = multistep(x_seq, dynamics_of(node), slope_of(node.surrogate_function), time_steps=time_steps)
        seen.append((x_seq.expand(time_steps, *x_seq.shape[1:]), spikes, v))
        return spikes

    with torch.no_grad():
        model.run(model.encode(x), watch)
    return seen


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_count_identity_holds_for_every_neuron_of_a_real_network(steps, residual):
    """n > q iff v[T] < 0 and n > 0, n < q iff v[T] >= 1 and n < T; currents come from spikes of other neurons."""
    wrong = 0
    for x_seq, spikes, v in neuron_runs(convert_qcfs(residual, steps), images(10, 3, 8, 8)):
        n = spikes.sum(0)
        q = (x_seq.sum(0) + 0.5).floor().clamp(0, steps)
        assert torch.equal(n > q, (v < 0) & (n > 0))
        assert torch.equal(n < q, (v >= 1) & (n < steps))
        wrong += int((n != q).sum())
    assert (wrong > 100) == (steps > 1)


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_mean_outputs_are_mean_inputs_less_what_stays_in_the_potential(steps):
    """mean X[t] = W mean X_prev[t] + b - (v[T] - v[0]) / T, layer by layer."""
    chain = Chain(3)
    runs = neuron_runs(convert_qcfs(chain.net, steps), chain.x)
    means = [chain.x] + [theta * spikes.mean(0) for theta, (_, spikes, _) in zip(chain.thresholds, runs)]
    for number, (theta, (_, _, v)) in enumerate(zip(chain.thresholds, runs)):
        with torch.no_grad():
            driven = chain.net[2 * number](means[number])
        torch.testing.assert_close(means[number + 1], driven - theta * (v - 0.5) / steps)


@pytest.mark.parametrize("architecture", ["resnet20", "vgg9"])
@pytest.mark.parametrize("steps", [2, 4])
def test_exact_cos_gives_the_activations_of_deep_networks(architecture, steps):
    """Residual sums, projections, average pools and batch norm between the neurons; plain conversion is far away."""
    ann, x = quantised_ann(architecture, steps, width=0.125), images(6, 3, 8, 8, seed=1)
    snn = convert_qcfs(ann, steps)
    with torch.no_grad():
        torch.testing.assert_close(with_cos(snn, steps, iterations=steps)(x), ann(x))
        assert (snn(x) - ann(x)).abs().max() > 1e-3


def test_srp_silences_every_neuron_that_should_have_been_silent(residual):
    """Of those that fired with q = 0 in the probing steps none is left."""
    snn, x = convert_qcfs(residual, 4), images(10, 3, 8, 8)
    model = with_srp(snn, 4)
    masks = list(model._probe(model.encode(x)).values())
    over = 0
    for mask, (x_seq, spikes, _) in zip(masks, neuron_runs(snn, x)):
        fired_for_nothing = (spikes.sum(0) > 0) & ((x_seq.sum(0) + 0.5).floor() <= 0)
        assert not (mask * fired_for_nothing).any()
        over += int(fired_for_nothing.sum())
    assert over > 100


@pytest.mark.parametrize("name", CORRECT)
def test_folding_batch_norm_changes_nothing_that_matters(name):
    """Folded by PyTorch's own function: equal logits of the ANN, and, where no potential is on the threshold, of the SNN."""
    ann, x = quantised_ann("vgg9", 4, width=0.125), images(12, 3, 8, 8)
    folded = copy.deepcopy(ann)
    layers = list(folded.net)
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.BatchNorm2d):
            layers[i - 1 : i + 1] = [fuse_conv_bn_eval(layers[i - 1], layer), nn.Identity()]
    folded.net = nn.Sequential(*layers)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(x), ann(x))
        torch.testing.assert_close(folded.float()(x.float()).double(), ann(x), rtol=1e-3, atol=1e-3)
        before, after = (CORRECT[name](convert_qcfs(net.double(), 6)) for net in (ann, folded.double()))
        close = torch.isclose(after(x), before(x), rtol=1e-3, atol=1e-3).all(1)
    assert close.double().mean() > 0.8, "rounding may move a spike"


@pytest.mark.parametrize("name", CORRECT)
def test_accuracy_at_t_is_that_of_a_separate_run_in_any_batches(name, residual):
    """The last batch is short, one run is broken off before, and no state is left by either."""
    x, labels = images(11, 3, 8, 8), torch.arange(11) % 5
    model = CORRECT[name](convert_qcfs(residual, 7))
    alone = {steps: CORRECT[name](convert_qcfs(residual, steps))(x) for steps in (1, 2, 7)}
    calls = []

    def breaks_off(node, x_seq, time_steps):
        calls.append(node)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return own_step(node, x_seq, time_steps)

    for batch_size in (11, 4):
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            model.run(model.encode(x[:3]), breaks_off)
        found = accuracy_over_time(model, x, labels, list(alone), batch_size)
        assert [at.correct for at in found] == [int((out.argmax(1) == labels).sum()) for out in alone.values()]
        logits = torch.cat([model.logits_over_time(some) for some in x.split(batch_size)], 1)
        for steps, expected in alone.items():
            torch.testing.assert_close(logits[steps - 1], expected)


# --- the activation --------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(
    position=st.integers(-300, 600),
    bound=st.sampled_from([Fraction(1, 4), Fraction(1), Fraction(3, 2), Fraction(5)]),
    levels=st.sampled_from([1, 2, 3, 4, 8, 16]),
    clip_first=st.booleans(),
)
def test_qcfs_gradients_are_those_of_the_formula(position, bound, levels, clip_first):
    """Both orders of floor and clip, in exact fractions of the bound; many positions lie on a boundary."""
    share = Fraction(position, 96 if levels == 3 else 128)
    h = min(max(Fraction(math.floor(share * levels + Fraction(1, 2)), levels), Fraction(0)), Fraction(1))
    half = Fraction(0) if clip_first else Fraction(1, 2 * levels)
    inside = -half <= share <= 1 if clip_first else -half <= share < 1 + half
    expected = (float(inside), float(h - share if inside else h))
    layer = QCFS(levels, float(bound), clip_first).double()
    z = torch.tensor(float(share * bound), dtype=torch.float64, requires_grad=True)
    if Fraction(z.item()) / bound != share:
        return  # the position has no binary representation
    value = layer(z)
    assert value.item() == pytest.approx(float(h * bound), abs=1e-15)
    found = torch.autograd.grad(value, (z, layer.bound))
    assert [gradient.item() for gradient in found] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8])
def test_half_charged_neurons_make_no_error_on_average(steps):
    """Currents spread evenly over [0, threshold]: mean error (v_init - 1/2) / T; its square is least at 1/2, 1 / 12 T^2."""
    points = 4800
    currents = ((torch.arange(points, dtype=torch.float64) + 0.5) / points)[None]
    error = {}
    for v_init in (0.0, 0.25, 0.5, 0.75):
        sent = SpikingClassifier(nn.Sequential(ScaledIF(1.0, v_init)), steps)(currents)
        error[v_init] = (sent - currents)[0]
        assert error[v_init].mean().item() == pytest.approx(expected_mean(steps, v_init), abs=1e-9)
    squares = {v_init: each.square().mean().item() for v_init, each in error.items()}
    assert squares[0.5] == pytest.approx(1 / (12 * steps**2), rel=1e-4)
    assert all(squares[v_init] > squares[0.5] for v_init in (0.0, 0.25, 0.75))


def expected_mean(steps: int, v_init: float) -> float:
    """Mean of ``clip(floor(zT + v_init), 0, T) / T - z``: the bins are wide 1/T but the first, (1 - v_init)/T, and last."""
    edges = [0.0] + [(k - v_init) / steps for k in range(1, steps + 1)] + [1.0]
    return sum(k / steps * (b - a) for k, (a, b) in enumerate(itertools.pairwise(edges))) - 0.5
