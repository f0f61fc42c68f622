"""Networks with dense outputs: converted they tend to the ANN, run as every spiking network, and are refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustsnn import dense
from robustsnn.classifier import SpikingClassifier
from robustsnn.conversion import convert, with_cos, with_srp
from robustsnn.errors import RobustSNNError
from robustsnn.gradients import BPTR, BPTT
from robustsnn.models import AnnClassifier


def images(n: int = 3, side: int = 16, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def seeded(net: nn.Module, seed: int = 1) -> nn.Module:
    """Random weights, and norms whose running statistics are not the trivial ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                if tensor.is_floating_point():
                    random = torch.rand(tensor.shape, generator=generator)
                    positive = name in ("running_var", "weight") and tensor.dim() == 1
                    tensor.copy_(0.5 + random if positive else (random - 0.4) / math.sqrt(tensor[0].numel() + 1))
    return net.eval()


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).detach().norm() / wanted.detach().norm())


class FrozenBatchNorm2d(nn.Module):
    """As detection backbones have it: an affine map of buffers, written in elementary operations."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.eps = 1e-3
        for name, value in {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}.items():
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


class Decoder(nn.Module):
    """Everything that dense networks have between neurons: skips, both ways of upsampling, dilation, several levels."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.first, self.norm = nn.Conv2d(3, 6, 3, 2, 1, bias=False), FrozenBatchNorm2d(6)
        self.second = nn.Conv2d(6, 6, 3, 1, 2, dilation=2)
        self.up = nn.ConvTranspose2d(6, 6, 2, 2)
        self.pooled = nn.Conv2d(6, 6, 1)
        self.score = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        size = x.shape[-2:]
        x = self.relu(self.norm(self.first(x)))
        x = x + self.relu(self.second(x))
        wide = F.adaptive_avg_pool2d(x, 1)
        wide = F.interpolate(F.relu(self.pooled(wide)), size=size, mode="bilinear", align_corners=False)
        out = self.score(torch.cat([F.relu(self.up(x)), wide], 1))
        return {"out": out, "aux": F.interpolate(x, scale_factor=2.0)}


def segmenter() -> nn.Module:
    return seeded(dense.SmallFcn(4, width=4))


class TestOutputs:
    def test_one_hidden_layer_is_the_closed_form(self) -> None:
        """A constant current z gives clip(floor(z T / theta + 1/2), 0, T) spikes of theta, place by place."""
        net = seeded(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))).double()
        x, steps = images(dtype=torch.float64), 7
        model = dense.convert_dense(net, "max", steps, x, v_init=0.5)
        z = net[0](x)
        theta = z.max()
        rounded = (z * steps / theta + 0.5).floor().clamp(0, steps) * theta / steps
        torch.testing.assert_close(model(x), net[2](rounded))

    def test_tends_to_the_ann(self) -> None:
        net, x = seeded(Decoder()), images()
        model = dense.convert_dense(net, "max", 8, x, output="out", v_init=0.5)
        wanted = net(x)["out"]
        errors = [relative(outputs, wanted) for outputs in dense.outputs_at(model, x, [8, 64, 256])]
        assert wanted.shape == (3, 5, 16, 16)
        assert errors[0] > errors[1] > errors[2]
        assert errors[2] < 0.02

    @pytest.mark.parametrize("method", ["max", "percentile", "opi", "ltb"])
    def test_every_method_takes_dense_networks(self, method: str) -> None:
        options = {"iterations": 30} if method == "ltb" else {}
        model = dense.convert_dense(segmenter(), method, 32, images(), **options)
        assert relative(model(images()), segmenter()(images())) < 0.5

    def test_reference_and_steps_agree(self) -> None:
        model, x = dense.convert_dense(segmenter(), "opi", 6, images()), images(20)
        torch.testing.assert_close(model(x), model.reference(x), rtol=1e-4, atol=1e-5)
        assert model.logits_over_time(x[:1]).shape == (6, 1, 4, 16, 16)

    def test_one_pass_gives_every_number_of_steps(self) -> None:
        net, x = segmenter().double(), images(2, dtype=torch.float64)
        model = dense.convert_dense(net, "opi", 3, x)
        for steps, found in zip([5, 1, 40], dense.outputs_at(model, x, [5, 1, 40])):
            torch.testing.assert_close(found, dense.convert_dense(net, "opi", steps, x)(x))

    def test_delayed_readouts_stay(self) -> None:
        model = dense.convert_dense(segmenter(), "ltb", 12, images(), iterations=20, delayed=True)
        found = dense.outputs_at(model, images(), [12])[0]
        torch.testing.assert_close(found, model(images()), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("corrected", [with_srp, with_cos])
    def test_corrections_take_dense_outputs(self, corrected: Callable[..., SpikingClassifier]) -> None:
        """COS gives every neuron the count of the quantised ANN; both agree with their plain way."""
        net, x = nn.Sequential(*seeded(dense.SmallFcn(4, width=4)).fine).double(), images(2, dtype=torch.float64)
        better = corrected(dense.convert_dense(net, "max", 8, x, v_init=0.5), 8)
        assert better(x).shape == (2, 8, 4, 4)
        torch.testing.assert_close(better(x), better.reference(x))
        if corrected is with_cos:
            model = dense.convert_dense(net, "max", 8, x, v_init=0.5)
            assert relative(better(x), net(x)) < relative(model(x), net(x))

    def test_the_network_stays_as_it_was(self) -> None:
        net = seeded(Decoder()).train()
        before = {name: value.clone() for name, value in net.state_dict().items()}
        dense.convert_dense(net, "max", 4, images(), output="out")
        assert net.training
        assert isinstance(net.norm, FrozenBatchNorm2d)
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())

    def test_normalisation_of_an_ann_classifier_is_kept(self) -> None:
        ann = AnnClassifier(seeded(Decoder()), ((0.4, 0.5, 0.6), (0.2, 0.3, 0.2))).eval()
        model = dense.convert_dense(ann, "max", 128, images(), output="out", v_init=0.5)
        assert model.normalize == ann.normalize
        assert relative(model(images()), ann(images())["out"]) < 0.04


