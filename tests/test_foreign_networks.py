"""Networks of snnTorch, Norse and sinabs and plain functions: equal to their own loops, fresh on every call."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import layer, neuron, surrogate
from torch import Tensor, nn

from robustsnn import gradients
from robustsnn.attacks import FGSM, PGD
from robustsnn.classifier import SpikingClassifier, reset_states
from robustsnn.errors import RobustSNNError
from robustsnn.layouts import LAYOUTS, find_layout
from robustsnn.neurons import IF, LIF
from robustsnn.readout import READOUTS

T = 5


def images(n: int = 6, seed: int = 0) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def over_time(x: Tensor) -> Tensor:
    return x.expand(T, *x.shape)


class Breakable(nn.Module):
    """The identity, until it is told to fail at its second call."""

    calls_left: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise ZeroDivisionError("broken on purpose")
        return x


def weighted() -> tuple[nn.Conv2d, nn.Linear]:
    return nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * 16, 3)


# snnTorch


def snntorch_hidden(snn: ModuleType) -> nn.Module:
    conv, linear = weighted()
    first = snn.Leaky(beta=0.8, threshold=0.4, init_hidden=True)
    second = snn.Synaptic(alpha=0.5, beta=0.7, threshold=0.3, init_hidden=True, output=True)
    return nn.Sequential(conv, first, nn.AvgPool2d(2), Breakable(), nn.Flatten(), linear, second)


def snntorch_hidden_by_hand(net: nn.Module, x: Tensor) -> Tensor:
    utils = importlib.import_module("snntorch.utils")
    utils.reset(net)
    return torch.stack([net(x)[0] for _ in range(T)])


class SnnTorchExplicit(nn.Module):
    """One step with the state in the arguments: ``(x, mem1, mem2) -> (spk, mem1, mem2)``."""

    def __init__(self, snn: ModuleType, loops: str = "") -> None:
        super().__init__()
        self.conv, self.linear = weighted()
        self.pool = nn.Sequential(nn.AvgPool2d(2), Breakable(), nn.Flatten())
        self.lif1, self.lif2 = snn.Leaky(beta=0.8, threshold=0.4), snn.Leaky(beta=0.7, threshold=0.3)

    def forward(
        self, x: Tensor, mem1: Tensor | None = None, mem2: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        spikes, mem1 = self.lif1(self.conv(x), mem1)
        spikes, mem2 = self.lif2(self.linear(self.pool(spikes)), mem2)
        return spikes, mem1, mem2


def snntorch_explicit_by_hand(net: nn.Module, x: Tensor) -> Tensor:
    mem1, mem2, outputs = torch.zeros(len(x), 4, 8, 8), torch.zeros(len(x), 3), []
    for _ in range(T):
        spikes, mem1, mem2 = net(x, mem1, mem2)
        outputs.append(spikes)
    return torch.stack(outputs)


class SnnTorchLoop(nn.Module):
    """As in snnTorch's tutorials: the network loops itself and returns spikes and potentials over time."""

    def __init__(self, snn: ModuleType) -> None:
        super().__init__()
        self.step = SnnTorchExplicit(snn)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2 = self.step.lif1.reset_mem(), self.step.lif2.reset_mem()
        spikes, potentials = [], []
        for t in range(T):
            out, mem1, mem2 = self.step(x if x.dim() == 4 else x[t], mem1, mem2)
            spikes.append(out)
            potentials.append(mem2)
        return torch.stack(spikes), torch.stack(potentials)


def snntorch_loop_by_hand(net: nn.Module, x: Tensor) -> Tensor:
    return snntorch_explicit_by_hand(net.step, x)


# Norse


def norse_cells(norse: ModuleType) -> nn.Module:
    conv, linear = weighted()
    p = norse.LIFParameters(v_th=torch.tensor(0.3), alpha=torch.tensor(5.0))
    parts = conv, norse.LIFCell(p), nn.AvgPool2d(2), Breakable(), nn.Flatten(), linear, norse.LICell()
    return norse.SequentialState(*parts)


