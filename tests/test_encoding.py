"""Encoders: what the network sees at each step, from which random numbers, and what passes backwards."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.encoding import DirectEncoder, Encoder, PoissonEncoder, build_encoder
from robustsnn.errors import RobustSNNError
from robustsnn.neurons import IF


@pytest.mark.usefixtures("rng_untouched")
class TestPoisson:
    def test_rate_is_the_pixel(self):
        """Within five standard errors of 40,000 draws per level; always at 1."""
        levels = torch.tensor([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
        frames = PoissonEncoder(3)(levels.expand(100, 6), 400)
        assert frames.shape == (400, 100, 6)
        assert set(frames.unique().tolist()) == {0.0, 1.0}
        rates = frames.mean((0, 1))
        assert ((rates - levels).abs() <= 5 * (levels * (1 - levels) / 40_000).sqrt() + 1e-4).all(), rates
        assert rates[-1] == 1

    def test_draws_are_independent_over_steps_and_samples(self):
        frames = PoissonEncoder(0)(torch.full((50, 40), 0.5), 60)
        for a, b in ((frames[1:], frames[:-1]), (frames[:, 1:], frames[:, :-1]), (frames[..., 1:], frames[..., :-1])):
            agreement = (a == b).float().mean()
            assert abs(agreement - 0.5) < 5 * 0.5 / a.numel() ** 0.5

    def test_gradient_is_one_per_step(self):
        images = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
        frames = PoissonEncoder()(images, 5)
        for t in range(5):
            (grad,) = torch.autograd.grad(frames[t].sum(), images, retain_graph=True)
            assert torch.equal(grad, torch.ones_like(images))
        weights = torch.arange(5.0).view(5, 1, 1, 1, 1)
        (grad,) = torch.autograd.grad((weights * frames).sum(), images)
        assert torch.equal(grad, torch.full_like(images, 10.0))

    def test_fresh_draws_every_call_and_again_after_reseeding(self):
        encoder, images = PoissonEncoder(7), torch.full((4, 9), 0.5)
        first, second = encoder(images, 6), encoder(images, 6)
        assert not torch.equal(first, second)
        encoder.reseed(7)
        assert torch.equal(encoder(images, 6), first)
        assert torch.equal(encoder(images, 6), second)
        assert torch.equal(PoissonEncoder(7)(images, 6), first)
        assert not torch.equal(PoissonEncoder(8)(images, 6), first)
        assert encoder.seed == 7
        encoder.reseed(8)
        assert encoder.seed == 8
        assert torch.equal(encoder(images, 6), PoissonEncoder(8)(images, 6))

    def test_keeps_dtype(self):
        assert (
            PoissonEncoder()(torch.rand(1, 2, dtype=torch.float64, generator=torch.Generator()), 2).dtype
            == torch.float64
        )

    def test_copies_go_on_from_the_same_draw(self):
        encoder, images = PoissonEncoder(1), torch.full((4, 9), 0.5)
        encoder(images, 3)
        copies = copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))
        expected = encoder(images, 3)
        for twin in copies:
            assert torch.equal(twin(images, 3), expected)

    def test_classifier_uses_no_global_random_numbers(self):
        model = SpikingClassifier(nn.Sequential(nn.Flatten(), IF()), 4, "poisson").eval()
        images = torch.full((2, 1, 3, 3), 0.5)
        assert model.stochastic
        logits = model(images)
        assert not torch.equal(model(images), logits)
        model.encoder.reseed(0)
        assert torch.equal(model(images), logits)


class TestDirect:
    def test_is_the_image(self):
        images = torch.rand(2, 3)
        encoder = DirectEncoder()
        assert encoder(images, 5) is images
        assert encoder.static
        assert not encoder.stochastic
        encoder.reseed(1)


class TestBuild:
    def test_by_name_or_given(self):
        assert isinstance(build_encoder("direct"), DirectEncoder)
        assert isinstance(build_encoder("poisson"), PoissonEncoder)
        encoder = PoissonEncoder(5)
        assert build_encoder(encoder) is encoder

    def test_unknown_name(self):
        with pytest.raises(RobustSNNError, match=r"unknown encoder 'poison'. Did you mean 'poisson'\?"):
            build_encoder("poison")

    def test_base_class_encodes_nothing(self):
        with pytest.raises(NotImplementedError):
            Encoder()(torch.rand(1, 1), 2)
