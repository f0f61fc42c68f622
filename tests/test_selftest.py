"""The self-test names what is wrong with a model, finds nothing in a sound one, and hands both back as they came."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import encoding, layer, neuron, surrogate
from torch import Tensor, nn

import robustsnn as rs
from robustsnn.attacks import PGD
from robustsnn.encoding import Encoder
from robustsnn.errors import RobustSNNError
from robustsnn.neurons import IF, LIF
from robustsnn.selftest import self_test
from robustsnn.selftest.snapshot import GlobalRandomness, Snapshot


def images(n: int = 8, *shape: int) -> Tensor:
    return torch.rand(n, *(shape or (1, 6, 6)), generator=torch.Generator().manual_seed(0))


def built(make: Any, *args: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(*args)


def network(classes: int = 5, batch_norm: bool = False) -> nn.Sequential:
    norm = [nn.BatchNorm2d(4)] if batch_norm else []
    head = nn.Linear(144, classes)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), *norm, LIF(v_threshold=0.3), nn.Flatten(), head)


def sound(classes: int = 5, **kwargs: Any) -> rs.SpikingClassifier:
    return rs.SpikingClassifier(built(network, classes), 4, **kwargs).eval()


def names(report: Any, severity: str = "error") -> list[str]:
    return [finding.name for finding in report.findings if finding.severity == severity]


def only(report: Any) -> Any:
    """The one error there is."""
    assert len(report.errors) == 1, str(report)
    return report.errors[0]


class Head(nn.Module):
    """A linear readout behind whatever ``hidden`` makes of the pixels."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(36, 16), nn.Linear(16, classes)

    def hidden(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.hidden(4 * self.fc1(x.flatten(1))))


class EvalHides(Head):
    """As published neurons did: a surrogate in training only."""

    def hidden(self, x: Tensor) -> Tensor:
        if not self.training:
            return (x >= 0).to(x)
        return surrogate.ATan()(x)


class NoReset(Head):
    """A leaky integrator in plain code that nobody resets."""

    v: Tensor | float = 0.0

    def hidden(self, x: Tensor) -> Tensor:
        self.v = 0.5 * self.v + x
        return torch.sigmoid(self.v)


