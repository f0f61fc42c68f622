"""SR on small spiking networks: against a reference written out in double precision, and against SpikingJelly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import surrogate
from torch import Tensor, nn

from robustsnn import SpikingClassifier
from robustsnn.defenses import SR, Batch
from robustsnn.neurons import IF, LIF

N, T = 6, 5
IMAGES = torch.rand(N, 2, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


class Spike(torch.autograd.Function):
    """1 from 0 on; backward by a triangle of height 1 and half-width 1 or by 1 / (1 + (pi u)^2)."""

    @staticmethod
    def forward(ctx, u, shape):
        ctx.save_for_backward(u)
        ctx.shape = shape
        return torch.where(u >= 0, 1.0, 0.0).to(u.dtype)

    @staticmethod
    def backward(ctx, grad):
        (u,) = ctx.saved_tensors
        slope = (1 - u.abs()).clamp(min=0) if ctx.shape == "triangle" else 1 / (1 + (torch.pi * u) ** 2)
        return grad * slope, None


@dataclass(frozen=True)
class Neuron:
    """One kind of neuron, said twice: as a module, and as numbers for the reference."""

    module: partial
    leak: float
    gain: float
    soft: bool
    cut: bool
    shape: str

    def over_time(self, currents: list[Tensor]) -> list[Tensor]:
        v: Tensor | float = 0.0
        spikes = []
        for x in currents:
            m = self.leak * v + self.gain * x
            s = Spike.apply(m - 1.0, self.shape)
            spikes.append(s)
            r = s.detach() if self.cut else s
            v = m - r if self.soft else m * (1 - r)
        return spikes


NEURONS = {
    "LIF, ATan": Neuron(partial(LIF, 2.0, surrogate_function=surrogate.ATan(2.0)), 0.5, 0.5, False, False, "atan"),
    "IF, triangle": Neuron(
        partial(IF, surrogate_function=surrogate.PiecewiseQuadratic(1.0)), 1, 1, False, False, "triangle"
    ),
    "LIF, soft reset, cut": Neuron(
        partial(LIF, 4.0, False, 1.0, None, surrogate.PiecewiseQuadratic(1.0), True), 0.75, 1, True, True, "triangle"
    ),
}


def network(neuron: Neuron) -> SpikingClassifier:
    """Convolution, norm, neurons, pool, convolution, norm, neurons, linear, neurons, linear; every layer active."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        net = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            neuron.module(),
            nn.AvgPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6, momentum=0.3),
            neuron.module(),
            nn.Flatten(),
            nn.Linear(96, 12),
            neuron.module(),
            nn.Linear(12, 4),
        ).double()
        for norm in (net[1], net[5]):
            nn.init.uniform_(norm.weight, 0.7, 1.5)
            nn.init.uniform_(norm.bias, 0.4, 1.0)
            norm.running_mean.uniform_(-0.3, 0.3)
            norm.running_var.uniform_(0.5, 1.5)
        nn.init.normal_(net[8].weight, std=0.3)
        nn.init.uniform_(net[8].bias, 0.3, 0.9)
    return SpikingClassifier(net, T)


class Reference:
    """The same network as a plain loop over time, with batch norm written out; weights by name as in the model."""

    def __init__(self, model: SpikingClassifier, neuron: Neuron) -> None:
        self.weights = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
        self.statistics = {name: b.clone() for name, b in model.named_buffers() if "running" in name}
        self.training = model.training
        self.neuron = neuron
        self.rates: list[float] = []

    def logits(self, images: Tensor) -> Tensor:
        w = self.weights
        x = [F.conv2d(images, w["net.0.weight"], w["net.0.bias"], padding=1) for _ in range(T)]
        x = self._spikes(self._norm(x, "net.1", 0.1))
        x = [(s[..., ::2, ::2] + s[..., 1::2, ::2] + s[..., ::2, 1::2] + s[..., 1::2, 1::2]) / 4 for s in x]
        x = self._norm([F.conv2d(s, w["net.4.weight"], padding=1) for s in x], "net.5", 0.3)
        x = self._spikes(x)
        x = self._spikes([s.reshape(N, 96) @ w["net.8.weight"].T + w["net.8.bias"] for s in x])
        return sum(s @ w["net.10.weight"].T + w["net.10.bias"] for s in x) / T

    def _spikes(self, x: list[Tensor]) -> list[Tensor]:
        spikes = self.neuron.over_time(x)
        self.rates.append(torch.stack(spikes).mean().item())
        return spikes

    def _norm(self, x: list[Tensor], name: str, momentum: float) -> list[Tensor]:
        mean, variance = (self.statistics[f"{name}.running_{what}"] for what in ("mean", "var"))
        if self.training:
            values = torch.stack(x).transpose(0, 2).flatten(1)
            now = (values.mean(1), ((values - values.mean(1, keepdim=True)) ** 2).mean(1))
            n = values.shape[1]
            self.statistics[f"{name}.running_mean"] = (1 - momentum) * mean + momentum * now[0].detach()
            self.statistics[f"{name}.running_var"] = (1 - momentum) * variance + momentum * now[1].detach() * n / (
                n - 1
            )
            mean, variance = now
        gain, shift = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        scaled = [(s - mean[:, None, None]) / torch.sqrt(variance[:, None, None] + 1e-5) for s in x]
        return [s * gain[:, None, None] + shift[:, None, None] for s in scaled]


