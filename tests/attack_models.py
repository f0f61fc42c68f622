"""Models to attack and instruments around them: closed forms, wrappers that count, record or fail, trained networks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from robustsnn.attacks import APGD, FGSM, PGD, RFGSM, GaussianNoise, ImageAttack, SignNoise, UniformNoise
from robustsnn.datasets import load
from robustsnn.models import ActivationSpec, ModelSpec, NeuronSpec

NORMS = ("Linf", "L2")
NOISES: dict[str, Callable[..., ImageAttack]] = {
    "uniform": UniformNoise,
    "sign": SignNoise,
    "gaussian": GaussianNoise,
}
GRADIENT: dict[str, Callable[..., ImageAttack]] = {
    "fgsm": FGSM,
    "rfgsm": RFGSM,
    "bim": functools.partial(PGD, steps=4, random_start=False),
    "pgd": functools.partial(PGD, steps=4),
    "apgd": functools.partial(APGD, steps=6),
}
EVERY = NOISES | GRADIENT


def fooled(model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images).argmax(1) != labels


def distance(a: Tensor, b: Tensor, norm: str) -> Tensor:
    delta = (a.double() - b.double()).flatten(1)
    return delta.abs().amax(1) if norm == "Linf" else delta.pow(2).sum(1).sqrt()


def dual(w: Tensor, norm: str) -> float:
    return float(w.abs().sum() if norm == "Linf" else w.pow(2).sum().sqrt())


class Linear(nn.Module):
    """Logits ``(f, -f)``, ``f = w (x - 1/2)``, and ``dead`` classes that never win; distance ``|f| / |w|_dual``."""

    def __init__(self, w: Tensor, dead: int = 0) -> None:
        super().__init__()
        self.w = nn.Parameter(w)
        self.dead = dead

    def forward(self, x: Tensor) -> Tensor:
        f = ((x - 0.5) * self.w).flatten(1).sum(1)
        return torch.stack([f, -f] + [torch.full_like(f, -50.0)] * self.dead, 1)


class LastStep(nn.Module):
    """Logits ``(0, -w (x - 1/2) - 0.8 eps |w|_dual, -9, -9)``: class 1 wins from 0.8 ``eps`` on, and no sooner."""

    def __init__(self, w: Tensor, eps: float, norm: str) -> None:
        super().__init__()
        self.w = nn.Parameter(w)
        self.offset = 0.8 * eps * dual(w, norm)

    def forward(self, x: Tensor) -> Tensor:
        f = -((x - 0.5) * self.w).flatten(1).sum(1) - self.offset
        return torch.stack([torch.zeros_like(f), f, torch.full_like(f, -9.0), torch.full_like(f, -9.0)], 1)


class Smooth(nn.Module):
    """A random two-layer network with tanh, in double precision, for images of any shape with ``pixels`` pixels."""

    def __init__(self, pixels: int = 16, classes: int = 4, seed: int = 0, gain: float = 3.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64) / shape[0] ** 0.5)

        self.first, self.second, self.gain = weight(pixels, 24), weight(24, classes), gain

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.gain * (x.flatten(1) - 0.5) @ self.first)
        return self.gain * hidden @ self.second


class Decoy(nn.Module):
    """Points of high loss that do not fool, beside points of lower loss that do: 28 losing classes make up the loss.

    Class 0 has logit 0, class 1 wins in places, classes 2 to 29 come close together and never win.
    """

    def __init__(self, pixels: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.waves = nn.Parameter(30 * torch.randn(pixels, 2, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        winning, crowd = torch.cos(x.flatten(1) @ self.waves).unbind(1)
        winning, crowd = 0.75 * winning - 0.25, 1.45 * crowd - 1.55
        return torch.stack([torch.zeros_like(crowd), winning, *[crowd] * 28], 1)


class Wrapper(nn.Module):
    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model


class OneByOne(Wrapper):
    """Forward and backward of a sample never depend, in any bit, on its batch mates."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.model(sample) for sample in x.split(1)])


class Counting(Wrapper):
    """Counts calls and samples."""

    calls = 0
    samples = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.samples += len(x)
        return self.model(x)


class Recording(Wrapper):
    """Keeps a copy of every batch the model is asked about, and its answers."""

    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        super().__init__(model)
        self.seen: list[Tensor] = []
        self.answers: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        z = self.model(x)
        self.seen.append(x.detach().clone())
        self.answers.append(z.detach().argmax(1))
        return z


class Raising(Wrapper):
    """Raises at the n-th call."""

    def __init__(self, model: Callable[[Tensor], Tensor], at: int) -> None:
        super().__init__(model)
        self.left = at

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if not self.left:
            raise ArithmeticError("the model gave up")
        return self.model(x)


def random_images(count: int, *shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def digits(count: int, offset: int = 0) -> tuple[Tensor, Tensor]:
    test = load("digits").test
    return test.images[offset : offset + count], test.labels[offset : offset + count]


def _trained(spec: ModelSpec, epochs: int) -> nn.Module:
    train = load("digits").train
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = spec.build()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    order = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(train.images), generator=order).split(96):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(train.images[rows]), train.labels[rows]).backward()
            optimizer.step()
    optimizer.zero_grad()
    return model.eval()


def _spec(neuron: Any) -> ModelSpec:
    options = {"width": 8, "hidden": 32}
    return ModelSpec(options=options, neuron=neuron, time_steps=4, image_shape=(1, 8, 8), num_classes=10)


@functools.cache
def trained_snn() -> Any:
    """A spiking network, about 95 % right on digits; shared, so leave it as it is."""
    return _trained(_spec(NeuronSpec()), epochs=6)


@functools.cache
def trained_cnn() -> Any:
    """The same network with ReLU; shared, so leave it as it is."""
    return _trained(_spec(ActivationSpec(kind="relu")), epochs=4)
