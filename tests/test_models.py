"""Architectures: exact shapes and parameter counts, clear errors, and models as plain data."""

from __future__ import annotations

import itertools

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.errors import RobustSNNError
from robustsnn.models import (
    ARCHITECTURES,
    ActivationSpec,
    AnnClassifier,
    ModelSpec,
    NeuronSpec,
    ScaledIFSpec,
    build_network,
)
from robustsnn.neurons import IF, LIF, PLIF, QCFS, ScaledIF, dynamics_of

CIFAR = (3, 32, 32)


def on_meta(name: str, shape: tuple[int, int, int] = CIFAR, classes: int = 10, **options) -> nn.Module:
    """Return the network without memory: shapes only."""
    with torch.device("meta"):
        return build_network(name, shape, classes, nn.ReLU, **options)


def shapes(net: nn.Module, kinds: tuple[type[nn.Module], ...], image: tuple[int, int, int] = CIFAR) -> list[tuple]:
    """Output shapes, without the batch, of modules of these kinds in the order in which they run."""
    seen: list[tuple] = []
    for module in net.modules():
        if isinstance(module, kinds):
            module.register_forward_hook(lambda _module, _inputs, output: seen.append(tuple(output.shape[1:])))
    net(torch.zeros(2, *image, device="meta"))
    return seen


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def conv(inputs: int, outputs: int, kernel: int = 3, bias: bool = False) -> int:
    return inputs * outputs * kernel * kernel + (outputs if bias else 0)


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


class TestVGG11:
    def test_shapes(self):
        net = on_meta("vgg11")
        assert shapes(net, (nn.Conv2d, nn.AvgPool2d, nn.Flatten, nn.Linear)) == [
            (64, 32, 32),
            (64, 16, 16),
            (128, 16, 16),
            (256, 16, 16),
            (256, 8, 8),
            (512, 8, 8),
            (512, 8, 8),
            (512, 8, 8),
            (512, 4, 4),
            (512, 4, 4),
            (512, 4, 4),
            (8192,),
            (4096,),
            (4096,),
            (10,),
        ]
        assert sum(isinstance(module, nn.ReLU) for module in net) == 10

    @pytest.mark.parametrize("classes", [10, 100])
    def test_parameters(self, classes):
        channels = [3, 64, 128, 256, 512, 512, 512, 512, 512]
        convolutions = sum(conv(a, b, bias=True) + 2 * b for a, b in itertools.pairwise(channels))
        expected = convolutions + linear(512 * 4 * 4, 4096) + linear(4096, 4096) + linear(4096, classes)
        assert count(on_meta("vgg11", classes=classes)) == expected

    def test_width(self):
        net = on_meta("vgg11", width=0.25, hidden=400)
        assert [module.out_channels for module in net if isinstance(module, nn.Conv2d)] == [
            16, 32, 64, 128, 128, 128, 128, 128,
        ]  # fmt: skip
        assert [module.out_features for module in net if isinstance(module, nn.Linear)] == [100, 100, 10]

    @pytest.mark.parametrize("image", [(1, 8, 8), (3, 16, 32), (3, 33, 9), (2, 28, 28)], ids=str)
    def test_any_image(self, image):
        assert shapes(on_meta("vgg11", image, width=0.1), (nn.Linear,), image)[-1] == (10,)


