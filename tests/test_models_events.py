"""Networks for event data: published sizes, equal to SpikingJelly's layer by layer, and what a model must do on frames."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustsnn import gradients
from robustsnn.checkpoint import load_checkpoint, save_checkpoint
from robustsnn.classifier import SpikingClassifier
from robustsnn.datasets.events import FrameSplit
from robustsnn.defenses import AT, SR, CrossEntropy, TrainConfig, train
from robustsnn.errors import RobustSNNError
from robustsnn.models import ModelSpec, NeuronSpec, build_network, describe
from robustsnn.neurons import IF

T = 3
TINY = {
    "nmnist-net": {"width": 0.04, "hidden": 200},
    "gesture-net": {"width": 0.1, "hidden": 100},
    "cifar10-dvs-net": {"width": 0.04, "hidden": 200},
    "vgg-snn": {"width": 0.04},
}
every = pytest.mark.parametrize("name", TINY)


def frames(n: int = 3, height: int = 16, width: int = 16, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Counts 0 to 3, of a third of the pixels, others from sample to sample."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(4, (n, T, 2, height, width), generator=generator)
    return (counts * (torch.rand(n, 1, 1, height, width, generator=generator) < 1 / 3)).to(dtype)


def lively(name: str, height: int = 16, width: int = 16, classes: int = 4) -> SpikingClassifier:
    """A tiny model in float64 that fires in every layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build_network(name, (2, height, width), classes, NeuronSpec(kind="lif", tau=2.0), **TINY[name]).double()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.bias, -0.2, 0.6)
                module.momentum = None
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1.5 / module.in_features**0.5)
                nn.init.uniform_(module.bias, 0.0, 0.4)
        model = SpikingClassifier(net, T, "frames")
        for _ in range(2):
            model(frames(16, height, width))
        return model.eval()


class TestAsPublished:
    @pytest.mark.parametrize(
        ("name", "shape", "classes", "features", "hidden", "convolutions"),
        [
            ("nmnist-net", (2, 34, 34), 10, 128 * 8 * 8, 2048, 2),
            ("gesture-net", (2, 128, 128), 11, 128 * 4 * 4, 512, 5),
            ("cifar10-dvs-net", (2, 128, 128), 10, 128 * 8 * 8, 512, 4),
        ],
    )
    def test_networks_of_fang_et_al_by_hand(self, name, shape, classes, features, hidden, convolutions):
        count = 2 * 128 * 9 + (convolutions - 1) * 128 * 128 * 9 + convolutions * 2 * 128
        count += features * hidden + hidden + hidden * classes + classes
        assert describe(name, shape, classes).parameters == count

    def test_vgg_snn_by_hand(self):
        """8 convolutions with bias and norm; one linear layer of the 3x3 pixels that are left of 48."""
        channels = [2, 64, 128, 256, 256, 512, 512, 512, 512]
        count = sum(a * b * 9 + 3 * b for a, b in itertools.pairwise(channels)) + 512 * 9 * 10 + 10
        found = describe("vgg-snn", (2, 48, 48), 10)
        assert found.parameters == count
        assert [x.shape for x in found.layers if x.kind == "Conv2d"] == [
            (64, 48, 48),
            (128, 48, 48),
            *[(256, 24, 24)] * 2,
            *[(512, 12, 12)] * 2,
            *[(512, 6, 6)] * 2,
        ]

    @pytest.mark.parametrize(
        ("name", "theirs", "side"),
        [
            ("nmnist-net", "NMNISTNet", 34),
            ("gesture-net", "DVSGestureNet", 128),
            ("cifar10-dvs-net", "CIFAR10DVSNet", 128),
        ],
    )
    def test_as_spikingjelly_up_to_the_readout(self, name, theirs, side):
        """The same weights give the same spikes of the hidden layer; behind it stand ten voting neurons a class there."""
        from spikingjelly.activation_based import functional, neuron
        from spikingjelly.activation_based.model import parametric_lif_net

        torch.manual_seed(0)
        peer = getattr(parametric_lif_net, theirs)(channels=2, spiking_neuron=neuron.IFNode).eval().conv_fc
        peer = peer[: [index for index, layer in enumerate(peer) if isinstance(layer, neuron.IFNode)][-2] + 1]
        units = next(layer.out_features for layer in reversed(peer) if isinstance(layer, nn.Linear))
        ours = build_network(name, (2, side, side), 10, IF, pool="max", width=2 / 128, hidden=units * 64)[:-1].eval()
        with torch.no_grad():
            for module in peer.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.weight.fill_(2.0)
                    module.bias.fill_(0.1)
                if isinstance(module, nn.Linear):
                    module.weight.mul_(3.0)
        ours.load_state_dict(dict(zip(ours.state_dict(), peer.state_dict().values(), strict=True)))
        x = frames(2, side, side, torch.float32)
        functional.reset_net(peer)
        with torch.no_grad():
            expected = torch.stack([peer(frame) for frame in x.unbind(1)])
            spikes = SpikingClassifier(ours, T, "frames").eval().outputs(x)
        assert 0 < expected.mean() < 1
        assert torch.equal(spikes, expected)


