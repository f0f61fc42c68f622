"""Shortcuts of multi-step SpikingJelly networks under a rule: time enters at the first neuron, channels last, decisions."""

from __future__ import annotations

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

import robustsnn as rs

T, N = 5, 3


class OwnLIF(neuron.LIFNode):
    """A neuron that robustsnn does not know."""

    def neuronal_charge(self, x: torch.Tensor) -> None:
        self.v = self.v * 0.25 + x

    def single_step_forward(self, x: torch.Tensor) -> torch.Tensor:
        self.v_float_to_tensor(x)
        self.neuronal_charge(x)
        spike = self.neuronal_fire()
        self.neuronal_reset(spike)
        return spike


class StepWeights(nn.Module):
    """Not the same at every step, as batch norms through time are not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.arange(1, len(x) + 1, dtype=x.dtype).view(-1, 1, 1, 1, 1)


def network(first: nn.Module | None = None, node: type[neuron.BaseNode] = neuron.LIFNode) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Sequential(layer.Conv2d(3, 8, 3, padding=1), layer.BatchNorm2d(8)),
            first or nn.Identity(),
            node(tau=2.0, surrogate_function=surrogate.ATan()),
            layer.AvgPool2d(2),
            layer.Conv2d(8, 8, 3, padding=1),
            layer.BatchNorm2d(8),
            node(tau=2.0, surrogate_function=surrogate.ATan()),
            layer.Flatten(),
            layer.Linear(8 * 16, 4),
        )
        functional.set_step_mode(net, "m")
        for norm in net.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_var.fill_(0.02)
                norm.weight.data.uniform_(0.8, 1.2)
                norm.bias.data.fill_(0.4)
    return net.eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(N, 3, 8, 8, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def frames(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many frames each convolution got."""
    seen: list[int] = []
    original = nn.Conv2d._conv_forward
    monkeypatch.setattr(nn.Conv2d, "_conv_forward", lambda self, x, *a: seen.append(len(x)) or original(self, x, *a))
    return seen


def logits_and_gradient(model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = images.clone().requires_grad_()
    logits = model(x)
    weights = torch.arange(logits.numel(), dtype=logits.dtype).view_as(logits).cos()
    return logits.detach(), torch.autograd.grad((logits * weights).sum(), x)[0]


def assert_same(model: rs.SpikingClassifier, images: torch.Tensor, view: nn.Module) -> None:
    expected, found = logits_and_gradient(model, images), logits_and_gradient(view, images)
    assert expected[1].flatten(1).abs().amax(1).min() > 1e-4
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-6)


class TestTimeEntersAtTheFirstNeuron:
    def test_layers_before_it_run_once(self, images, frames) -> None:
        model = rs.SpikingClassifier(network(), T)
        assert_same(model, images, model.through(rs.gradients.BPTT()))
        assert frames == [T * N, T * N, N, T * N]

    def test_in_double_precision_and_with_a_normalisation(self, images, frames) -> None:
        model = rs.SpikingClassifier(network().double(), T, normalize=((0.4, 0.5, 0.5), (0.2, 0.3, 0.2)))
        assert_same(model, images.double(), model.through(rs.gradients.BPTT()))
        assert frames == [T * N, T * N, N, T * N]

    def test_not_before_a_module_that_may_look_at_time(self, images, frames) -> None:
        model = rs.SpikingClassifier(network(StepWeights()), T)
        assert_same(model, images, model.through(rs.gradients.BPTT()))
        assert frames == [T * N, T * N, N, T * N]

    def test_not_through_a_subclass(self, images, frames) -> None:
        net = network()
        net[0][0].__class__ = type("Mine", (layer.Conv2d,), {})
        model = rs.SpikingClassifier(net, T)
        assert_same(model, images, model.through(rs.gradients.BPTT()))
        assert frames == [T * N, T * N, T * N, T * N]

    def test_a_hook_sees_every_step(self, images) -> None:
        net, seen = network(), []
        net[0][0].register_forward_hook(lambda module, inputs, output: seen.append(output.shape[:2]))
        model = rs.SpikingClassifier(net, T)
        assert_same(model, images, model.through(rs.gradients.BPTT()))
        assert seen == [(T, N), (T, N)]

    def test_batch_norm_in_training_sees_every_step(self, images) -> None:
        models = [rs.SpikingClassifier(network().train(), T) for _ in range(2)]
        logits = [models[0](images), models[1].through(rs.gradients.BPTT())(images)]
        torch.testing.assert_close(*logits)
        for ours, theirs in zip(models[0].buffers(), models[1].buffers()):
            torch.testing.assert_close(ours, theirs)

    def test_frames_of_a_stochastic_encoder_differ(self, images, frames) -> None:
        model = rs.SpikingClassifier(network(), T, encoder="poisson")
        model.through(rs.gradients.BPTT())(images.requires_grad_())
        assert frames == [T * N, T * N]

    @pytest.mark.parametrize("count", [1, 2])
    def test_few_images_give_the_same_bits(self, count) -> None:
        model = rs.SpikingClassifier(network(), T)
        view = model.through(rs.gradients.BPTT())
        for seed in range(10):
            x = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)).requires_grad_()
            assert torch.equal(view(x), model(x))

    def test_rate_rules_agree_with_their_plain_twin(self, images) -> None:
        model = rs.SpikingClassifier(network(), T)
        quick, plain = (
            logits_and_gradient(model.through(rs.gradients.BPTR(single_frame=flag)), images) for flag in (True, False)
        )
        assert torch.equal(quick[0], plain[0])
        torch.testing.assert_close(quick[1], plain[1], rtol=1e-3, atol=1e-5)