class TestWRN:
    def test_shapes(self):
        net = on_meta("wrn16-4")
        stages = [(64, 32), (64, 32), (128, 16), (128, 16), (256, 8), (256, 8)]
        expected = [(16, 32, 32)]
        for index, (channels, size) in enumerate(stages):
            maps = (channels, size, size)
            expected += [maps] * (3 if index % 2 == 0 else 2)  # the first of a stage has a convolution as shortcut
        assert shapes(net, (nn.Conv2d,)) == expected
        assert shapes(on_meta("wrn16-4"), (nn.AdaptiveAvgPool2d, nn.Linear)) == [(256, 1, 1), (10,)]
        # Sixteen layers of weights: first convolution, twelve in the blocks, three shortcuts counted apart, classifier.
        assert sum(isinstance(module, nn.ReLU) for module in net.modules()) == 13

    @pytest.mark.parametrize("classes", [10, 100])
    def test_parameters(self, classes):
        expected, channels = conv(3, 16), 16
        for out in (64, 128, 256):
            for shortcut in (True, False):
                expected += 2 * channels + conv(channels, out) + 2 * out + conv(out, out) + 2
                expected += conv(channels, out, kernel=1) if shortcut else 0
                channels = out
        expected += 2 * 256 + linear(256, classes)
        assert count(on_meta("wrn16-4", classes=classes)) == expected

    def test_width(self):
        net = on_meta("wrn16-4", width=1)
        widths = [module.out_channels for module in net.modules() if isinstance(module, nn.Conv2d)]
        assert sorted(widths) == [16] * 5 + [32] * 5 + [64] * 5
        assert sum(module.kernel_size == (1, 1) for module in net.modules() if isinstance(module, nn.Conv2d)) == 2

    def test_blocks_by_hand(self):
        """BN, neuron, conv, BN, neuron, conv; shortcut from the activation where the shape changes, else the input."""
        torch.manual_seed(0)
        net = build_network("wrn16-4", (2, 8, 8), 3, nn.ReLU, width=0.5).double().eval()
        with torch.no_grad():
            for module in net.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean.uniform_(-0.3, 0.3)
            blocks = net[1:7]
            for block in blocks:
                block.merge.scales.uniform_(0.2, 0.9)
        x = torch.rand(2, 2, 8, 8, dtype=torch.float64)
        h = net[0](x)
        for index, block in enumerate(blocks):
            active = torch.relu(block.activate[0](h))
            residual = block.residual[3](torch.relu(block.residual[1](block.residual[0](active))))
            shortcut = h if block.shortcut is None else block.shortcut(active)
            assert (block.shortcut is None) == (index % 2 == 1)
            h = block.merge.scales[0] * shortcut + block.merge.scales[1] * residual
        logits = net[-1](torch.relu(net[7](h)).mean((2, 3)))
        torch.testing.assert_close(net(x), logits)

    def test_branches_start_at_one_half(self):
        net = build_network("wrn16-4", (3, 8, 8), 10, IF, width=0.5)
        assert all(block.merge.scales.tolist() == [0.5, 0.5] for block in net[1:7])