def confidences(z: Tensor, rivals: list[int]) -> Tensor:
    """exp z_y / (exp z_y + exp z_j) of each sample, ``[N]``."""
    e = torch.exp(z)
    return torch.stack([e[i, y] / (e[i, y] + e[i, j]) for i, (y, j) in enumerate(zip(LABELS, rivals))])


def passes_of(model: SpikingClassifier) -> tuple[list[Tensor], list[Tensor]]:
    """Fills with the images and the logits of every call of the model from now on."""
    images: list[Tensor] = []
    logits: list[Tensor] = []
    model.register_forward_hook(
        lambda _model, args, out: (images.append(args[0].detach()), logits.append(out.detach()))[0]
    )
    return images, logits


def statistics_of(model: nn.Module) -> list[Tensor]:
    """The running means and variances of its batch norms."""
    return [buffer for name, buffer in model.named_buffers() if "running" in name]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("norm", "h"), [("l1", 0.05), ("l2", 0.5)])  # wide enough for most samples to spike otherwise
@pytest.mark.parametrize("kind", NEURONS)
def test_sr_is_the_reference(kind, norm, h, training):
    """Direction, both confidences, the penalty, its gradient at every weight, and the running statistics."""
    neuron = NEURONS[kind]
    model = network(neuron).train(training)
    reference = Reference(model, neuron)
    images, logits = passes_of(model)
    batch = Batch(model, IMAGES.clone().requires_grad_(), LABELS)
    penalty = SR(lam=1.0, h=h, norm=norm).penalty(batch)["sr"]
    found = dict(zip(reference.weights, torch.autograd.grad(penalty, list(model.parameters()))))

    leaf = IMAGES.clone().requires_grad_()
    z1 = reference.logits(leaf)
    rivals = [max((j for j in range(4) if j != y), key=lambda j: row[j].item()) for row, y in zip(z1, LABELS)]
    f1 = confidences(z1, rivals)
    if training:  # batch norm lets every image into every confidence: the algorithm differentiates their sum
        (gradient,) = torch.autograd.grad(f1.sum(), leaf, retain_graph=True)
    else:
        gradient = torch.stack([torch.autograd.grad(f1[i], leaf, retain_graph=True)[0][i] for i in range(N)])
    d = torch.sign(gradient) if norm == "l1" else gradient / (gradient**2).sum((1, 2, 3), keepdim=True).sqrt()
    f2 = confidences(reference.logits(IMAGES + h * d), rivals)
    assert all(0.02 < rate < 0.98 for rate in reference.rates)
    assert (f1 != f2).sum() > N // 2

    assert len(images) == 2
    torch.testing.assert_close((images[1] - IMAGES) / h, d, rtol=1e-9, atol=1e-11)
    for out, expected in zip(logits, (f1, f2)):
        torch.testing.assert_close(confidences(out, rivals), expected.detach(), rtol=1e-11, atol=0)
    assert penalty.item() == pytest.approx(sum(((b - a) / h).item() ** 2 for a, b in zip(f1, f2)) / N, rel=1e-9)

    slope = (2 / h**2 * (f2 - f1) / N).detach()
    weights = list(reference.weights.values())
    through_first = torch.autograd.grad((slope * f1).sum(), weights)
    through_second = torch.autograd.grad((slope * f2).sum(), weights)
    scale = max(g.abs().max().item() for g in through_second)
    for name, first, second in zip(reference.weights, through_first, through_second):
        torch.testing.assert_close(
            found[name], second - first, rtol=1e-7, atol=1e-10 * scale, msg=lambda m, n=name: f"{n}: {m}"
        )
    for value, expected in zip(statistics_of(model), reference.statistics.values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-13)


@pytest.fixture(scope="module")
def straightforward() -> ModuleType:
    """The benchmark's straightforward implementation on SpikingJelly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
        return pytest.importorskip("sr_step")


@pytest.mark.parametrize("node", ["LIF, ATan", "IF, triangle"])
@pytest.mark.parametrize("plan", ["small VGG", "VGG-11 / 4"])
def test_sr_is_the_straightforward_one_on_spikingjelly(straightforward, plan, node):
    loss, gradient = straightforward.difference("sr", plan, node, torch.float64, n=3)
    assert loss < 1e-12
    assert gradient < 1e-9


@pytest.mark.parametrize("name", ["at", "plain"])
def test_other_steps_are_the_straightforward_ones_too(straightforward, name):
    loss, gradient = straightforward.difference(name, "small VGG", "LIF, ATan", torch.float64, n=2)
    assert loss < 1e-12
    assert gradient < 1e-9


def test_losses_stay_equal_over_steps_of_the_optimiser(straightforward):
    models = [model.double() for model in straightforward.pair("small VGG", "LIF, ATan")]
    images, labels = straightforward.batch(3)
    theirs, ours = straightforward.steps("sr", *models).values()
    expected = [theirs(images.double(), labels) for _ in range(3)]
    assert [ours(images.double(), labels) for _ in range(3)] == pytest.approx(expected, rel=1e-9)
    assert len(set(expected)) == 3
    for value, other in zip(*map(statistics_of, models), strict=True):
        torch.testing.assert_close(other, value, rtol=1e-9, atol=1e-11)
