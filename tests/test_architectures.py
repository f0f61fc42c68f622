"""Every architecture: published sizes, blocks by hand, and what a model must do: train, agree with its twin, be saved."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustsnn.checkpoint import load_checkpoint, save_checkpoint
from robustsnn.classifier import SpikingClassifier
from robustsnn.conversion import convert, to_spec
from robustsnn.datasets import load
from robustsnn.errors import RobustSNNError
from robustsnn.gradients import BPTR, BPTT
from robustsnn.models import ARCHITECTURES, ActivationSpec, ModelSpec, NeuronSpec, build_network, describe
from robustsnn.neurons import IF, QCFS, ScaledIF

CIFAR = (3, 32, 32)
NARROW: dict[str, dict] = {
    "cnn": {"width": 4, "hidden": 16},
    "vgg9": {"width": 0.05, "hidden": 200},
    "vgg11": {"width": 0.04, "hidden": 400},
    "vgg16": {"width": 0.02, "hidden": 400},
    "resnet18": {"width": 0.05},
    "resnet19": {"width": 0.03, "hidden": 200},
    "resnet20": {"width": 0.25},
    "sew-resnet18": {"width": 0.05},
    "wrn16-4": {"width": 0.25},
    "nmnist-net": {"width": 0.05, "hidden": 200},
    "gesture-net": {"width": 0.05, "hidden": 200},
    "cifar10-dvs-net": {"width": 0.05, "hidden": 200},
    "vgg-snn": {"width": 0.05},
}
every = pytest.mark.parametrize("name", ARCHITECTURES)
everywhere = pytest.mark.parametrize("image", [(3, 32, 32), (1, 28, 28), (1, 8, 8), (2, 9, 20)], ids=str)


def lively(net: nn.Module) -> nn.Module:
    """Give linear layers weights for which a few spikes are enough to fire."""
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=1.5 / module.in_features**0.5)
            nn.init.uniform_(module.bias, 0.0, 0.4)
    return net


def settled(name: str, neuron=None, time_steps: int = 3, seed: int = 0, **options) -> SpikingClassifier:
    """Return a narrow model in float64 whose batch norms have seen its own spikes, in evaluation mode."""
    torch.manual_seed(seed)
    neuron = neuron or NeuronSpec(kind="lif", tau=2.0)
    net = build_network(name, (2, 8, 8), 4, neuron, time_steps, **NARROW[name] | options)
    model = SpikingClassifier(lively(net), time_steps).double()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
                module.bias.uniform_(0.1, 0.4)
        for _ in range(2):
            model.train()(images(32))
    return model.eval()


def images(count: int = 5, shape: tuple[int, int, int] = (2, 8, 8), seed: int = 1) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestSizes:
    @pytest.mark.parametrize(
        ("name", "published"),
        [
            ("resnet18", "11.17"),
            ("sew-resnet18", "11.17"),
            ("resnet20", "0.27"),  # He et al., CVPR 2016, table 6
            ("wrn16-4", "2.75"),  # Zagoruyko and Komodakis, BMVC 2016, table 4: 2.7 or 2.8
            ("vgg16", "33.65"),
        ],
    )
    def test_parameters_as_published(self, name, published):
        assert f"{describe(name, CIFAR, 10).parameters / 1e6:.2f}" == published

    def test_resnet18_by_hand(self):
        count, channels = 3 * 64 * 9 + 2 * 64, 64
        for out in (64, 128, 256, 512):
            for index in range(2):
                count += channels * out * 9 + out * out * 9 + 4 * out
                count += channels * out + 2 * out if index == 0 and channels != out else 0
                channels = out
        assert describe("resnet18", CIFAR, 100).parameters == count + 512 * 100 + 100
        assert describe("sew-resnet18", CIFAR, 100, connect="iand").parameters == count + 512 * 100 + 100

    def test_resnet19_by_hand(self):
        """1 + 2 * (3 + 3 + 2) convolutions and two linear layers are its nineteen."""
        count, channels = 3 * 128 * 9 + 2 * 128, 128
        for out, blocks in ((128, 3), (256, 3), (512, 2)):
            for index in range(blocks):
                count += channels * out * 9 + out * out * 9 + 4 * out
                count += channels * out + 2 * out if index == 0 and channels != out else 0
                channels = out
        layers = describe("resnet19", CIFAR, 10).layers
        assert describe("resnet19", CIFAR, 10).parameters == count + 512 * 256 + 256 + 256 * 10 + 10
        weights = [layer for layer in layers if layer.kind in ("Conv2d", "Linear") and "shortcut" not in layer.name]
        assert len(weights) == 19

    @pytest.mark.parametrize("name", ["vgg9", "vgg16"])
    def test_vgg_by_hand(self, name):
        channels = {"vgg9": [3, 64, 64, 128, 128, 256, 256, 256]}.get(
            name, [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
        )
        features = {"vgg9": [256 * 16, 1024, 10], "vgg16": [512, 4096, 4096, 10]}[name]
        count = sum(a * b * 9 + 3 * b for a, b in itertools.pairwise(channels))
        count += sum(a * b + b for a, b in itertools.pairwise(features))
        assert describe(name, CIFAR, 10).parameters == count
        depth = sum(layer.kind in ("Conv2d", "Linear") for layer in describe(name, CIFAR, 10).layers)
        assert f"vgg{depth}" == name

    @pytest.mark.parametrize(("depth", "millions"), [(16, 2.7), (28, 5.9), (40, 8.9)])
    def test_depths_of_wide_networks(self, depth, millions):
        """WRN-d-4 of Zagoruyko and Komodakis: 2.7 million at 16 layers, 5.9 at 28, 8.9 at 40."""
        assert describe("wrn16-4", CIFAR, 10, depth=depth).parameters / 1e6 == pytest.approx(millions, abs=0.06)

    @pytest.mark.parametrize(
        ("name", "maps"),
        [
            ("vgg9", [64] * 2 + [128] * 2 + [256] * 3),
            ("vgg16", [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6),
            ("resnet20", [16] * 7 + [32] * 6 + [64] * 6),
            ("resnet18", [64] * 5 + [128] * 4 + [256] * 4 + [512] * 4),
            ("resnet19", [128] * 7 + [256] * 6 + [512] * 4),
        ],
    )
    def test_shapes(self, name, maps):
        halvings = {count: 2**index for index, count in enumerate(dict.fromkeys(maps))}
        if name == "vgg16":
            halvings[512] = 8
        shapes = [
            layer.shape
            for layer in describe(name, CIFAR, 10).layers
            if layer.kind == "Conv2d" and "shortcut" not in layer.name
        ]
        last = [(512, 2, 2)] * 3 if name == "vgg16" else []
        expected = [(count, 32 // halvings[count], 32 // halvings[count]) for count in maps]
        assert shapes == expected[: len(expected) - len(last)] + last

    @everywhere
    @every
    def test_any_image(self, name, image):
        for options in ({}, {"norm": "none"}, {"norm": "tebn"}, *([{"pool": "max"}] if "vgg" in name else [])):
            layers = describe(name, image, 7, time_steps=4, **NARROW[name], **options).layers
            assert layers[-1].shape == (7,)

    @pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "cnn"])
    def test_width(self, name):
        """Half as wide is about a quarter of the weights."""
        width = ARCHITECTURES[name].options["width"]
        whole, half = (describe(name, CIFAR, 10, width=width * share).parameters for share in (1, 0.5))
        assert 0.24 < half / whole < 0.30


class TestDescribe:
    def test_adds_up(self):
        found = describe("resnet20", (1, 8, 8), 10, width=0.5)
        net = build_network("resnet20", (1, 8, 8), 10, IF, width=0.5)
        assert found.parameters == sum(p.numel() for p in net.parameters()) == sum(x.parameters for x in found.layers)
        # 8x8 x 8 channels before and in stage one, then 4x4 x 16, 2x2 x 32.
        assert found.neurons == 7 * 512 + 6 * 256 + 6 * 128
        assert [layer.kind for layer in found.layers[:3]] == ["Conv2d", "BatchNorm2d", "neuron"]
        assert str(found).splitlines()[-1] == f"{found.parameters:,} parameters, {found.neurons:,} neurons"

    def test_counts_scales_of_tebn(self):
        one, four = (describe("vgg9", CIFAR, 10, time_steps=t, norm="tebn").parameters for t in (1, 4))
        assert four - one == 3 * 7

    def test_refuses_as_the_network_does(self):
        with pytest.raises(RobustSNNError, match=r"unknown model 'resnet21'\. Did you mean 'resnet20'"):
            describe("resnet21", CIFAR, 10)
        with pytest.raises(RobustSNNError, match="needs images of at least 8 pixels a side, got 7x32"):
            describe("vgg16", (3, 7, 32), 10)

    def test_page_agrees(self):
        """The table of docs/models.md, row by row."""
        page = (Path(__file__).resolve().parents[1] / "docs" / "models.md").read_text()
        rows = re.findall(r"^\| `([\w-]+)` \|.*\| ([\d,]+) \| ([\d,]+) \|$", page, re.MULTILINE)
        table = {name: (parameters, neurons) for name, parameters, neurons in rows}
        assert table.keys() == ARCHITECTURES.keys()
        for name, entry in table.items():
            found = describe(name, CIFAR, 10)
            assert entry == (f"{found.parameters:,}", f"{found.neurons:,}"), name


def norm_by_hand(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    shape = (1, -1, 1, 1)
    mean, variance = norm.running_mean.view(shape), norm.running_var.view(shape)
    return (x - mean) / (variance + norm.eps).sqrt() * norm.weight.view(shape) + norm.bias.view(shape)


def conv_by_hand(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """By the definition: unfolded patches times weights, for 3x3 with padding 1 and 1x1."""
    size, stride = layer.kernel_size[0], layer.stride[0]
    patches = F.unfold(x, size, padding=size // 2, stride=stride)
    out = layer.weight.flatten(1) @ patches
    return out.view(len(x), -1, -(-x.shape[2] // stride), -(-x.shape[3] // stride))


class TestBlocks:
    def unsettle(self, net: nn.Module) -> None:
        with torch.no_grad():
            for module in net.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean.uniform_(-0.3, 0.3)
                    module.running_var.uniform_(0.5, 2)
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.uniform_(-0.2, 0.4)

    def branch(self, block: nn.Module, x: Tensor) -> Tensor:
        """conv, norm, rectified, conv, norm."""
        h = norm_by_hand(block.residual[1], conv_by_hand(block.residual[0], x)).clamp(min=0)
        return norm_by_hand(block.residual[4], conv_by_hand(block.residual[3], h))

    @pytest.mark.parametrize(
        ("name", "projected", "head"), [("resnet20", (3, 6), 1), ("resnet18", (2, 4, 6), 1), ("resnet19", (3, 6), 3)]
    )
    def test_resnets(self, name, projected, head):
        torch.manual_seed(0)
        net = build_network(name, (2, 9, 8), 3, nn.ReLU, **NARROW[name]).double().eval()
        self.unsettle(net)
        x = images(2, (2, 9, 8))
        h = norm_by_hand(net[1], conv_by_hand(net[0], x)).clamp(min=0)
        blocks = net[3 : -2 - head]
        for index, block in enumerate(blocks):
            assert isinstance(block.shortcut, nn.Identity) == (index not in projected)
            through = (
                h
                if isinstance(block.shortcut, nn.Identity)
                else norm_by_hand(block.shortcut[1], conv_by_hand(block.shortcut[0], h))
            )
            h = (self.branch(block, h) + through).clamp(min=0)
        h = h.mean((2, 3))
        for layer in net[-head:]:
            h = h @ layer.weight.T + layer.bias if isinstance(layer, nn.Linear) else h.clamp(min=0)
        torch.testing.assert_close(net(x), h)

    @pytest.mark.parametrize("connect", ["add", "and", "iand"])
    def test_sew(self, connect):
        """Both branches rectified; their sum, their product, or the shortcut where the residual is 0."""
        torch.manual_seed(0)
        net = build_network("sew-resnet18", (2, 8, 8), 3, nn.ReLU, width=0.05, connect=connect).double().eval()
        self.unsettle(net)
        x = images(2)
        h = norm_by_hand(net[1], conv_by_hand(net[0], x)).clamp(min=0)
        for index, block in enumerate(net[3:11]):
            assert isinstance(block.shortcut, nn.Identity) == (index not in (2, 4, 6))
            a, s = self.branch(block, h).clamp(min=0), h
            if index in (2, 4, 6):
                s = norm_by_hand(block.shortcut[1], conv_by_hand(block.shortcut[0], h)).clamp(min=0)
            h = {"add": a + s, "and": a * s, "iand": (1 - a) * s}[connect]
        torch.testing.assert_close(net(x), h.mean((2, 3)) @ net[-1].weight.T + net[-1].bias)

    @pytest.mark.parametrize("connect", ["and", "iand"])
    def test_sew_connections_of_spikes_are_spikes(self, connect):
        model = settled("sew-resnet18", connect=connect)
        seen: list[Tensor] = []
        for block in model.net[3:11]:
            block.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        model(images())
        assert len(seen) == 8
        assert all(((x == 0) | (x == 1)).all() for x in seen)
        assert any(x.any() for x in seen)

    def test_max_pooling(self):
        net = build_network("vgg9", CIFAR, 10, IF, pool="max", width=0.05)
        assert sum(isinstance(module, nn.MaxPool2d) for module in net) == 3
        assert not any(isinstance(module, nn.AvgPool2d) for module in net)

    @pytest.mark.parametrize(("side", "pools"), [(8, 3), (16, 4), (28, 4), (32, 5)])
    def test_pools_that_fit(self, side, pools):
        net = build_network("vgg16", (1, side, side), 10, IF, **NARROW["vgg16"])
        assert sum(isinstance(module, nn.AvgPool2d) for module in net) == pools

    @every
    def test_without_norm(self, name):
        """Convolutions then have the bias that the norm had, but for those whose output is only added to others."""
        net = build_network(name, CIFAR, 10, IF, norm="none", **NARROW[name])
        assert not any("Norm" in type(module).__name__ for module in net.modules())
        bare = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.bias is None]
        assert len(bare) == (3 if name == "wrn16-4" else 0)


class TestModels:
    @pytest.mark.parametrize("norm", ["bn", "tdbn", "tebn", "none"])
    @every
    def test_agrees_with_its_stepwise_twin(self, name, norm):
        model = settled(name, NeuronSpec(kind="lif", v_threshold=0.05 if norm == "none" else 1.0), norm=norm)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if norm == "tebn" and parameter_name.endswith(".scales") and "merge" not in parameter_name:
                    parameter.uniform_(0.5, 1.5)
            x = images()
            torch.testing.assert_close(model(x), model.reference(x), rtol=1e-9, atol=1e-9)
            assert model(x).std(0).max() > 0, "all images look alike to it"

    @every
    def test_rules(self, name):
        """BPTR takes a single frame, which equals its T frames; BPTT has a gradient."""
        model = settled(name, NeuronSpec(kind="lif", surrogate="ATan"))
        quick = BPTR()
        gradients = []
        for rule in (BPTT(), quick, BPTR(single_frame=False)):
            x = images().requires_grad_()
            logits = model.through(rule)(x)
            torch.testing.assert_close(logits, model(x), rtol=1e-9, atol=1e-9)
            gradients += torch.autograd.grad(logits[:, 0].sum(), x)
        assert quick._replays(model)
        torch.testing.assert_close(gradients[1], gradients[2])
        assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)

    @pytest.mark.parametrize("connect", ["and", "iand"])
    def test_products_of_spikes_take_all_frames(self, connect):
        model = settled("sew-resnet18", connect=connect)
        gradients = []
        for single_frame in (True, False):
            x = images().requires_grad_()
            (gradient,) = torch.autograd.grad(model.through(BPTR(single_frame=single_frame))(x).square().sum(), x)
            gradients.append(gradient)
        assert torch.equal(*gradients)

    @pytest.mark.parametrize("norm", ["tdbn", "tebn"])
    @every
    def test_gradient_reaches_every_parameter(self, name, norm):
        torch.manual_seed(0)
        spec = NeuronSpec(kind="lif", surrogate="ATan", alpha=1.0)
        net = build_network(name, (1, 8, 8), 10, spec, 2, norm=norm, **NARROW[name])
        model = SpikingClassifier(lively(net), 2)
        batch, labels = load("digits").train.batch(range(16))
        F.cross_entropy(model(batch), labels).backward()
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
            assert parameter.grad.any(), parameter_name

    @pytest.mark.parametrize(
        ("name", "options", "steps", "left"),
        [
            ("resnet20", {"norm": "tdbn"}, 60, 0.75),  # a neuron after every sum: slow to begin with
            ("resnet19", {"width": 0.05, "hidden": 2000}, 45, 0.75),
            ("sew-resnet18", {"norm": "tdbn", "width": 0.1}, 15, 0.6),
            ("vgg9", {"norm": "tdbn", "width": 0.15}, 15, 0.6),
            ("vgg9", {"norm": "tebn", "width": 0.15}, 15, 0.6),
            ("wrn16-4", {"norm": "tdbn", "width": 1.0}, 15, 0.6),
        ],
        ids=str,
    )
    def test_learns_digits(self, name, options, steps, left):
        torch.manual_seed(0)
        time_steps = 4 if "resnet2" in name or "resnet19" in name else 2
        spec = NeuronSpec(kind="lif", surrogate="triangle" if time_steps == 4 else "ATan", detach_reset=True)
        net = build_network(name, (1, 8, 8), 10, spec, time_steps, **NARROW[name] | options)
        model = SpikingClassifier(net, time_steps)
        batch, labels = load("digits").train.batch(range(48))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        losses = []
        for _ in range(steps):
            loss = F.cross_entropy(model(batch), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert max(losses[-3:]) < left * losses[0], losses

    @pytest.mark.parametrize("norm", ["tdbn", "tebn", "none"])
    @every
    def test_checkpoint(self, name, norm, tmp_path):
        torch.manual_seed(0)
        spec = ModelSpec(
            architecture=name,
            options=NARROW[name] | {"norm": norm},
            neuron=NeuronSpec(kind="plif", v_threshold=0.7),
            time_steps=3,
            image_shape=(1, 8, 8),
            num_classes=4,
        )
        model = spec.build()
        x = images(4, (1, 8, 8)).float()
        model.train()(x)
        save_checkpoint(tmp_path / "m.safetensors", model.eval(), spec, {})
        again = load_checkpoint(tmp_path / "m.safetensors")
        assert again.spec == spec
        assert torch.equal(again.model(x), model(x))


class TestConversion:
    def ann(self, name: str, **options) -> ModelSpec:
        torch.manual_seed(0)
        return ModelSpec(
            architecture=name,
            options=NARROW[name] | options,
            neuron=ActivationSpec(kind="qcfs", levels=8, bound=1.0),
            image_shape=(1, 8, 8),
            num_classes=4,
        )

    @every
    def test_qcfs(self, name):
        """A neuron for every activation; its spec builds it again; with more steps it comes nearer to the ANN's limit."""
        spec = self.ann(name)
        ann = spec.build()
        x = images(3, (1, 8, 8)).float()
        for module in ann.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
                nn.init.constant_(module.weight, 0.5)  # errors of early layers die out on their way
        for _ in range(3):
            ann.train()(x)
        converted = convert(ann.eval(), "qcfs", time_steps=4)
        activations = sum(isinstance(module, QCFS) for module in ann.modules())
        assert sum(isinstance(module, ScaledIF) for module in converted.modules()) == activations
        again = to_spec(spec, 4).build()
        again.load_state_dict(converted.state_dict())
        torch.testing.assert_close(again.eval()(x), converted(x))
        few, many = (convert(ann, "qcfs", time_steps=steps).double()(x.double()) for steps in (32, 1024))
        for site, module in [(n, m) for n, m in ann.named_modules() if isinstance(m, QCFS)]:
            ann.set_submodule(site, nn.Hardtanh(0.0, module.bound.item()))
        limit = ann.double()(x.double())
        assert (many - limit).abs().max() < 0.5 * (few - limit).abs().max()

    @pytest.mark.parametrize("connect", ["and", "iand"])
    def test_products_are_refused(self, connect):
        with pytest.raises(RobustSNNError, match="cannot convert the call 'mul"):
            convert(self.ann("sew-resnet18", connect=connect).build(), "qcfs", time_steps=4)

    def test_max_pooling_is_refused(self):
        with pytest.raises(RobustSNNError, match="train the ANN with average pooling"):
            convert(self.ann("vgg9", pool="max").build(), "qcfs", time_steps=4)

    def test_tebn_needs_time(self):
        with pytest.raises(RobustSNNError, match="an ANN has no steps: take 'bn' or 'tdbn'"):
            self.ann("resnet20", norm="tebn").build()