def norse_by_hand(net: nn.Module, x: Tensor) -> Tensor:
    state, outputs = None, []
    for _ in range(T):
        out, state = net(x, state)
        outputs.append(out)
    return torch.stack(outputs)


def norse_over_time(norse: ModuleType) -> nn.Module:
    conv, linear = weighted()
    p = norse.LIFParameters(v_th=torch.tensor(0.3), alpha=torch.tensor(5.0))
    return norse.SequentialState(
        norse.Lift(conv), norse.LIF(p), norse.Lift(nn.AvgPool2d(2)), Breakable(), nn.Flatten(2), linear, norse.LI()
    )


def norse_over_time_by_hand(net: nn.Module, x: Tensor) -> Tensor:
    return net(x.repeat(T, 1, 1, 1, 1))[0]


# sinabs


def sinabs_batch_first(layers: ModuleType) -> nn.Module:
    conv, linear = weighted()
    return nn.Sequential(
        layers.Repeat(conv),
        layers.LIF(tau_mem=4.0, spike_threshold=torch.tensor(0.2)),
        layers.Repeat(nn.AvgPool2d(2)),
        Breakable(),
        nn.Flatten(2),
        linear,
        layers.IAF(spike_threshold=torch.tensor(0.4)),
    )


def sinabs_by_hand(net: nn.Module, x: Tensor) -> Tensor:
    sinabs = importlib.import_module("sinabs")
    sinabs.reset_states(net)
    return net(x.unsqueeze(1).repeat(1, T, 1, 1, 1)).transpose(0, 1)


def sinabs_squeezed(layers: ModuleType) -> nn.Module:
    conv, linear = weighted()
    return nn.Sequential(
        conv,
        layers.LIFSqueeze(tau_mem=4.0, spike_threshold=torch.tensor(0.2), batch_size=6),
        nn.AvgPool2d(2),
        Breakable(),
        nn.Flatten(),
        linear,
        layers.IAFSqueeze(spike_threshold=torch.tensor(0.4), num_timesteps=T),
    )


def sinabs_squeezed_by_hand(net: nn.Module, x: Tensor) -> Tensor:
    sinabs = importlib.import_module("sinabs")
    sinabs.reset_states(net)
    return net(x.unsqueeze(1).repeat(1, T, 1, 1, 1).flatten(0, 1)).unflatten(0, (len(x), T)).transpose(0, 1)


@dataclass(frozen=True)
class Case:
    package: str
    build: Callable[[Any], nn.Module]
    by_hand: Callable[[Any, Tensor], Tensor]
    layout: str
    found: bool = True

    def network(self) -> nn.Module:
        parts = importlib.import_module(
            {"norse": "norse.torch", "sinabs": "sinabs.layers"}.get(self.package, self.package)
        )
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return self.build(parts).eval()

    def classifier(self, **kwargs: Any) -> SpikingClassifier:
        layout = "auto" if self.found else self.layout
        return SpikingClassifier(self.network(), T, layout=layout, **kwargs).eval()


