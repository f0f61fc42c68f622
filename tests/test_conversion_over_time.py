"""Accuracy and latency of converted networks over time, on real digits."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustsnn.classifier import SpikingClassifier
from robustsnn.conversion import accuracy_over_time, convert_opi, convert_qcfs, latency
from robustsnn.datasets import load
from robustsnn.errors import RobustSNNError
from robustsnn.models import ActivationSpec, ModelSpec
from robustsnn.neurons import IF, QCFS

STEPS = [1, 2, 4, 8, 16, 64]


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return (model(images).argmax(1) == labels).double().mean().item()


def train(activation: str, images: Tensor, labels: Tensor, epochs: int = 10, batch: int = 64) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        spec = ModelSpec(
            neuron=ActivationSpec(kind=activation, levels=8, bound=4.0), image_shape=(1, 8, 8), num_classes=10
        )
        ann = spec.build()
        optimizer = torch.optim.Adam(ann.parameters())
        steps = epochs * -(-len(images) // batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
        for _ in range(epochs):
            for index in torch.randperm(len(images)).split(batch):
                optimizer.zero_grad()
                F.cross_entropy(ann(images[index]), labels[index]).backward()
                optimizer.step()
                schedule.step()
    return ann.eval()


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def held_out(digits):
    return digits.test.batch(slice(None))


@pytest.fixture(scope="module")
def quantised(digits):
    return train("qcfs", *digits.train.batch(slice(None)))


@pytest.fixture(scope="module")
def rectified(digits):
    return train("relu", *digits.train.batch(slice(None)))


def curve(model, held_out, steps=STEPS) -> dict[int, float]:
    return {at.time_steps: at.accuracy for at in accuracy_over_time(model, *held_out, steps)}


def test_qcfs_network_keeps_its_accuracy(quantised, held_out):
    ann = accuracy(quantised, *held_out)
    assert ann >= 0.95
    half = curve(convert_qcfs(quantised, 8), held_out)
    assert half[8] >= ann - 0.03
    assert abs(half[64] - ann) <= 0.01
    assert half[4] - curve(convert_qcfs(quantised, 8, v_init=0.0), held_out)[4] > 0.1, "what half a threshold is for"


def test_relu_network_keeps_its_accuracy(rectified, digits, held_out):
    ann = accuracy(rectified, *held_out)
    assert ann >= 0.95
    calibration = digits.train.batch(slice(None))[0]
    half = curve(convert_opi(rectified, calibration, 8), held_out)
    assert half[8] >= ann - 0.03
    assert abs(half[64] - ann) <= 0.01
    assert half[4] - curve(convert_opi(rectified, calibration, 8, v_init=0.0), held_out)[4] > 0.1


def test_logits_tend_to_those_of_the_clipped_network(quantised, held_out):
    clipped = copy.deepcopy(quantised)
    for module in clipped.modules():
        if isinstance(module, QCFS):
            module.levels = 1 << 20
    with torch.no_grad():
        images = held_out[0][:100]
        target = clipped(images)
        errors = [(convert_qcfs(quantised, steps)(images) - target).abs().mean() for steps in (4, 16, 64)]
    assert errors[0] / 3 > errors[1] > 3 * errors[2]


def test_accuracy_at_t_is_that_of_a_separate_run(quantised, held_out):
    """Any order and batch size; the model's own T does not matter and stays."""
    images, labels = held_out[0].double(), held_out[1]
    ann = copy.deepcopy(quantised).double()
    model = convert_qcfs(ann, 3)
    found = accuracy_over_time(model, images, labels, [8, 1, 3, 1], batch_size=77)
    assert [at.time_steps for at in found] == [8, 1, 3, 1]
    assert [at.n for at in found] == [len(labels)] * 4
    assert model.time_steps == 3
    for at in found:
        alone = convert_qcfs(ann, at.time_steps)
        assert at.accuracy == accuracy(alone, images, labels)
        torch.testing.assert_close(convert_qcfs(ann, 8).logits_over_time(images)[at.time_steps - 1], alone(images))


def test_latency_is_per_image_and_leaves_the_model_alone(quantised, held_out):
    model = convert_qcfs(quantised, 3)
    found = latency(model, held_out[0][:50], [32, 1], repeats=3)
    assert [(at.time_steps, at.batch_size, at.repeats) for at in found] == [(32, 50, 3), (1, 50, 3)]
    assert all(0 < at.fastest <= at.ms_per_image <= at.slowest for at in found)
    assert found[0].fastest > found[1].fastest
    assert model.time_steps == 3


def test_latency_times_forward_passes_one_by_one(monkeypatch, held_out):
    """With a clock that counts steps of the model, the time of T steps of a batch of 10 is T / 10."""

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.steps, self.neuron = [0], IF()

        def forward(self, x):
            x = self.neuron(x)
            self.steps[0] += len(x) // 10
            return x

    net = Counting()
    monkeypatch.setattr("robustsnn.conversion.over_time.time.perf_counter", lambda: net.steps[0] / 1000)
    found = latency(SpikingClassifier(net, 2).eval(), held_out[0][:10].flatten(1), [5, 1, 7], repeats=2)
    assert [at.ms_per_image for at in found] == pytest.approx([0.5, 0.1, 0.7])
    assert net.steps == [3 * (5 + 1 + 7)], "one warm-up and two timed runs of each"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, y: accuracy_over_time(m, x, y, []), "whole numbers of at least 1"),
        (lambda m, x, y: accuracy_over_time(m, x, y, [4, 0]), r"got \[4, 0\]"),
        (lambda m, x, y: accuracy_over_time(m, x[:0], y[:0], [4]), "no images"),
        (lambda m, x, y: accuracy_over_time(m, x, y[:-1], [4]), "one label an image"),
        (lambda m, x, y: accuracy_over_time(m, x, y, [4], batch_size=0), "batch_size"),
        (lambda m, x, y: accuracy_over_time(copy.deepcopy(m).train(), x, y, [4]), "training mode"),
        (lambda m, x, y: latency(m, x, [1], repeats=0), "repeats"),
        (lambda m, x, y: latency(m, x, [1.5]), "whole numbers"),
    ],
)
def test_misuse_is_explained(call, message, quantised, held_out):
    with pytest.raises(RobustSNNError, match=message):
        call(convert_qcfs(quantised, 4), *held_out)
