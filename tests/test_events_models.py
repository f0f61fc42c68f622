"""Networks on frames of events: the time axis of the input is that of the network, for logits, gradients and training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from realdata import real_data
from torch import nn

from robustsnn import gradients
from robustsnn.classifier import SpikingClassifier
from robustsnn.datasets.digits_events import load_digits_events
from robustsnn.datasets.nmnist import load_nmnist
from robustsnn.defenses import CrossEntropy, TrainConfig, train
from robustsnn.encoding import FrameEncoder, build_encoder
from robustsnn.errors import RobustSNNError
from robustsnn.events import Windows, at_events, to_frames
from robustsnn.models import NeuronSpec, build_network
from robustsnn.neurons import LIF

T = 5


def frames(n: int = 3, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Counts 0 to 3 at random."""
    return torch.randint(4, (n, T, 2, 8, 8), generator=torch.Generator().manual_seed(0)).to(dtype)


class TestFrameEncoder:
    def test_turns_the_first_two_axes(self):
        x = frames()
        encoded = build_encoder("frames")(x, T)
        assert encoded.shape == (T, 3, 2, 8, 8)
        assert all(torch.equal(encoded[t, n], x[n, t]) for t in range(T) for n in range(3))

    def test_wrong_input(self):
        for bad in (frames()[:, :4], frames()[:, 0, 0, 0], torch.zeros(2, T)):
            with pytest.raises(RobustSNNError, match=r"expected frames \[N, T, C, H, W\] with T = 5"):
                FrameEncoder()(bad, T)

    def test_equal_frames_are_direct_coding(self, make_model):
        """And the gradient of the image is the sum of those of its T copies."""
        direct = make_model(time_steps=T)
        over_time = SpikingClassifier(direct.net, T, "frames").eval()
        image = torch.rand(3, 2, 8, 8, dtype=torch.float64).requires_grad_()
        copies = image.detach()[:, None].expand(-1, T, -1, -1, -1).clone().requires_grad_()
        assert torch.allclose(direct(image), over_time(copies), atol=1e-12)
        weights = torch.randn(3, 5, dtype=torch.float64)
        (g,) = torch.autograd.grad((weights * direct(image)).sum(), image)
        (h,) = torch.autograd.grad((weights * over_time(copies)).sum(), copies)
        assert g.abs().max() > 0
        assert torch.allclose(h.sum(1), g, atol=1e-12)
        assert not torch.allclose(h[:, 0], h[:, 1])

    def test_against_a_loop_by_hand(self):
        """LIF with tau 2: v = v + (x - v) / 2, spike at 1, reset to 0; the mean of the spikes over T."""
        x = 2 * frames()
        model = SpikingClassifier(nn.Sequential(LIF(tau=2.0), nn.Flatten()), T, "frames").double().eval()
        v, spikes = torch.zeros(3, 2, 8, 8, dtype=torch.float64), torch.zeros(3, 128, dtype=torch.float64)
        for t in range(T):
            v = v + (x[:, t] - v) / 2
            fired = (v >= 1).double()
            spikes += fired.flatten(1)
            v = v * (1 - fired)
        assert torch.equal(model(x), spikes / T)
        assert torch.equal(model.reference(x), spikes / T)
        assert torch.equal(model.values(x), spikes / T)

    def test_reference_and_single_samples_agree(self, make_model):
        model = SpikingClassifier(make_model(time_steps=T).net, T, "frames").eval()
        x = frames()
        assert torch.allclose(model(x), model.reference(x), atol=1e-12)
        assert torch.allclose(torch.cat([model(x[n : n + 1]) for n in range(3)]), model(x), atol=1e-12)

    def test_normalisation_is_by_channel(self, make_model):
        net = make_model(time_steps=T).net
        plain = SpikingClassifier(net, T, "frames").eval()
        scaled = SpikingClassifier(net, T, "frames", normalize=((0.5, 1.0), (2.0, 4.0))).double().eval()
        x = frames()
        by_hand = torch.stack([(x[:, :, 0] - 0.5) / 2, (x[:, :, 1] - 1) / 4], dim=2)
        assert torch.allclose(scaled(x), plain(by_hand), atol=1e-12)
        with pytest.raises(RobustSNNError, match="normalize is given for 3 channels, the images have 2"):
            SpikingClassifier(net, T, "frames", normalize=((0.5,) * 3, (2.0,) * 3))(x)

    @pytest.mark.parametrize("rule", ["BPTT", "BPTR", "RGA", "HART", "CBA", "PDSG", "ASSG"])
    def test_every_rule_differentiates_frames(self, make_model, rule):
        model = SpikingClassifier(make_model(time_steps=T).net, T, "frames").eval()
        x = frames().requires_grad_()
        view = model.through(getattr(gradients, rule)())
        logits = view(x)
        assert torch.allclose(logits, model(x), atol=1e-12)
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2])), x)
        assert gradient.shape == x.shape
        assert gradient.isfinite().all()
        assert gradient.abs().sum((1, 2, 3, 4)).min() > 0


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return load_digits_events(cache=tmp_path_factory.mktemp("cache"))