class InPlace(Head):
    """The same in a buffer that is written in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("v", torch.zeros(16))

    def hidden(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.v.mul_(0.5).add_(1)
        return torch.sigmoid(self.v + x)


class Dead(Head):
    def hidden(self, x: Tensor) -> Tensor:
        return x.sign()


class Detached(Head):
    def hidden(self, x: Tensor) -> Tensor:
        return torch.tanh(x).detach()


class Noisy(Head):
    def hidden(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(torch.tanh(x), 0.5)  # training=True is torch's default


class NoisyByNumpy(Head):
    def hidden(self, x: Tensor) -> Tensor:
        return torch.tanh(x + float(np.random.randn()))  # noqa: NPY002 - on purpose


class NoisyByHeld(Head):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(5)

    def hidden(self, x: Tensor) -> Tensor:
        return torch.tanh(x + torch.randn(x.shape, generator=self.generator))


class Unreproducible(Head):
    def __init__(self) -> None:
        super().__init__()
        self.source = np.random.default_rng(0)

    def hidden(self, x: Tensor) -> Tensor:
        return torch.tanh(x + float(self.source.normal()))


class Softmax(Head):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


class LogSoftmax(Head):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).log_softmax(1)


class NanLogits(Head):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).where(x.mean((1, 2, 3)).unsqueeze(1) < 0.5, torch.nan)


class NanGradient(Head):
    def hidden(self, x: Tensor) -> Tensor:
        return torch.sqrt((x - x).abs()) + torch.tanh(x)


class PartlyDead(Head):
    def hidden(self, x: Tensor) -> Tensor:
        bright = (torch.arange(len(x)) % 2 == 0).unsqueeze(1) if len(x) > 1 else torch.ones(1, 1, dtype=torch.bool)
        return torch.where(bright, torch.tanh(x), torch.tanh(x).detach())


class BatchStatistics(Head):
    def hidden(self, x: Tensor) -> Tensor:
        return torch.tanh(x - x.mean(0))


class Squeezes(Head):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze()


class OverTime(Head):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).expand(3, -1, -1)


class Classes(Head):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).argmax(1)


class Raises(Head):
    def forward(self, x: Tensor) -> Tensor:
        raise ZeroDivisionError("on purpose")


class ValuesDiffer(Head):
    def hidden(self, x: Tensor) -> Tensor:
        return torch.tanh(x) if torch.is_grad_enabled() else torch.relu(x)


class Constant(Head):
    def forward(self, x: Tensor) -> Tensor:
        return 0 * super().forward(x) + torch.arange(4.0)


WRONG: dict[type[Head], tuple[str, str]] = {
    EvalHides: ("eval-hides-gradient", "gone in evaluation mode and there in training mode"),
    NoReset: ("missing-reset", "other logits for 8 of 8"),
    InPlace: ("missing-reset", "state is carried over"),
    Dead: ("zero-gradient", "zero everywhere for 8 of 8 images"),
    Detached: ("no-gradient", "do not depend on the images in a differentiable way"),
    Noisy: ("hidden-randomness", "torch's, numpy's or Python's global generator"),
    NoisyByNumpy: ("hidden-randomness", "global generator"),
    NoisyByHeld: ("hidden-randomness", "a generator that it holds"),
    Unreproducible: ("irreproducible", "same state and the same seeds"),
    Softmax: ("probabilities", "each row sums to 1"),
    NanLogits: ("nan-logits", "NaN or infinite logits for"),
    NanGradient: ("nan-gradient", "for 8 of 8 images"),
    BatchStatistics: ("batch-dependence", "change with their batch mates"),
    Squeezes: ("batch-of-one", r"gives shape \(4,\) and not \(1, 4\)"),
    OverTime: ("output-shape", r"must give logits \[8, K\], got torch.float32 of shape \(3, 8, 4\)"),
    Classes: ("output-shape", r"got torch.int64 of shape \(8,\)"),
    Raises: ("fails", "ZeroDivisionError: on purpose"),
    ValuesDiffer: ("values-differ", "when a gradient is recorded"),
}


class TestWrongModels:
    @pytest.mark.parametrize("training", [False, True])
    @pytest.mark.parametrize("kind", WRONG, ids=lambda kind: kind.__name__)
    def test_is_named(self, kind, training):
        name, message = WRONG[kind]
        report = self_test(built(kind).train(training), images())
        if kind in (BatchStatistics, Unreproducible):  # batch-mates change with the mates, and noise shows there too
            assert report.errors[0].name == name, str(report)
        else:
            assert only(report).name == name, str(report)
        with pytest.raises(RobustSNNError, match=f"failed its self-test: {name}: .*{message}"):
            report.raise_on_error()
        assert not report.ok
        assert f"error {name}: " in str(report)
        assert report.errors[0].fix

    def test_some_zero_gradients(self):
        report = self_test(built(PartlyDead), images())
        assert names(report, "warning") == ["zero-gradient"]
        assert "for 4 of 8 images" in str(report)

    def test_log_probabilities_are_harmless(self):
        report = self_test(built(LogSoftmax), images())
        assert report.ok
        assert names(report, "info") == ["log-probabilities"]

    def test_constant(self):
        assert "constant-logits" in names(self_test(built(Constant), images()), "warning")

    def test_one_class(self):
        assert only(self_test(built(Head, 1), images())).name == "output-shape"

    def test_training_layers(self):
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
        for some in (None, images()):
            report = self_test(net.train(), some)
            assert report.ok
            assert names(report, "warning") == ["train-mode"]
            assert "2 (BatchNorm1d), 3 (Dropout) are in training mode" in str(report)
        assert self_test(net.eval(), images()).findings == ()

    def test_batch_norm_without_running_statistics(self):
        net = nn.Sequential(
            nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 3)
        )
        found = names(self_test(net.eval(), images()))
        assert "batch-dependence" in found


class TestUnwrapped:
    """Raw spiking networks whose state nobody resets."""

    def jelly(self) -> nn.Module:
        return nn.Sequential(layer.Flatten(), layer.Linear(36, 5), neuron.LIFNode(v_threshold=0.1), layer.Linear(5, 3))

    def test_spikingjelly(self):
        net = built(self.jelly)
        static = self_test(net)
        assert names(static, "warning") == ["unwrapped"]
        assert "2 (LIFNode) is outside of a SpikingClassifier" in str(static)
        found = only(self_test(net, images()))
        assert found.name == "missing-reset"
        assert "kept by 2 (LIFNode)" in found.message
        assert self_test(rs.SpikingClassifier(net, 4), images()).ok
        assert self_test(nn.Sequential(rs.SpikingClassifier(net, 4))).findings == ()

    def test_multi_step_network_that_takes_the_batch_for_time(self):
        net = built(self.jelly)
        for module in net.modules():
            if hasattr(module, "step_mode"):
                module.step_mode = "m"
        net[0] = nn.Flatten()
        assert "batch-dependence" in names(self_test(net, images()))

    def test_a_wrapper_that_resets(self):
        class Resets(nn.Module):
            def __init__(self, net: nn.Module) -> None:
                super().__init__()
                self.net = net

            def forward(self, x: Tensor) -> Tensor:
                rs.classifier.reset_states(self.net)
                return sum(self.net(x) for _ in range(4))

        assert self_test(Resets(built(self.jelly)).eval(), images()).findings == ()

    def test_snntorch(self):
        snn = pytest.importorskip("snntorch")
        net = built(
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 3), snn.Leaky(beta=0.9, threshold=0.2, init_hidden=True))
        )
        assert names(self_test(net), "warning") == ["unwrapped"]
        assert "missing-reset" in names(self_test(net, images()))
        assert self_test(rs.SpikingClassifier(net, 6), images()).ok

    def test_sinabs(self):
        layers = pytest.importorskip("sinabs.layers")
        net = built(
            lambda: nn.Sequential(nn.Flatten(2), nn.Linear(36, 3), layers.IAF(spike_threshold=torch.tensor(0.5)))
        )
        assert names(self_test(net), "warning") == ["unwrapped"]
        assert self_test(rs.SpikingClassifier(net, 6), images()).ok

    def test_norse(self):
        norse = pytest.importorskip("norse.torch")
        net = built(lambda: norse.SequentialState(nn.Flatten(), nn.Linear(36, 3), norse.LICell()))
        assert self_test(rs.SpikingClassifier(net, 4), images()).ok
        assert only(self_test(net, images())).name == "output-shape"


class TestSoundModels:
    @pytest.mark.parametrize("n", [1, 2, 3, 40])
    def test_nothing_is_found(self, n):
        report = self_test(sound(), images(n), torch.zeros(n, dtype=torch.long))
        assert report.findings == (), str(report)
        assert report.raise_on_error() is report
        assert "nothing wrong found" in str(report)
        assert len(report.probes) == 11

    @pytest.mark.parametrize("rule", [rs.gradients.BPTT(), rs.gradients.BPTR()], ids=["bptt", "bptr"])
    def test_views(self, rule):
        assert self_test(sound().through(rule), images()).findings == ()

    @pytest.mark.parametrize("classes", [2, 3])
    def test_few_classes(self, classes):
        model = sound(classes)
        assert self_test(model, images()).findings == ()
        labels = model(images()).argmax(1)
        assert ((PGD(model, eps=0.1, steps=2)(images(), labels) - images()).abs() <= 0.1 + 1e-6).all()

    def test_events_of_five_dimensions(self):
        """``[N, T, C, H, W]`` through a network that takes time first."""

        class Events(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = network(3)

            def forward(self, x: Tensor) -> Tensor:
                model = rs.SpikingClassifier(self.net, x.shape[1])
                model.encoder = Frames()
                return model(x)

        class Frames(Encoder):
            def forward(self, events: Tensor, time_steps: int) -> Tensor:
                return events.transpose(0, 1)

        model = built(Events).eval()
        assert self_test(model, images(6, 3, 1, 6, 6)).findings == ()
        adversarial = PGD(model, eps=0.1, steps=2)(images(6, 3, 1, 6, 6), torch.zeros(6, dtype=torch.long))
        assert adversarial.shape == (6, 3, 1, 6, 6)

    def test_declared_randomness(self):
        report = self_test(sound(encoder="poisson"), images())
        assert report.ok
        assert names(report, "info") == ["stochastic"]
        assert names(report, "warning") == []

    def test_encoder_of_spikingjelly_is_undeclared_and_cuts_the_gradient(self):
        class Coded(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.encoder, self.net = encoding.PoissonEncoder(), nn.Sequential(nn.Flatten(), nn.Linear(36, 3))

            def forward(self, x: Tensor) -> Tensor:
                return self.net(self.encoder(x))

        assert names(self_test(built(Coded).eval(), images())) == ["hidden-randomness", "no-gradient"]

    def test_a_function(self):
        weight = torch.randn(36, 3, generator=torch.Generator().manual_seed(0))
        assert self_test(lambda x: x.flatten(1) @ weight, images()).findings == ()

    def test_double_precision(self):
        assert self_test(sound().double(), images().double()).findings == ()

    def test_a_rule_that_does_not_know_the_neurons(self):
        model = rs.SpikingClassifier(lambda x_seq: x_seq.flatten(2), 3)
        found = only(self_test(model.through(rs.gradients.BPTT()), images()))
        assert found.name == "gradient-fails"
        assert "rule 'own'" in found.message


class TestHandedBack:
    def everything(self, model: nn.Module) -> list[Any]:
        found: list[Any] = [torch.get_rng_state().clone(), random.getstate(), np.random.get_state()[1].copy()]  # noqa: NPY002
        for module in model.modules():
            found.append(module.training)
            for value in module.__dict__.values():
                if isinstance(value, dict):
                    found += [part.clone() if isinstance(part, Tensor) else part for part in value.values()]
                elif isinstance(value, Tensor):
                    found.append(value.clone())
                elif isinstance(value, torch.Generator):
                    found.append(value.get_state())
                else:
                    found.append(value)
        for parameter in model.parameters():
            found += [parameter.requires_grad, None if parameter.grad is None else parameter.grad.clone()]
        return found

    @pytest.mark.parametrize("kind", [*WRONG, Head], ids=lambda kind: kind.__name__)
    def test_wrong_models_too(self, kind):
        model = built(kind)
        if kind not in (Raises, Classes, Detached, NanLogits):
            model(images()).sum().backward()
        model.fc1.bias.requires_grad = False
        model.fc2.training = False
        self.unchanged(model)

    def test_spiking_networks(self):
        net = TestUnwrapped().jelly()
        net(images())
        self.unchanged(net)
        charged = rs.SpikingClassifier(net, 3)
        net(images())
        self.unchanged(charged)
        self.unchanged(sound(encoder="poisson"))
        with_norm = rs.SpikingClassifier(built(network, 5, True), 3).train()
        with_norm(images()).sum().backward()
        self.unchanged(with_norm)

    def unchanged(self, model: nn.Module) -> None:
        before = self.everything(model)
        self_test(model, images())
        for a, b in zip(before, self.everything(model), strict=True):
            same = (
                np.array_equal(a, b)
                if isinstance(a, np.ndarray)
                else torch.equal(a.nan_to_num(), b.nan_to_num())
                if isinstance(a, Tensor)
                else a == b
            )
            assert same, (a, b)

    def test_poisson_draws_go_on_where_they_were(self):
        model, twin = sound(encoder="poisson"), sound(encoder="poisson")
        model(images())
        twin(images())
        self_test(model, images())
        assert torch.equal(model(images()), twin(images()))

    def test_images_are_not_written_to(self):
        x = images()
        self_test(sound(), x)
        assert torch.equal(x, images())
        assert not x.requires_grad

    def test_snapshot_of_containers(self):
        class Recorder(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.seen: list[Tensor] = [torch.ones(1)]
                self.kinds = {1}

        model = Recorder()
        seen, kinds, snapshot = model.seen, model.kinds, Snapshot(model)
        model.seen.append(torch.zeros(1))
        model.seen[0].add_(1)
        model.kinds.add(2)
        model.new = 3
        snapshot.restore()
        assert model.seen is seen
        assert [part.item() for part in seen] == [1.0]
        assert kinds == {1}
        assert not hasattr(model, "new")

    def test_global_generators(self):
        before = GlobalRandomness()
        expected = torch.rand(3), np.random.rand(), random.random()  # noqa: NPY002
        GlobalRandomness.seed(7)
        before.restore()
        found = torch.rand(3), np.random.rand(), random.random()  # noqa: NPY002
        assert torch.equal(found[0], expected[0])
        assert found[1:] == expected[1:]


class TestArguments:
    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            (torch.ones(3), "non-empty floating-point batch"),
            (torch.ones(0, 1, 6, 6), "non-empty"),
            (torch.ones(2, 1, 6, 6, dtype=torch.uint8), "got torch.uint8"),
            (torch.full((2, 1, 6, 6), torch.nan), "NaN or infinity"),
            ([1.0], "got list"),
        ],
        ids=["one", "none", "bytes", "nan", "list"],
    )
    def test_images(self, bad, message):
        with pytest.raises(RobustSNNError, match=message):
            self_test(sound(), bad)

    def test_range(self):
        report = self_test(sound(), 3 * images())
        assert names(report, "warning") == ["image-range"]

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (torch.tensor([0, 5]), "labels from 0 to 5"),
            (torch.tensor([-1, 0]), "labels from -1 to 0"),
            (torch.tensor([0.0, 1.0]), "got torch.float32"),
            ([0, 1], "got list"),
        ],
        ids=["high", "low", "float", "list"],
    )
    def test_labels(self, labels, message):
        found = only(self_test(sound(), images(2), labels))
        assert found.name == "labels"
        assert message in found.message

    def test_at_the_top(self):
        assert rs.self_test is self_test
        assert "self_test" in rs.__all__

    def test_gravest_first(self):
        model = built(Noisy)
        model.extra = nn.Dropout()
        report = self_test(model.train(), images())
        assert [finding.severity for finding in report.findings] == ["error", "warning"]
        assert str(report).startswith("self-test: 1 errors, 1 warnings")


def test_bare_neuron():
    """IF on pixels: outputs are rates, not logits, and still a classifier."""
    assert self_test(rs.SpikingClassifier(nn.Sequential(nn.Flatten(), IF()), 4).eval(), images()).ok