class TestCNN:
    @pytest.mark.parametrize(
        ("image", "maps"),
        [
            ((1, 8, 8), [(16, 8, 8), (32, 8, 8)]),
            ((1, 28, 28), [(16, 28, 28), (32, 14, 14)]),
            ((3, 12, 20), [(16, 12, 20), (32, 12, 20)]),
            ((2, 17, 31), [(16, 17, 31), (32, 8, 15)]),
            ((1, 16, 16), [(16, 16, 16), (32, 8, 8)]),
            ((1, 15, 30), [(16, 15, 30), (32, 15, 30)]),
            ((1, 4, 4), [(16, 4, 4), (32, 4, 4)]),
        ],
        ids=str,
    )
    def test_shapes_and_parameters(self, image, maps):
        assert shapes(on_meta("cnn", image), (nn.Conv2d,), image) == maps
        _, height, width = maps[1]
        flat = 32 * (height // 2) * (width // 2)
        expected = conv(image[0], 16) + 32 + conv(16, 32) + 64 + linear(flat, 128) + linear(128, 10)
        assert count(on_meta("cnn", image)) == expected

    def test_options(self):
        assert shapes(on_meta("cnn", (1, 8, 8), 7, width=3, hidden=11), (nn.Conv2d, nn.Linear), (1, 8, 8)) == [
            (3, 8, 8),
            (6, 8, 8),
            (11,),
            (7,),
        ]


NEURON_LAYERS = {
    "cnn": 3,
    "vgg9": 7 + 1,
    "vgg11": 8 + 2,
    "vgg16": 13 + 2,
    "resnet18": 1 + 8 * 2,
    "resnet19": 1 + 8 * 2 + 1,
    "resnet20": 1 + 9 * 2,
    "sew-resnet18": 1 + 8 * 2 + 3,
    "wrn16-4": 6 * 2 + 1,
    "nmnist-net": 3,
    "gesture-net": 6,
    "cifar10-dvs-net": 5,
    "vgg-snn": 8,
}


class TestBuild:
    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_each_neuron_is_its_own(self, name):
        net = build_network(name, (1, 8, 8), 3, NeuronSpec(), width=1 if name == "cnn" else 0.1)
        neurons = [module for module in net.modules() if isinstance(module, IF)]
        assert len(neurons) == NEURON_LAYERS[name]
        assert len({id(neuron) for neuron in neurons}) == len(neurons)

    @pytest.mark.parametrize("name", ["vgg11", "wrn16-4", "resnet20"])
    def test_initialisation(self, name):
        """He over the fan-out: standard deviation sqrt(2 / (out * kernel)); no biases."""
        torch.manual_seed(0)
        net = build_network(name, CIFAR, 10, nn.ReLU, **({"hidden": 512} if name == "vgg11" else {}))
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.numel() > 2000:
                fan_out = module.weight[:, 0].numel()
                assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
                assert module.bias is None or (module.bias == 0).all()

    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_smallest_image(self, name):
        smallest = ARCHITECTURES[name].smallest
        net = on_meta(name, (1, smallest, smallest))
        assert net(torch.zeros(2, 1, smallest, smallest, device="meta")).shape == (2, 10)
        for image in ((1, smallest - 1, 32), (1, 32, smallest - 1)):
            with pytest.raises(RobustSNNError, match=f"{name} needs images of at least {smallest} pixels a side, got"):
                on_meta(name, image)

    @pytest.mark.parametrize(
        ("name", "option", "near"),
        [("cnn", "widht", "width"), ("vgg11", "hiden", "hidden"), ("wrn16-4", "Width", "width")],
    )
    def test_unknown_options(self, name, option, near):
        with pytest.raises(
            RobustSNNError, match=rf"unknown option of model {name} '{option}'. Did you mean '{near}'\?"
        ):
            on_meta(name, **{option: 1})

    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("vgg11", {"width": 0}, "option width must be a finite number above 0, got 0"),
            ("resnet20", {"width": float("nan")}, "option width must be a finite number above 0, got nan"),
            ("sew-resnet18", {"width": "wide"}, "option width must be a finite number above 0, got 'wide'"),
            ("resnet19", {"hidden": 0}, "option hidden must be a whole number of at least 1, got 0"),
            ("vgg9", {"hidden": 12.5}, "option hidden must be a whole number of at least 1, got 12.5"),
            ("cnn", {"width": 0.5}, "option width must be a whole number of at least 1, got 0.5"),
            ("wrn16-4", {"depth": 15}, r"option depth must be 6n \+ 4 \(10, 16, 22, 28, 34, 40, ...\) .*, got 15"),
            ("wrn16-4", {"depth": 6 * 10**9 + 4}, "and at most 1000, got 6000000004"),
            ("wrn16-4", {"depth": 4}, "option depth must be a whole number of at least 10, got 4"),
            ("vgg16", {"pool": "mx"}, "unknown value of option pool: 'mx'. Did you mean 'max'.* Known: avg, max"),
            ("vgg9", {"norm": "tdb"}, "option norm: 'tdb'. Did you mean 'tdbn'.* Known: bn, none, tdbn, tebn"),
            ("resnet18", {"norm": None}, "option norm: None"),
            ("sew-resnet18", {"connect": "ADD"}, "option connect: 'ADD'. Did you mean 'add'.* Known: add, and, iand"),
            ("cnn", {"norm": "tebn"}, "norm 'tebn' .* needs time_steps; an ANN has no steps: take 'bn' or 'tdbn'"),
            ("resnet20", {"pool": "max"}, "unknown option of model resnet20 'pool'. Known: norm, width"),
        ],
        ids=str,
    )
    def test_bad_options(self, name, options, message):
        with pytest.raises(RobustSNNError, match=message) as caught:
            on_meta(name, **options)
        assert len(str(caught.value).splitlines()) == 1

    def test_options_are_listed(self):
        assert ARCHITECTURES["resnet19"].options == {"width": 1.0, "hidden": 256, "norm": "tdbn"}
        assert ARCHITECTURES["vgg11"].options == {"width": 1.0, "hidden": 4096, "pool": "avg", "norm": "bn"}

    def test_unknown_names(self):
        with pytest.raises(RobustSNNError, match=r"unknown model 'vgg-11'. Did you mean 'vgg11'\?"):
            on_meta("vgg-11")