class TestGradients:
    def test_rate_rules_take_one_frame(self) -> None:
        model, x = dense.convert_dense(segmenter(), "opi", 6, images()), images()
        gradients = []
        for rule in (BPTR(), BPTR(single_frame=False)):
            leaf = x.clone().requires_grad_()
            outputs = model.through(rule)(leaf)
            torch.testing.assert_close(outputs, model(x), rtol=1e-4, atol=1e-5)
            gradients.append(torch.autograd.grad(outputs.square().sum(), leaf)[0])
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)
        assert gradients[0].any()

    def test_bptt_is_autograd_through_the_steps(self) -> None:
        model, x = dense.convert_dense(segmenter(), "opi", 4, images()), images()
        first, second = x.clone().requires_grad_(), x.clone().requires_grad_()
        torch.testing.assert_close(
            torch.autograd.grad(model.through(BPTT())(first).sin().sum(), first)[0],
            torch.autograd.grad(model(second).sin().sum(), second)[0],
        )


class TestFrozenNorms:
    def test_batch_norm_computes_the_same(self) -> None:
        net = seeded(nn.Sequential(nn.Conv2d(3, 6, 1), FrozenBatchNorm2d(6)))
        copied = dense.thawed(net)
        assert isinstance(copied[1], nn.BatchNorm2d)
        assert copied[1].eps == 1e-3
        assert not any(p.requires_grad for p in copied[1].parameters())
        torch.testing.assert_close(copied(images()), net(images()))


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1)
        self.before = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.norm(self.first(F.relu(self.before(x))))))


class TestGroupNorm:
    def test_is_refused_by_name_with_the_remedy(self) -> None:
        with pytest.raises(RobustSNNError, match=r"layer 'norm' \(GroupNorm\): .*every frame.*is_per_step"):
            dense.convert_dense(seeded(Grouped()), "max", 4, images())

    def test_per_step_is_a_norm_of_each_frame(self) -> None:
        """Against single steps written out, with every neuron's potential in plain tensors."""
        net, x, steps = seeded(Grouped()).double(), images(2, dtype=torch.float64), 5
        model = dense.convert_dense(net, "max", steps, x, v_init=0.5, frame_norms=(nn.GroupNorm,))
        first, second = (current.max() for current in (net.before(x), net.norm(net.first(F.relu(net.before(x))))))
        v1, v2, total = first / 2, second / 2, 0
        for _ in range(steps):
            v1 = v1 + net.before(x)
            spikes = (v1 >= first) * first
            v1 = v1 - spikes
            v2 = v2 + net.norm(net.first(spikes))
            spikes = (v2 >= second) * second
            v2 = v2 - spikes
            total = total + net.last(spikes) / steps
        torch.testing.assert_close(model(x), total)

    def test_rate_rules_fall_back_to_all_frames(self) -> None:
        model = dense.convert_dense(seeded(Grouped()), "max", 4, images(), frame_norms=(nn.GroupNorm,))
        gradients = []
        for rule in (BPTR(), BPTR(single_frame=False)):
            leaf = images().requires_grad_()
            gradients.append(torch.autograd.grad(model.through(rule)(leaf).square().sum(), leaf)[0])
        torch.testing.assert_close(*gradients)

    def test_kinds_must_be_modules(self) -> None:
        with pytest.raises(RobustSNNError, match="module types"):
            dense.per_step(nn.Identity(), (F.relu,))  # type: ignore[arg-type]


