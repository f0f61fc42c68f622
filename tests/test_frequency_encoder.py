"""Frequency coding: every step against numpy's transform written out, its gradient against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.encoding import FrequencyEncoder, build_encoder, half_width
from robustsnn.errors import RobustSNNError
from robustsnn.neurons import IF

SHAPES = [((32, 32), 8), ((28, 28), 4), ((8, 8), 8), ((7, 10), 3), ((5, 5), 6), ((8, 8), 1)]


def images(*shape, dtype=torch.float64):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def written_out(image: np.ndarray, halves: tuple[int, int]) -> np.ndarray:
    """``abs(IFFT)`` of the centred spectrum within ``centre - half <= index < centre + half``."""
    spectrum = np.fft.fftshift(np.fft.fft2(image), axes=(-2, -1))
    kept = np.zeros_like(spectrum)
    rows, columns = (slice(max(n // 2 - half, 0), n // 2 + half) for n, half in zip(image.shape[-2:], halves))
    kept[..., rows, columns] = spectrum[..., rows, columns]
    return np.abs(np.fft.ifft2(np.fft.ifftshift(kept, axes=(-2, -1))))


@pytest.mark.parametrize(("size", "steps"), SHAPES)
def test_frames_are_those_of_numpy(size, steps):
    x = images(2, 3, *size)
    frames = FrequencyEncoder()(x, steps)
    assert frames.shape == (steps, 2, 3, *size)
    assert torch.equal(frames[0], x)
    for t in range(steps):
        halves = tuple(int(np.ceil(n / 2 * (steps - t) / steps - 1e-9)) for n in size)
        np.testing.assert_allclose(frames[t].numpy(), written_out(x.numpy(), halves), atol=1e-12)


def test_published_windows():
    assert [half_width(32, t, 8) for t in range(8)] == [16, 14, 12, 10, 8, 6, 4, 2]
    assert [half_width(28, t, 4) for t in range(4)] == [14, 11, 7, 4]
    assert [half_width(7, t, 3) for t in range(3)] == [4, 3, 2]


def test_later_steps_show_less():
    """A wave of 10 periods is seen while the window holds its frequency and its partner, then half of it, then nothing."""
    wave = 0.5 + 0.4 * torch.cos(2 * torch.pi * 10 * torch.arange(32, dtype=torch.float64) / 32)
    frames = FrequencyEncoder()(wave.expand(1, 1, 32, 32), 8)[:, 0, 0]
    assert torch.allclose(frames[:3], wave.expand(3, 32, 32))
    assert not torch.allclose(frames[3], wave.expand(32, 32))  # -10 <= k < 10: without the partner +10
    assert torch.allclose(frames[4:], torch.full((4, 32, 32), 0.5, dtype=torch.float64))


def test_gradient_is_that_of_finite_differences():
    x = images(1, 1, 6, 6).requires_grad_()
    encoder, weight = FrequencyEncoder(), images(3, 1, 1, 6, 6) - 0.4
    (found,) = torch.autograd.grad((weight * encoder(x, 3)).sum(), x)
    h, expected = 1e-6, torch.zeros_like(found)
    for index in np.ndindex(6, 6):
        d = torch.zeros_like(x)
        d[0, 0][index] = h
        with torch.no_grad():
            change = (weight * (encoder(x + d, 3) - encoder(x - d, 3))).sum() / (2 * h)
        expected[0, 0][index] = change
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_black_pixels_have_the_gradient_of_the_image_in_the_first_step():
    x = torch.zeros(1, 1, 8, 8)
    x[..., 2:4, 2:4] = 1
    x.requires_grad_()
    (found,) = torch.autograd.grad(FrequencyEncoder()(x, 4)[0].sum(), x)
    assert torch.equal(found, torch.ones_like(x))
    (found,) = torch.autograd.grad(FrequencyEncoder()(torch.zeros_like(x) * x, 4).sum(), x)
    assert found.isfinite().all()


def test_by_name_in_a_model_normalised_after_the_transform():
    encoder = build_encoder("frequency")
    assert not encoder.static
    assert not encoder.stochastic
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), IF(), nn.Linear(20, 3))
    with torch.no_grad():
        net[1].weight.mul_(4)
    model = SpikingClassifier(net, 4, encoder="frequency", normalize=((0.4,), (0.2,)))
    x = images(3, 1, 8, 8, dtype=torch.float32).requires_grad_()
    frames = model.encode(x)
    torch.testing.assert_close(frames, (FrequencyEncoder()(x, 4) - 0.4) / 0.2)
    logits = model(x)
    torch.testing.assert_close(logits.detach(), model.reference(x))
    assert logits.std() > 0.1
    (grad,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor([0, 1, 2])), x)
    assert grad.abs().sum() > 0
    assert not model.stochastic


def test_vectors_are_refused():
    with pytest.raises(RobustSNNError, match="frequency coding needs images"):
        FrequencyEncoder()(torch.rand(2, 5), 3)