NEURONS = {
    "default": NeuronSpec(),
    "if soft": NeuronSpec(kind="if", reset="soft", v_threshold=0.7, v_init=0.35),
    "lif": NeuronSpec(kind="lif", tau=1.5, decay_input=True, detach_reset=True, surrogate="ATan", alpha=3.0),
    "plif": NeuronSpec(kind="plif", tau=3.0, surrogate="Sigmoid"),
    "scaled": ScaledIFSpec(v_init=0.25),
    "relu": ActivationSpec(kind="relu"),
    "qcfs": ActivationSpec(kind="qcfs", levels=4, bound=3.0, clip_first=False),
}


class TestNeuronSpec:
    def test_makes_what_it_says(self):
        node = NEURONS["lif"]()
        assert type(node) is LIF
        assert (node.tau, node.decay_input, node.detach_reset, node.v_reset, node.v_threshold) == (
            1.5,
            True,
            True,
            0.0,
            1,
        )
        assert node.surrogate_function.alpha == 3.0
        node = NEURONS["if soft"]()
        assert type(node) is IF
        assert (node.v_reset, node.v_threshold, node.v_init) == (None, 0.7, 0.35)
        node = NEURONS["plif"]()
        assert type(node) is PLIF
        assert dynamics_of(node).rate.item() == pytest.approx(1 / 3)
        assert node.surrogate_function.alpha == 4.0
        node = NEURONS["scaled"]()
        assert type(node) is ScaledIF
        assert (node.neuron.v_init, node.neuron.v_reset, node.threshold) == (0.25, None, 1)
        assert type(NEURONS["relu"]()) is nn.ReLU
        node = NEURONS["qcfs"]()
        assert type(node) is QCFS
        assert (node.levels, node.bound.item(), node.clip_first) == (4, 3.0, False)

    @pytest.mark.parametrize(
        "wrong",
        [{"kind": "izhikevich"}, {"tau": 1.0}, {"v_threshold": 0.0}, {"reset": "none"}, {"threshold": 1.0}],
        ids=str,
    )
    def test_refuses(self, wrong):
        with pytest.raises(ValidationError):
            NeuronSpec(**wrong)

    def test_surrogates_without_alpha(self):
        with pytest.raises(RobustSNNError, match="surrogate PiecewiseLeakyReLU"):
            NeuronSpec(surrogate="PiecewiseLeakyReLU", alpha=1.0)()

    def test_scaled_neuron_fires_by_its_threshold(self):
        """``threshold * IF(x / threshold)`` is a neuron with that threshold, half charged at first."""
        threshold = torch.tensor([0.5, 2.0]).view(2, 1, 1)
        model = SpikingClassifier(nn.Sequential(ScaledIF(threshold)), 4)
        x = torch.tensor([0.3, 0.7]).view(1, 2, 1, 1)
        outputs, v = [], threshold / 2
        for _ in range(4):
            v = v + x
            spikes = threshold * (v >= threshold)
            v = v - spikes
            outputs.append(spikes)
        torch.testing.assert_close(model.outputs(x), torch.stack(outputs))