class TestLevels:
    def test_pack_and_unpack(self) -> None:
        levels = [torch.rand(2, 5, -(-50 // s), -(-37 // s)) for s in (8, 16, 32)]
        back = dense.unpack(dense.pack(levels), (50, 37), (8, 16, 32))
        assert all(torch.equal(one, other) for one, other in zip(levels, back))

    def test_strides_that_do_not_fit(self) -> None:
        with pytest.raises(RobustSNNError, match="have 5 places, the features have 4"):
            dense.unpack(torch.rand(1, 2, 4), (16, 16), (8, 16))

    def test_analogue_head_on_the_mean(self) -> None:
        """The head sees the mean over time, is run once, and passes its gradient into the rule of the trunk."""
        trunk = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten(2))
        spiking = dense.convert_dense(seeded(trunk), "max", 6, images())
        head = _Head()
        model = dense.AnalogueHead(spiking, head, (2,)).eval()
        x = images()
        wanted = head([spiking(x).unflatten(2, (8, 8))])
        torch.testing.assert_close(model(x), wanted)
        for found in dense.outputs_at(model, x, [6]):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        leaf, other = images().requires_grad_(), images().requires_grad_()
        view = model.through(BPTR())
        assert isinstance(view.rule, BPTR)
        gradient = torch.autograd.grad(view(leaf).sum(), leaf)[0]
        through = head([spiking.through(BPTR())(other).unflatten(2, (8, 8))])
        torch.testing.assert_close(gradient, torch.autograd.grad(through.sum(), other)[0])


class _Head(nn.Module):
    def forward(self, levels: list[Tensor]) -> Tensor:
        (level,) = levels
        return F.group_norm(level, 2).square()


class TestBadInput:
    def test_a_dict_without_a_choice(self) -> None:
        with pytest.raises(RobustSNNError, match="returns a dict; choose one entry, output='out' or 'aux'"):
            dense.convert_dense(seeded(Decoder()), "max", 4, images())

    def test_an_entry_that_is_not_there(self) -> None:
        with pytest.raises(RobustSNNError, match=r"does not take images .*masks"):
            dense.convert_dense(seeded(Decoder()), "max", 4, images(), output="masks")

    def test_class_logits_are_not_dense(self) -> None:
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        with pytest.raises(RobustSNNError, match=r"must return maps .* got shape \[1, 4\]"):
            dense.convert_dense(net, "max", 4, images())

    def test_a_list_is_not_dense(self) -> None:
        with pytest.raises(RobustSNNError, match="got list"):
            dense.check_dense(_Lists(), images())

    def test_outputs_that_are_not_finite(self) -> None:
        with pytest.raises(RobustSNNError, match="not finite"):
            dense.check_dense(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Threshold(1e9, math.inf)), images())

    def test_images_of_the_wrong_channels(self) -> None:
        with pytest.raises(RobustSNNError, match=r"does not take images of shape \[1, 1, 16, 16\]"):
            dense.convert_dense(segmenter(), "max", 4, images()[:, :1])

    def test_time_steps(self) -> None:
        with pytest.raises(RobustSNNError, match="time_steps must be a whole number of at least 1"):
            dense.convert_dense(segmenter(), "max", 0, images())
        model = dense.convert_dense(segmenter(), "max", 2, images())
        for bad in ([], [0], [4, -1], [True], [2.5]):
            with pytest.raises(RobustSNNError, match="whole numbers of at least 1"):
                dense.outputs_at(model, images(), bad)  # type: ignore[arg-type]

    def test_no_spiking_model(self) -> None:
        with pytest.raises(RobustSNNError, match="only a spiking model"):
            dense.outputs_at(segmenter(), images(), [2])  # type: ignore[arg-type]
        with pytest.raises(RobustSNNError, match="training mode"):
            dense.outputs_at(dense.convert_dense(segmenter(), "max", 2, images()).train(), images(), [2])

    def test_a_spiking_model_is_not_converted_again(self) -> None:
        model = dense.convert_dense(segmenter(), "max", 2, images())
        assert isinstance(model, SpikingClassifier)
        with pytest.raises(RobustSNNError, match="spiking already"):
            dense.convert_dense(model, "max", 2, images())

    def test_calibration_batches_are_all_used(self) -> None:
        """A generator's first batch, looked at for the shape, takes part in the thresholds."""
        bright = [torch.ones(1, 3, 16, 16), *images().split(1)]
        one = dense.convert_dense(segmenter(), "max", 4, iter(bright))
        other = convert(segmenter(), "max", 4, bright)
        assert torch.equal(one(images()), other(images()))


class _Lists(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [x]
