"""tdBN and TEBN: against SpikingJelly's layers over time, closed forms, and under every way a model is run."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from spikingjelly.activation_based import functional, layer, surrogate
from spikingjelly.activation_based import neuron as sj
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.errors import RobustSNNError
from robustsnn.gradients import BPTR, BPTT, CBA, HART, RGA
from robustsnn.gradients.affine import is_affine_between_neurons
from robustsnn.models import ActivationSpec, ModelSpec, NeuronSpec, ScaledIFSpec, build_network
from robustsnn.models.norms import build_norms
from robustsnn.models.temporal_norm import TemporalBatchNorm2d
from robustsnn.neurons import IF
from robustsnn.neurons.execution import Execution, executing, own_step

T, N, C = 4, 3, 5


def randomly(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair() -> tuple[TemporalBatchNorm2d, layer.TemporalEffectiveBatchNorm2d]:
    """Our TEBN and SpikingJelly's, with equal random parameters."""
    ours, theirs = TemporalBatchNorm2d(C, T).double(), layer.TemporalEffectiveBatchNorm2d(T, C).double()
    with torch.no_grad():
        ours.scales.copy_(torch.tensor([0.5, 1.5, -0.3, 1.1]))
        ours.norm.weight.copy_(randomly(C, seed=1))
        ours.norm.bias.copy_(randomly(C, seed=2))
        theirs.scale.copy_(ours.scales)
        theirs.weight.copy_(ours.norm.weight)
        theirs.bias.copy_(ours.norm.bias)
    return ours, theirs


def folded(norm: nn.Module, x_seq: Tensor) -> Tensor:
    with executing(norm, Execution(len(x_seq), own_step)):
        return norm(x_seq.flatten(0, 1)).view(x_seq.shape)


class TestTEBN:
    @pytest.mark.parametrize("training", [True, False])
    def test_is_spikingjellys(self, training):
        ours, theirs = pair()
        for norm in (ours, theirs):
            norm.train(training)
        for seed in range(2):
            x = (3 * randomly(T, N, C, 6, 6, seed=seed) + 1).requires_grad_()
            got, expected = folded(ours, x), theirs(x)
            torch.testing.assert_close(got, expected)
            weights = randomly(*x.shape, seed=9)
            mine = torch.autograd.grad((got * weights).sum(), [x, ours.scales, ours.norm.weight, ours.norm.bias])
            other = torch.autograd.grad((expected * weights).sum(), [x, theirs.scale, theirs.weight, theirs.bias])
            torch.testing.assert_close(mine, other)
            torch.testing.assert_close(ours.norm.running_var, theirs.running_var)
            torch.testing.assert_close(ours.norm.running_mean, theirs.running_mean)

    def test_pieces_of_a_run_and_mean_frames(self):
        """Steps two and three take scales two and three; a mean frame the mean of all."""
        ours, _ = pair()
        ours.eval()
        x = randomly(T, N, C, 2, 2)
        whole, plain = folded(ours, x), ours.norm(x.flatten(0, 1)).view(x.shape)
        with executing(ours, Execution(2, own_step, first_step=1)):
            torch.testing.assert_close(ours(x[1:3].flatten(0, 1)).view_as(x[1:3]), whole[1:3])
        with executing(ours, Execution(1, own_step, mean_of=T)):
            torch.testing.assert_close(ours(x[0]), ours.scales.mean() * plain[0])

    def test_steps_one_by_one(self):
        ours, _ = pair()
        ours.eval()
        x = randomly(T, N, C, 2, 2)
        for _ in range(2):
            torch.testing.assert_close(torch.stack([ours(frame) for frame in x]), folded(ours, x))
            with pytest.raises(RobustSNNError, match=r"TEBN has scales for 4 steps .* call reset_state\(\)"):
                ours(x[0])
            ours.reset_state()

    def test_more_steps_than_scales(self):
        ours, _ = pair()
        with pytest.raises(RobustSNNError, match=r"parameters for 4 steps .* time_steps=4"):
            folded(ours, randomly(6, N, C, 2, 2))


def tebn_model(encoder: str = "direct", time_steps: int = T, readout: str = "mean") -> SpikingClassifier:
    torch.manual_seed(0)
    spec = NeuronSpec(kind="lif", surrogate="ATan")
    net = build_network("vgg9", (2, 8, 8), 4, spec, time_steps, norm="tebn", width=0.06, hidden=300)
    model = SpikingClassifier(net, time_steps, encoder, readout).double()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, TemporalBatchNorm2d):
                module.scales.uniform_(0.5, 1.6)
                module.norm.bias.uniform_(0.2, 0.6)
                module.norm.momentum = None
        for _ in range(2):
            model.train()(images(32))
    return model.eval()