class TestModelSpec:
    def spec(self, name: str = "default", **kwargs) -> ModelSpec:
        return ModelSpec(
            **{
                "architecture": "vgg11",
                "options": {"width": 0.1, "hidden": 64},
                "neuron": NEURONS[name],
                "time_steps": 3,
                "readout": "sum",
                "normalize": ((0.4, 0.5), (0.2, 0.3)),
                "image_shape": (2, 8, 8),
                "num_classes": 4,
                **kwargs,
            }
        )

    @pytest.mark.parametrize("neuron", NEURONS)
    def test_json_round_trip_builds_an_equal_model(self, neuron):
        spec = self.spec(neuron)
        again = ModelSpec.model_validate_json(spec.model_dump_json())
        assert again == spec
        assert type(again.neuron) is type(spec.neuron)
        models = []
        for one in (spec, again):
            torch.manual_seed(0)
            models.append(one.build().eval())
        assert repr(models[0]) == repr(models[1])
        states = [model.state_dict() for model in models]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
        x = torch.rand(3, 2, 8, 8)
        assert torch.equal(models[0](x), models[1](x))
        assert spec.spiking == (neuron not in ("relu", "qcfs"))
        assert isinstance(models[0], SpikingClassifier if spec.spiking else AnnClassifier)

    def test_builds_what_it_says(self):
        model = self.spec(encoder="poisson").build()
        assert (model.time_steps, model.readout.name, model.stochastic) == (3, "sum", True)
        assert model.normalize == ((0.4, 0.5), (0.2, 0.3))
        assert model(torch.rand(2, 2, 8, 8)).shape == (2, 4)

    def test_defaults(self):
        spec = ModelSpec(image_shape=(1, 8, 8), num_classes=10)
        assert (spec.architecture, spec.time_steps, spec.encoder, spec.readout) == ("cnn", 8, "direct", "mean")
        assert spec.neuron == NeuronSpec()
        assert ModelSpec(image_shape=(1, 8, 8), num_classes=10, neuron={}) == spec

    @pytest.mark.parametrize(
        "wrong",
        [
            {"time_steps": 0},
            {"num_classes": 1},
            {"encoder": "latency"},
            {"readout": "median"},
            {"image_shape": (8, 8)},
            {"neuron": {"kind": "tanh"}},
            {"timesteps": 4},
        ],
        ids=str,
    )
    def test_refuses(self, wrong):
        with pytest.raises(ValidationError):
            self.spec(**wrong)

    def test_unknown_parts_are_named_when_built(self):
        with pytest.raises(RobustSNNError, match="unknown model 'vgg12'"):
            self.spec(architecture="vgg12").build()
        with pytest.raises(RobustSNNError, match="unknown option of model vgg11 'depth'"):
            self.spec(options={"depth": 3}).build()
        with pytest.raises(RobustSNNError, match="time_steps is a field of the model"):
            self.spec(options={"time_steps": 3}).build()

    def test_ann_normalises(self):
        model = self.spec("relu").build().eval()
        x = torch.rand(2, 2, 8, 8)
        mean, std = (torch.tensor(values).view(2, 1, 1) for values in ((0.4, 0.5), (0.2, 0.3)))
        torch.testing.assert_close(model(x), model.net((x - mean) / std))
        plain = AnnClassifier(model.net)
        assert torch.equal(plain(x), model.net(x))


class TestQCFS:
    def test_values(self):
        """``bound * clip(floor(x * Q / bound + 1/2) / Q, 0, 1)``, in both orders."""
        x = torch.tensor([-1.0, -0.2, 0.12, 0.13, 0.9, 1.87, 1.88, 5.0])
        expected = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 2.0, 2.0])
        scale = 2.0 / 4
        by_hand = (2.0 * ((x / scale + 0.5).floor() / 4).clamp(0, 1)).clamp(0, 2)
        torch.testing.assert_close(by_hand, expected)
        for clip_first in (True, False):
            torch.testing.assert_close(QCFS(4, 2.0, clip_first)(x), expected)

    @pytest.mark.parametrize(("clip_first", "slope_one"), [(True, (0.0, 2.0)), (False, (-0.25, 2.25))])
    def test_gradient(self, clip_first, slope_one):
        activation = QCFS(4, 2.0, clip_first)
        x = torch.tensor([-0.3, -0.2, 0.1, 1.0, 1.9, 2.1, 2.3], requires_grad=True)
        y = activation(x)
        (grad,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
        low, high = slope_one
        torch.testing.assert_close(grad, ((x >= low) & (x <= high)).to(x.dtype))
        # Gradient at the bound: output / bound - slope * x / bound, where the floor passes gradients straight through.
        (at_bound,) = torch.autograd.grad(y.sum(), activation.bound)
        torch.testing.assert_close(at_bound, ((y - grad * x) / 2.0).sum().detach())

    @pytest.mark.parametrize(("levels", "bound"), [(0, 1.0), (4, 0.0), (4, -1.0)])
    def test_refuses(self, levels, bound):
        with pytest.raises(RobustSNNError, match="QCFS needs levels >= 1 and bound > 0"):
            QCFS(levels, bound)

    def test_is_the_mean_of_a_half_charged_neuron(self):
        """Over T = Q steps of constant current the spikes of an IF that starts at half its threshold average to it."""
        x: Tensor = torch.linspace(-0.5, 3.0, 101, dtype=torch.float64).view(1, -1)
        neuron = ScaledIF(2.0).double()
        model = SpikingClassifier(nn.Sequential(neuron), 4)
        torch.testing.assert_close(model(x), QCFS(4, 2.0).double()(x).detach())