class TestChannelsLast:
    def test_logits_and_gradients(self, images) -> None:
        model = rs.SpikingClassifier(network(), T)
        expected = logits_and_gradient(model, images)
        found = logits_and_gradient(model.through(rs.gradients.BPTT(), channels_last=True), images)
        torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[1], expected[1], rtol=1e-3, atol=1e-5)

    def test_the_network_gets_them(self, images, monkeypatch) -> None:
        seen: list[bool] = []
        original = nn.Conv2d._conv_forward

        def note(self: nn.Conv2d, x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
            seen.append(x.is_contiguous(memory_format=torch.channels_last))
            return original(self, x, *rest)

        monkeypatch.setattr(nn.Conv2d, "_conv_forward", note)
        model = rs.SpikingClassifier(network(), T)
        view = model.through(rs.gradients.BPTT(), channels_last=True)
        view(images.requires_grad_())
        assert seen == [True, True]
        seen.clear()
        view.through(rs.gradients.BPTT())(images)
        assert seen == [True, True]
        seen.clear()
        with torch.no_grad():
            assert torch.equal(view(images), model(images))
        assert seen == [False] * 4

    def test_folded_networks_and_data_that_are_no_images(self, images) -> None:
        net = nn.Sequential(nn.Conv2d(3, 8, 3), rs.neurons.LIF(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8 * 9, 4))
        model = rs.SpikingClassifier(net, T).eval()
        view = model.through(rs.gradients.BPTT(), channels_last=True)
        for ours, theirs in zip(logits_and_gradient(view, images), logits_and_gradient(model, images)):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
        dense = rs.SpikingClassifier(nn.Sequential(nn.Linear(6, 9), rs.neurons.LIF(), nn.Linear(9, 4)), T).eval()
        x = torch.rand(N, 6)
        found = logits_and_gradient(dense.through(rs.gradients.BPTT(), channels_last=True), x)
        assert torch.equal(found[0], logits_and_gradient(dense, x)[0])


class TestDecisions:
    def test_by_the_fused_neurons(self, images, frames) -> None:
        model = rs.SpikingClassifier(network(), T)
        with torch.no_grad():
            expected = model(images)
            frames.clear()
            assert torch.equal(model.through(rs.gradients.BPTR())(images), expected)
        assert frames == [N, T * N]

    def test_by_spikingjelly_where_it_alone_knows_the_neuron(self, images) -> None:
        model = rs.SpikingClassifier(network(node=OwnLIF), T)
        with torch.no_grad():
            assert torch.equal(model.through(rs.gradients.BPTT())(images), model(images))

    def test_a_stochastic_encoder_draws_once(self, images) -> None:
        models = [rs.SpikingClassifier(network(node=OwnLIF), T, encoder="poisson") for _ in range(2)]
        with torch.no_grad():
            for _ in range(2):
                assert torch.equal(models[0].through(rs.gradients.BPTT())(images), models[1](images))

    def test_a_forward_set_on_a_neuron_is_neither_left_out_nor_lost(self, images) -> None:
        net = network()
        node = next(module for module in net.modules() if isinstance(module, neuron.BaseNode))
        own = node.forward
        node.forward = lambda x: own(3 * x)
        model = rs.SpikingClassifier(net, T)
        view = model.through(rs.gradients.BPTT())
        with pytest.raises(rs.errors.RobustSNNError, match="LIFNode has a forward that was set on the object"):
            view(images.requires_grad_())
        with torch.no_grad():
            louder = model(images)
            assert torch.equal(view(images), louder)
            assert not torch.equal(louder, rs.SpikingClassifier(network(), T)(images))