def small_model(dataset, time_steps: int, seed: int = 0) -> SpikingClassifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = build_network("cnn", dataset.image_shape, 10, NeuronSpec(kind="lif", tau=2.0), width=8, hidden=64)
        return SpikingClassifier(net, time_steps, "frames")


@torch.no_grad()
def accuracy(model: SpikingClassifier, split) -> float:
    right = sum(
        int((model(x).argmax(1) == y).sum()) for x, y in (split.batch(n) for n in torch.arange(len(split)).split(100))
    )
    return right / len(split)


class TestTraining:
    def test_digits_events_by_the_image_trainer(self, digits):
        """The trainer takes frames unchanged. 700 recordings, 4 epochs; chance is 10 %."""
        windows = digits.windows(T)
        model = small_model(digits, T)
        config = TrainConfig(epochs=4, lr=0.005, validation_fraction=0.0)
        train(model, digits.train.take(700).frames(windows), CrossEntropy(), config)
        test = digits.test.frames(windows)
        assert accuracy(model, test) > 0.7

        events, labels = digits.test.batch(range(20))
        x = to_frames(events, windows, dtype=torch.float32).requires_grad_()
        assert torch.equal(x, test.batch(range(20))[0])
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(x), labels), x)
        per_event = at_events(gradient, events, windows)
        assert per_event.shape == (len(events.t),)
        assert per_event.abs().sum() > 0

    @pytest.mark.slow
    def test_real_nmnist(self):
        """1,000 + 100 real recordings: at least 90 % of the test recordings."""
        data = load_nmnist(real_data("NMNIST"))
        windows = data.windows(10)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = build_network("cnn", data.image_shape, 10, NeuronSpec(kind="lif", tau=2.0))
        model = SpikingClassifier(net, 10, "frames")
        config = TrainConfig(epochs=12, lr=0.003, validation_fraction=0.0)
        train(model, data.train.frames(windows), CrossEntropy(), config)
        assert accuracy(model, data.test.frames(windows)) >= 0.9


def test_counts_are_not_scaled():
    """Whole-number images are divided by 255 on their way into a model; counts must not be."""
    from robustsnn.datasets.events import FrameSplit

    images = torch.tensor(np.arange(2 * 3 * 2 * 2 * 2).reshape(2, 3, 2, 2, 2), dtype=torch.uint8)
    split = FrameSplit(images, torch.tensor([1, 0]))
    for part in (split, split.take(2), split.select([0, 1])):
        x, y = part.batch([1, 0])
        assert x.dtype == torch.float32
        assert torch.equal(x, images[[1, 0]].float())
        assert y.tolist() == [0, 1]
    assert isinstance(split.select([1]), FrameSplit)
    assert Windows(3, 9).time_steps == 3