CASES = {
    "snntorch-hidden": Case("snntorch", snntorch_hidden, snntorch_hidden_by_hand, "single"),
    "snntorch-explicit": Case("snntorch", SnnTorchExplicit, snntorch_explicit_by_hand, "state"),
    "snntorch-sequence": Case("snntorch", SnnTorchLoop, snntorch_loop_by_hand, "sequence", found=False),
    "snntorch-image": Case("snntorch", SnnTorchLoop, snntorch_loop_by_hand, "image", found=False),
    "norse": Case("norse", norse_cells, norse_by_hand, "state"),
    "norse-over-time": Case("norse", norse_over_time, norse_over_time_by_hand, "sequence"),
    "sinabs": Case("sinabs", sinabs_batch_first, sinabs_by_hand, "batch_first"),
    "sinabs-squeezed": Case("sinabs", sinabs_squeezed, sinabs_squeezed_by_hand, "batch_folded"),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    found = CASES[request.param]
    pytest.importorskip(found.package)
    return found


def grads(logits: Tensor, x: Tensor, parameters: list[Tensor]) -> tuple[Tensor | None, ...]:
    weights = torch.arange(logits.numel()).view_as(logits).cos()
    return torch.autograd.grad((weights * logits).sum(), [x, *parameters], allow_unused=True)


class TestEqualToTheirLoop:
    def test_layout(self, case):
        assert case.classifier().layout == case.layout

    @pytest.mark.parametrize("readout", ["mean", "sum", "max", "last"])
    def test_logits(self, case, readout):
        model, expected = case.classifier(readout=readout), case.by_hand(case.network(), images())
        assert torch.equal(model.outputs(images()), expected)
        assert torch.equal(model(images()), READOUTS[readout](expected))
        assert torch.equal(model.reference(images()), READOUTS[readout](expected))
        assert not model.reference(images()).requires_grad

    def test_the_network_is_alive(self, case):
        """Images are told apart and steps differ, so that the tests here can fail."""
        outputs = case.classifier().outputs(images())
        assert outputs.shape == (T, 6, 3)
        assert outputs.mean(0).std(0).max() > 0.002
        assert not torch.equal(outputs[0], outputs[-1])

    def test_gradients(self, case):
        model, net = case.classifier(), case.network()
        x, y = images().requires_grad_(), images().requires_grad_()
        found = grads(model(x), x, [weight for weight in model.parameters() if weight.requires_grad])
        expected = grads(
            case.by_hand(net, y).mean(0), y, [weight for weight in net.parameters() if weight.requires_grad]
        )
        assert len(found) == len(expected) >= 5
        for a, b in zip(found, expected):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
        assert found[0].abs().sum() > 0

    def test_normalisation_and_steps(self, case):
        model = case.classifier(normalize=((0.5,), (0.25,)))
        assert torch.equal(model.outputs(images()), case.by_hand(case.network(), (images() - 0.5) / 0.25))

    def test_logits_over_time(self, case):
        model = case.classifier()
        found = model.logits_over_time(images())
        torch.testing.assert_close(found[1], case.by_hand(case.network(), images())[:2].mean(0))
        assert torch.equal(found[-1], model(images()))

    def test_moving_frames(self, case):
        """Every step gets its own frame: the Poisson encoder's, in their order."""
        if case.layout == "image":
            with pytest.raises(RobustSNNError, match="takes no encoder"):
                case.classifier(encoder="poisson")
            return
        model = case.classifier(encoder="poisson")
        frames = model.encode(images())
        model.encoder.reseed(0)
        outputs = model.outputs(images())
        first = torch.cat([frames[:1], torch.zeros_like(frames[1:])])
        assert frames.shape == (T, 6, 1, 8, 8)
        model.encoder = Given(first)
        assert torch.equal(model.outputs(images())[0], outputs[0])  # later frames do not act on earlier steps
        assert not torch.equal(model.outputs(images())[1:], outputs[1:])


class Given(nn.Module):
    static, stochastic = False, False

    def __init__(self, frames: Tensor) -> None:
        super().__init__()
        self.frames = frames

    def forward(self, x: Tensor, time_steps: int) -> Tensor:
        return self.frames


class TestFreshState:
    def disturb_same_size(self, model: SpikingClassifier) -> None:
        model(images(seed=1))

    def disturb_batch_size(self, model: SpikingClassifier) -> None:
        with torch.no_grad():
            model(images(4, seed=1))

    def disturb_backward(self, model: SpikingClassifier) -> None:
        model(images(seed=1).requires_grad_()).sum().backward()
        model.zero_grad()

    def disturb_exception(self, model: SpikingClassifier) -> None:
        breakable = next(module for module in model.modules() if isinstance(module, Breakable))
        per_step = model.layout in ("single", "state") or isinstance(model.net, SnnTorchLoop)
        for call in (model, model.reference):
            breakable.calls_left = 1 if per_step else 0
            with pytest.raises(ZeroDivisionError):
                call(images(seed=1))
        breakable.calls_left = None

    def disturb_by_hand(self, model: SpikingClassifier, case: Case) -> None:
        case.by_hand(model.net, images(seed=1))

    @pytest.mark.parametrize("disturbance", ["same_size", "batch_size", "backward", "exception", "by_hand"])
    def test_after(self, case, disturbance):
        model, twin = case.classifier(), case.classifier()
        x, y = images().requires_grad_(), images().requires_grad_()
        expected = grads(twin(y), y, [])[0]
        arguments = (case,) if disturbance == "by_hand" else ()
        getattr(self, f"disturb_{disturbance}")(model, *arguments)
        logits = model(x)
        assert torch.equal(logits, twin(images()))
        assert torch.equal(grads(logits, x, [])[0], expected)

    def test_the_global_generator_is_left_alone(self, case):
        """Layers of sinabs draw the states of a batch of another size at random."""
        model = case.classifier()
        before = torch.get_rng_state()
        for count in (6, 4, 1, 6):
            model(images(count))
        assert torch.equal(torch.get_rng_state(), before)

    def test_none_is_left_behind(self, case):
        """No potential and no graph stays: copies work, and weights are all there is to save."""
        model = case.classifier()
        model(images().requires_grad_())
        assert not any(buffer.requires_grad for buffer in model.buffers())
        for name, buffer in model.named_buffers():
            if name.rsplit(".", 1)[-1] in ("mem", "syn", "v_mem", "i_syn"):
                assert not buffer.any(), name
        assert torch.equal(copy.deepcopy(model)(images()), model(images()))

    def test_numbers_of_squeeze_layers_are_put_back(self):
        pytest.importorskip("sinabs")
        case = CASES["sinabs-squeezed"]
        model = case.classifier()
        model(images(2))
        assert [(m.batch_size, m.num_timesteps) for m in model.modules() if hasattr(m, "num_timesteps")] == [
            (6, -1),
            (-1, T),
        ]

    def test_bare_layer_of_sinabs(self):
        """`sinabs.reset_states` walks the children and does not reset a bare layer."""
        layers = pytest.importorskip("sinabs.layers")
        bare = layers.IAF(spike_threshold=torch.tensor(1.0))
        model, x = SpikingClassifier(bare, T), images().flatten(1)
        first = model(x)
        assert torch.equal(model(x), first)
        assert torch.equal(first, layers.IAF(spike_threshold=torch.tensor(1.0))(over_time(x).transpose(0, 1)).mean(1))

    @pytest.mark.parametrize("hidden", [True, False])
    def test_bare_neuron_of_snntorch(self, hidden):
        snn = pytest.importorskip("snntorch")
        model, x = SpikingClassifier(snn.Leaky(beta=0.9, init_hidden=hidden), T), images().flatten(1)
        assert model.layout == ("single" if hidden else "state")
        first, fresh, mem, outputs = model(x), snn.Leaky(beta=0.9), torch.zeros_like(x), []
        for _ in range(T):
            out, mem = fresh(x, mem)
            outputs.append(out)
        assert torch.equal(first, torch.stack(outputs).mean(0))
        assert torch.equal(model(x), first)

    @pytest.mark.parametrize("kind", ["RLeaky", "RSynaptic", "Synaptic", "Alpha"])
    def test_neurons_of_snntorch_with_several_states(self, kind):
        """Recurrent ones take their spikes back as a state."""
        snn = pytest.importorskip("snntorch")
        leaks = {"beta": 0.7} if kind == "RLeaky" else {"alpha": 0.8, "beta": 0.7}
        recurrent = {"linear_features": 64} if kind.startswith("R") else {}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            cell = getattr(snn, kind)(threshold=0.4, **leaks, **recurrent)
        model, x = SpikingClassifier(cell, T), images().flatten(1)
        found, outputs = model.outputs(x), []
        state = [torch.zeros_like(x) for _ in range(2 + (kind in ("RSynaptic", "Alpha")))]
        for _ in range(T):
            result = cell(x, *state)
            outputs.append(result[0])
            state = list(result if recurrent else result[1:])
        assert torch.equal(found, torch.stack(outputs))
        assert 0 < found.mean() < 1

    @pytest.mark.parametrize("name", ["reset_states", "reset_state", "reset_mem"])
    def test_module_of_ones_own(self, name):
        class Own(nn.Module):
            v: Tensor | float = 0.0

            def forward(self, x: Tensor) -> Tensor:
                self.v = 0.5 * self.v + x.flatten(1)
                return self.v

        def reset(self: Own) -> None:
            self.v = 0.0

        net = Own()
        net_type = type("Own", (Own,), {name: reset})
        net = net_type()
        model = SpikingClassifier(net, 3, layout="single")
        expected = images().flatten(1) * (1 + 1.5 + 1.75) / 3
        for _ in range(2):
            torch.testing.assert_close(model(images()), expected)
        assert net.v == 0.0
        net(images())
        reset_states(net)
        assert net.v == 0.0


class TestGradientRules:
    def test_rules_say_what_to_do(self, case):
        model = case.classifier()
        for rule in (gradients.BPTT(), gradients.BPTR()):
            with pytest.raises(RobustSNNError, match=r"gradient rules know .* rule 'own'"):
                model.through(rule)(images().requires_grad_())

    def test_own_gradient(self, case):
        model = case.classifier()
        found = []
        for each in (model, model.through(gradients.Own())):
            x = images().requires_grad_()
            found.append(grads(each(x), x, [])[0])
        assert torch.equal(found[0], found[1])
        assert found[0].any()

    def test_attacks_take_the_model_itself(self, case):
        model = case.classifier()
        x = images(12)
        labels = model(x).argmax(1)
        adversarial = PGD(model, eps=0.3, steps=3)(x, labels)
        assert (adversarial - x).abs().max() <= 0.3 + 1e-6
        loss = nn.functional.cross_entropy
        assert loss(model(adversarial), labels) > loss(model(x), labels)

    def test_known_neurons_in_a_loop_of_their_own(self):
        """A rule would have to take over a loop that it cannot see."""
        model = SpikingClassifier(Loop(IF()), T, layout="sequence")
        with pytest.raises(RobustSNNError, match="a loop over time of its own"):
            model.through(gradients.BPTT())(images())


class Loop(nn.Module):
    def __init__(self, node: nn.Module) -> None:
        super().__init__()
        self.node, self.linear = node, nn.Linear(64, 3)

    def forward(self, x_seq: Tensor) -> Tensor:
        return torch.stack([self.linear(self.node(x.flatten(1))) for x in x_seq])


class TestSequence:
    """Plain callables of ``[T, N, ...]``."""

    def test_function(self):
        def integrate(x_seq: Tensor) -> Tensor:
            return x_seq.flatten(2).cumsum(0)[:, :, :4]

        model = SpikingClassifier(integrate, T, readout="last")
        assert model.layout == "sequence"
        torch.testing.assert_close(model(images()), T * images().flatten(1)[:, :4])
        assert "integrate" in repr(model)

    @pytest.mark.parametrize("readout", ["mean", "sum", "max", "last"])
    def test_network_that_reads_out_itself(self, readout):
        model = SpikingClassifier(lambda x_seq: x_seq.flatten(2).sum(0)[:, :4], T, readout=readout)
        torch.testing.assert_close(model(images()), T * images().flatten(1)[:, :4])
        with pytest.raises(RobustSNNError, match="reads out over time itself"):
            model.logits_over_time(images())

    def test_tuple(self):
        model = SpikingClassifier(lambda x_seq: (x_seq.flatten(2), [x_seq]), T)
        torch.testing.assert_close(model(images()), images().flatten(1))

    def test_stateful_neurons_inside_are_reset(self):
        """SpikingJelly's single-step nodes in a loop of one's own."""
        loop = Loop(neuron.LIFNode(surrogate_function=surrogate.ATan())).eval()
        model = SpikingClassifier(loop, T, layout="sequence")
        first = model(3 * images())
        assert torch.equal(model(3 * images()), first)
        twin = SpikingClassifier(nn.Sequential(nn.Flatten(), LIF(surrogate_function=surrogate.ATan()), loop.linear), T)
        torch.testing.assert_close(first, twin(3 * images()))

    def test_image_that_steps_itself(self):
        model = SpikingClassifier(lambda x: torch.stack([x.flatten(1)] * 3), 3, layout="image")
        torch.testing.assert_close(model(images()), images().flatten(1))

    def test_attack(self):
        def brightness(x_seq: Tensor) -> Tensor:
            bright = x_seq.mean((0, 2, 3, 4))
            return torch.stack([bright, -bright], 1)

        model = SpikingClassifier(brightness, 2)
        adversarial = FGSM(model, eps=0.1)(images(), torch.zeros(6, dtype=torch.long))
        torch.testing.assert_close(adversarial, (images() - 0.1).clamp(0, 1))


class TestShapes:
    @pytest.mark.parametrize(
        ("net", "layout", "message"),
        [
            (lambda x: x.flatten(2)[:3], "sequence", r"must return \[T, N, K\] = \[5, 6, K\].*pass time_steps=3"),
            (lambda x: x.flatten(2).transpose(0, 1), "sequence", "pass layout='batch_first'"),
            (lambda x: x, "sequence", r"got \(5, 6, 1, 8, 8\)"),
            (lambda x: x.sum(), "sequence", r"got \(\)"),
            (lambda x: None, "sequence", "must return a tensor, or a tuple .* got NoneType"),
            (lambda x: (), "sequence", "got tuple"),
            (lambda x: torch.stack([x.flatten(1)] * 25), "image", "pass time_steps=25"),
        ],
        ids=["steps", "transposed", "images", "number", "none", "empty", "image"],
    )
    def test_wrong(self, net, layout, message):
        with pytest.raises(RobustSNNError, match=message):
            SpikingClassifier(net, T, layout=layout)(images())

    def test_loop_taken_for_a_step(self):
        snn = pytest.importorskip("snntorch")

        class Looping(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.lif = snn.Leaky(beta=0.9, init_hidden=True)

            def forward(self, x_seq: Tensor) -> Tensor:
                return torch.stack([self.lif(x.flatten(1)) for x in x_seq])

        with pytest.raises(
            RobustSNNError, match=r"one step of 6 images .* got shape \(6, 1, 64\); .*layout='sequence'"
        ):
            SpikingClassifier(Looping(), T)(images())
        assert SpikingClassifier(Looping(), T, layout="sequence")(images()).shape == (6, 64)

    def test_state_that_is_not_returned(self):
        class Forgetful(nn.Module):
            def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
                return x.flatten(1)

        with pytest.raises(RobustSNNError, match=r"takes \(state\) and must return \(output, state\), got Tensor"):
            SpikingClassifier(Forgetful(), T)(images())

    def test_state_without_a_default_is_none_at_first(self):
        seen = []

        class Strict(nn.Module):
            def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
                seen.append(state)
                state = x.flatten(1) + (0 if state is None else state)
                return state, state

        torch.testing.assert_close(SpikingClassifier(Strict(), 3, readout="last")(images()), 3 * images().flatten(1))
        assert seen[0] is None
        assert len(seen) == 3


def jelly(mode: str) -> nn.Module:
    return nn.Sequential(layer.Flatten(step_mode=mode), neuron.IFNode(step_mode=mode))


class Plain(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class TestContradictions:
    """A layout that the network's modules contradict is refused, with what to pass instead."""

    @pytest.mark.parametrize(
        ("net", "layout", "message"),
        [
            (jelly("m"), "single", r"it is in multi-step mode; .*layout='multi'"),
            (jelly("s"), "multi", r"it is in single-step mode; .*set_step_mode\(net, 'm'\)"),
            (jelly("m"), "folded", r"multi-step mode, which take \[T, N, ...\]"),
            (nn.Sequential(nn.Flatten(), IF(step_mode="m")), "single", "it is in multi-step mode"),
            (nn.Sequential(nn.Flatten(), IF()), "multi", "it is in single-step mode"),
            (jelly("s"), "state", r"forward takes x alone; pass layout='single'"),
            (lambda x: x, "single", "a plain function is called in one go; pass layout='sequence' or layout='image'"),
            (lambda x: x, "folded", "in one go"),
            (7, "auto", "must be an nn.Module or a function of .* got int"),
            (nn.Linear(2, 2), "auto", "no spiking neuron"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_refused(self, net, layout, message):
        with pytest.raises(RobustSNNError, match=message):
            SpikingClassifier(net, 2, layout=layout)

    @pytest.mark.parametrize("layout", [*LAYOUTS, "auto"])
    def test_every_layout_of_every_case(self, case, layout):
        """What is not refused at once gives the right logits or an error about shapes, never wrong numbers."""
        expected = case.by_hand(case.network(), images()).mean(0)
        try:
            model = SpikingClassifier(case.network(), T, layout=layout)
            found = model(images())
        except (RobustSNNError, RuntimeError, IndexError, AttributeError, TypeError):
            assert layout != case.layout
            return
        assert torch.equal(found, expected)

    @pytest.mark.parametrize("layout", ["folded", "multi"])
    def test_foreign_neurons_are_not_taken_for_ours(self, case, layout):
        with pytest.raises(RobustSNNError, match="does not fit the network"):
            SpikingClassifier(case.network(), T, layout=layout)

    @pytest.mark.parametrize("name", ["norse", "norse-over-time"])
    def test_state_in_arguments_is_not_forgotten(self, name):
        pytest.importorskip("norse")
        with pytest.raises(RobustSNNError, match=r"would start from rest|take \[T, N"):
            SpikingClassifier(CASES[name].network(), T, layout="single")

    @pytest.mark.parametrize("package", ["snntorch", "norse"])
    def test_loops_that_cannot_be_told(self, package):
        pytest.importorskip(package)
        net = CASES["snntorch-image" if package == "snntorch" else "norse"].network()
        hidden = net if package == "snntorch" else nn.Sequential(Plain(), net)
        with pytest.raises(
            RobustSNNError, match="explicit state, and its forward takes no state; pass layout='sequence'"
        ):
            find_layout(hidden)

    def test_single_step_spikingjelly_folded(self):
        """Its nodes are taken over for the length of the pass, as gradient rules do."""
        net = nn.Sequential(layer.Flatten(), neuron.LIFNode(), layer.Linear(64, 3)).eval()
        folded, single = SpikingClassifier(net, T, layout="folded"), SpikingClassifier(net, T)
        torch.testing.assert_close(folded(3 * images()), single(3 * images()))
        torch.testing.assert_close(folded.reference(3 * images()), single(3 * images()))

    def test_a_state_dictionary_of_spikingjelly_nodes_is_threaded(self):
        """A graph imported by SpikingJelly takes ``(x, state)`` and starts from rest where it is not given."""
        pytest.importorskip("nir")
        pytest.importorskip("nirtorch")
        from spikingjelly.activation_based import nir_exchange

        net = nn.Sequential(nn.Linear(4, 3), neuron.IFNode())
        with torch.no_grad():
            net[0].weight.abs_().mul_(0.5)
        module = nir_exchange.import_from_nir(nir_exchange.export_to_nir(net, torch.zeros(1, 4), dt=1e-4), dt=1e-4)
        x = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
        model = SpikingClassifier(module, 6)
        assert model.layout == "state"
        torch.testing.assert_close(model(x), SpikingClassifier(net, 6)(x))
        assert 0 < model(x).mean() < 1


def test_the_frameworks_are_not_imported():
    import subprocess
    import sys

    code = (
        "import sys, torch, robustsnn as rs; rs.SpikingClassifier(torch.nn.Sequential(rs.neurons.IF()), 2)(torch.rand(2, 3));"
        "print(*{'snntorch', 'norse', 'sinabs', 'nir'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