class TestOnFrames:
    @every
    def test_agrees_with_the_plain_way_and_alone(self, name):
        model, x = lively(name), frames()
        logits = model(x)
        assert logits.shape == (3, 4)
        assert logits.std(0).min() > 0
        assert torch.allclose(logits, model.reference(x), atol=1e-12)
        assert torch.allclose(logits, torch.cat([model(one[None]) for one in x]), atol=1e-12)

    @every
    @pytest.mark.parametrize("rule", ["BPTT", "BPTR", "HART"])
    def test_gradients_reach_the_frames(self, name, rule):
        x = frames().requires_grad_()
        logits = lively(name).through(getattr(gradients, rule)())(x)
        (g,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor([0, 1, 2])), x)
        assert g.isfinite().all()
        assert g.abs().flatten(1).sum(1).min() > 0

    @every
    def test_any_frames(self, name):
        for shape in ((2, 34, 34), (1, 9, 20), (2, 8, 8)):
            assert describe(name, shape, 7, **TINY[name]).layers[-1].shape == (7,)
            for pool in ("avg", "max"):
                assert describe(name, shape, 7, pool=pool, **TINY[name]).layers[-1].shape == (7,)

    @every
    @pytest.mark.parametrize("objective", [CrossEntropy(), SR(lam=0.01)])
    def test_train_and_save(self, name, objective, tmp_path):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            spec = ModelSpec(
                architecture=name,
                options=TINY[name],
                neuron=NeuronSpec(kind="lif", tau=2.0),
                time_steps=T,
                encoder="frames",
                image_shape=(2, 16, 16),
                num_classes=2,
            )
            model = spec.build()
        before = [parameter.detach().clone() for parameter in model.parameters()]
        split = FrameSplit(frames(12).to(torch.uint8), torch.arange(12) % 2)
        train(
            model, split, objective, TrainConfig(epochs=1, batch_size=6, lr=0.01, augment="nda", validation_fraction=0)
        )
        moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
        assert sum(moved) > len(moved) / 2
        save_checkpoint(tmp_path / "model.safetensors", model, spec, {})
        again = load_checkpoint(tmp_path / "model.safetensors").model
        assert torch.equal(again(split.batch(slice(None))[0]), model(split.batch(slice(None))[0]))


class TestObjectivesOnCounts:
    def linear(self) -> SpikingClassifier:
        """Logits: the mean over steps of a linear map."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return SpikingClassifier(
                nn.Sequential(nn.Flatten(), nn.Linear(2 * 6 * 6, 2)), T, "frames", layout="folded"
            ).double()

    @pytest.mark.parametrize("h", [0.01, 0.5])
    def test_steps_of_sr_are_in_events(self, h):
        """Of a linear map the penalty is ((s(z + h |w|_1) - s(z)) / h)^2 with the weights w of the difference of logits."""
        model, x, labels = self.linear(), frames(4, 6, 6) / 3, torch.tensor([0, 1, 1, 0])
        found = SR(lam=1.0, h=h)(model, x, labels, 0.0).terms["sr"]
        weight = model.net[1].weight.detach()
        logits = model(x).detach()
        z = torch.where(labels == 0, 1, -1) * (logits[:, 0] - logits[:, 1])
        length = (weight[0] - weight[1]).abs().sum()
        expected = (((z + h * length).sigmoid() - z.sigmoid()) / h).square().mean()
        assert torch.allclose(torch.as_tensor(found, dtype=torch.float64), expected, rtol=1e-6)

    def test_at_stays_within_the_counts_it_is_told(self):
        model, x, labels = self.linear().eval(), frames(4, 6, 6), torch.tensor([0, 1, 1, 0])
        found = AT(eps=0.75, steps=4, params={"bounds": (0, 3)}).inputs(model, x, labels)
        assert found.min() >= 0
        assert found.max() <= 3
        assert (found - x).abs().max() == pytest.approx(0.75)
        before, after = (F.cross_entropy(model(frames), labels) for frames in (x, found))
        assert after > before
        with pytest.raises(RobustSNNError, match=r"images must lie in \[0, 1\], got values in \[0, 3\]"):
            AT(eps=0.75).inputs(model, x, labels)