def images(count: int = 5) -> Tensor:
    return torch.rand(count, 2, 8, 8, generator=torch.Generator().manual_seed(count), dtype=torch.float64)


def gradient(model: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad((model(x) * randomly(4, seed=3)).sum(), x)[0]


class TestTEBNInModels:
    @pytest.mark.parametrize("training", [False, True])
    def test_is_a_network_of_spikingjelly(self, training):
        """Logits, and gradients at image and weights, of the same network in SpikingJelly's layers over time."""
        torch.manual_seed(0)
        norm, their_norm = pair()
        spec = NeuronSpec(kind="lif", surrogate="ATan", detach_reset=True)
        ours = SpikingClassifier(nn.Sequential(nn.Conv2d(2, C, 3), norm, spec(), nn.Flatten(), nn.Linear(180, 4)), T)
        node = sj.LIFNode(2.0, decay_input=False, surrogate_function=surrogate.ATan(), detach_reset=True)
        theirs = nn.Sequential(layer.Conv2d(2, C, 3), their_norm, node, layer.Flatten(), layer.Linear(180, 4))
        functional.set_step_mode(theirs, "m")
        ours, theirs = ours.double().train(training), theirs.double().train(training)
        for index in (0, 4):
            theirs[index].load_state_dict(ours.net[index].state_dict())
        mine, other = (images().requires_grad_() for _ in range(2))
        a, b = ours(mine), theirs(other.expand(T, *other.shape)).mean(0)
        torch.testing.assert_close(a, b)
        assert a.std() > 0.05
        for logits in (a, b):
            (logits * randomly(4, seed=3)).sum().backward()
        torch.testing.assert_close(mine.grad, other.grad)
        torch.testing.assert_close(norm.scales.grad, their_norm.scale.grad)
        torch.testing.assert_close(ours.net[0].weight.grad, theirs[0].weight.grad)
        torch.testing.assert_close(norm.norm.running_var, their_norm.running_var)

    def test_reference_leaves_no_steps_behind(self):
        model = tebn_model()
        x = images()
        for _ in range(2):
            torch.testing.assert_close(model.reference(x), model(x), rtol=1e-9, atol=1e-9)
        assert all(m.v is None for m in model.modules() if isinstance(m, TemporalBatchNorm2d))

    def test_scales_matter(self):
        model = tebn_model()
        other = copy.deepcopy(model)
        with torch.no_grad():
            for module in other.modules():
                if isinstance(module, TemporalBatchNorm2d):
                    module.scales.copy_(module.scales.flip(0))
        assert not torch.allclose(model(images()), other(images()))
        torch.testing.assert_close(other.reference(images()), other(images()), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("rule", [BPTR, RGA, HART])
    def test_rate_rules_take_all_frames(self, rule):
        model = tebn_model()
        assert not is_affine_between_neurons(model.net)
        quick, plain = (gradient(model.through(rule(single_frame=s)), images()) for s in (True, False))
        assert torch.equal(quick, plain)
        assert plain.any()

    def test_constant_spikes_do_not_deceive_rate_rules(self):
        """Neurons that fire at every step have the same mean current either way, but another gradient."""
        torch.manual_seed(0)
        spec = NeuronSpec(kind="if", v_threshold=0.01)
        layers = [nn.Conv2d(2, 3, 1), TemporalBatchNorm2d(3, T), spec(), nn.Conv2d(3, 3, 1), TemporalBatchNorm2d(3, T)]
        model = SpikingClassifier(nn.Sequential(*layers, spec(), nn.Flatten(), nn.Linear(192, 4)), T).double().eval()
        with torch.no_grad():
            for module in (layers[1], layers[4]):
                module.scales.copy_(torch.tensor([0.2, 1.0, 3.0, 0.5]))
                module.norm.bias.fill_(9.0)
        x = images()
        assert (model.run(model.encode(x), own_step).std(0) == 0).all()
        torch.testing.assert_close(
            gradient(model.through(BPTR()), x), gradient(model.through(BPTR(single_frame=False)), x)
        )

    @pytest.mark.parametrize("count", [5, 40])
    def test_cba(self, count):
        """Values of the spiking network, also run in pieces; gradient of the artificial one with the mean scale."""
        model = tebn_model(time_steps=6)
        x = images(count)
        torch.testing.assert_close(model.through(CBA())(x), model.reference(x), rtol=1e-9, atol=1e-9)
        artificial = []
        for module in model.net:
            if isinstance(module, TemporalBatchNorm2d):
                norm = copy.deepcopy(module.norm)
                with torch.no_grad():
                    norm.weight.mul_(module.scales.mean())
                    norm.bias.mul_(module.scales.mean())
                artificial.append(norm)
            elif isinstance(module, IF | sj.LIFNode):
                artificial.append(nn.ReLU())
            else:
                artificial.append(module)
        torch.testing.assert_close(gradient(model.through(CBA()), x), gradient(nn.Sequential(*artificial).eval(), x))

    @pytest.mark.parametrize("readout", ["mean", "last"])
    def test_bptt_is_the_networks_own_gradient(self, readout):
        model = tebn_model(readout=readout)
        view = model.through(BPTT("ATan", alpha=2.0))
        torch.testing.assert_close(gradient(view, images()), gradient(model, images()))

    def test_poisson(self):
        model = tebn_model("poisson")
        assert model.through(BPTT())(images()).isfinite().all()


def noting_deviation(found: list[float]) -> Callable[[nn.Module, tuple[Tensor]], None]:
    return lambda _module, inputs: found.append(inputs[0].std().item())


class TestTdBN:
    def test_is_spikingjellys(self):
        """Plain batch norm on the folded axis takes the statistics of SpikingJelly's tdBN over time and batch."""
        ours = build_norms("tdbn", NeuronSpec(v_threshold=0.6), None)(C).double()
        theirs = layer.ThresholdDependentBatchNorm2d(1.0, 0.6, C).double()
        torch.testing.assert_close(ours.weight, theirs.weight)
        for training in (True, False):
            x = 2 * randomly(T, N, C, 6, 6) - 1
            torch.testing.assert_close(folded(ours.train(training), x), theirs.train(training)(x))
        torch.testing.assert_close(ours.running_var, theirs.running_var)

    def test_currents_have_the_thresholds_deviation(self):
        """Every neuron of a fresh residual network gets currents of standard deviation ``v_threshold``."""
        torch.manual_seed(0)
        threshold = 0.7
        for name in ("resnet19", "sew-resnet18", "vgg9", "wrn16-4"):
            options = {"width": 0.5 if name == "wrn16-4" else 0.1, "norm": "tdbn"}
            net = build_network(name, (3, 16, 16), 5, NeuronSpec(v_threshold=threshold), **options)
            found: list[float] = []
            for path, module in net.named_modules():
                onto_the_input = path.endswith(".neuron") and isinstance(
                    net.get_submodule(path.split(".")[0]).shortcut, nn.Identity
                )
                after_linear = path.isdigit() and not isinstance(net[int(path) - 1], nn.BatchNorm2d)
                if isinstance(module, IF) and not onto_the_input and not after_linear:
                    module.register_forward_pre_hook(noting_deviation(found))
            model = SpikingClassifier(net, 2).train()
            model(torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
            assert len(found) == {"resnet19": 1 + 8 + 2, "sew-resnet18": 20, "vgg9": 7, "wrn16-4": 13}[name]
            assert found == pytest.approx([threshold] * len(found), rel=0.15), name

    def test_weights(self):
        """Both branches of a sum begin at threshold / sqrt(2), everything else at the threshold, biases at 0."""
        net = build_network("resnet20", (3, 8, 8), 5, NeuronSpec(v_threshold=0.5), norm="tdbn", width=0.25)
        for path, module in net.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                end = path.endswith(("residual.4", "shortcut.1"))
                expected = 0.5 / math.sqrt(2) if end else 0.5
                assert module.weight.tolist() == pytest.approx([expected] * len(module.weight)), path
                assert not module.bias.any()

    @pytest.mark.parametrize(
        ("neuron", "threshold"),
        [
            (NeuronSpec(kind="lif", v_threshold=1.5), 1.5),
            (NeuronSpec(kind="plif", v_threshold=0.25), 0.25),
            (ScaledIFSpec(), 1.0),
            (ActivationSpec(kind="relu"), 1.0),
            (nn.ReLU, 1.0),
            (IF, 1.0),
        ],
    )
    def test_threshold_comes_from_the_neuron(self, neuron, threshold):
        net = build_network("cnn", (1, 8, 8), 5, neuron, norm="tdbn")
        assert (net[1].weight == threshold).all()

    def test_specs_pass_it_on(self):
        spec = ModelSpec(
            architecture="resnet19",
            options={"width": 0.03},
            neuron=NeuronSpec(v_threshold=0.3),
            image_shape=(1, 8, 8),
            num_classes=3,
        )
        assert spec.build().net[1].weight.tolist() == pytest.approx([0.3] * 4)
