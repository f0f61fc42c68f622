"""SpikingClassifier: equal to the plain way in every layout, and fresh neurons on every call, whatever came before."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier, reset_states
from robustsnn.encoding import DirectEncoder, Encoder
from robustsnn.errors import RobustSNNError
from robustsnn.models import NeuronSpec
from robustsnn.neurons import IF, LIF, PLIF
from robustsnn.neurons.execution import current
from robustsnn.readout import Readout

LAYOUTS = ["folded", "multi", "single"]
layouts = pytest.mark.parametrize("layout", LAYOUTS)


def images(n: int = 6, seed: int = 0) -> Tensor:
    return torch.rand(n, 2, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Breakable(nn.Module):
    """The identity, until it is told to fail."""

    broken = False

    def forward(self, x: Tensor) -> Tensor:
        if self.broken:
            raise ZeroDivisionError("broken on purpose")
        return x


def network(layout: str, seed: int = 0) -> nn.Sequential:
    """The same small network with the same weights, of our neurons and torch layers or of SpikingJelly's."""
    torch.manual_seed(seed)
    ours = layout == "folded"
    parts = nn if ours else layer
    arguments = {"v_threshold": 0.7, "v_reset": None, "surrogate_function": surrogate.ATan(2.0)}
    net = nn.Sequential(
        parts.Conv2d(2, 4, 3, padding=1),
        parts.BatchNorm2d(4),
        (LIF if ours else neuron.LIFNode)(1.5, **arguments),
        parts.AvgPool2d(2),
        Breakable(),
        parts.Conv2d(4, 6, 3, padding=1, bias=False),
        (IF if ours else neuron.IFNode)(**arguments),
        parts.Flatten(),
        parts.Linear(96, 12),
        (PLIF if ours else neuron.ParametricLIFNode)(2.0, decay_input=False, **arguments),
        parts.Linear(12, 5),
    ).double()
    net[1].running_mean.uniform_(-0.5, 0.2)
    net[1].running_var.uniform_(0.05, 0.2)
    with torch.no_grad():
        for weighted in (net[5], net[8]):
            weighted.weight.mul_(3)
    if not ours:
        functional.set_step_mode(net, "m" if layout == "multi" else "s")
    return net


def classifier(layout: str, time_steps: int = 5, **kwargs) -> SpikingClassifier:
    model = SpikingClassifier(network(layout), time_steps, **kwargs).double().eval()
    assert model.layout == layout
    return model


def test_the_network_is_alive():
    """Every layer fires in part and images are told apart, so that the tests below can fail."""
    model, rates = classifier("folded"), []
    for module in neurons(model):
        module.register_forward_hook(lambda _module, _inputs, spikes: rates.append(spikes.mean().item()))
    logits = model(images())
    assert len(rates) == 3
    assert all(0.05 < rate < 0.9 for rate in rates), rates
    assert logits.std(0).min() > 0.01


def grads(model: Callable[[Tensor], Tensor], x: Tensor, parameters: list[Tensor]) -> tuple[Tensor, ...]:
    x = x.clone().requires_grad_()
    logits = model(x)
    weights = torch.arange(logits.numel()).view_as(logits).cos()
    return torch.autograd.grad((weights * logits).sum(), [x, *parameters])


class TestEqualToReference:
    """One pass over the folded batch against SpikingJelly's own steps in a loop."""

    @pytest.mark.parametrize("readout", ["mean", "sum", "max", "last"])
    @pytest.mark.parametrize("encoder", ["direct", "poisson"])
    @pytest.mark.parametrize("architecture", ["cnn", "vgg11", "wrn16-4"])
    def test_architectures(self, make_model, architecture, encoder, readout):
        model = make_model(architecture, encoder=encoder, readout=readout)
        model.encoder.reseed(3)
        logits = model(images())
        model.encoder.reseed(3)
        torch.testing.assert_close(logits, model.reference(images()), rtol=1e-9, atol=1e-10)
        assert logits.std(0).min() > 1e-4  # images are told apart

    @pytest.mark.parametrize("architecture", ["cnn", "vgg11", "wrn16-4"])
    def test_single_precision(self, make_model, architecture):
        """Rounding may move a current across the threshold and flip a spike, on some machine in one of 12 images."""
        model, x = make_model(architecture, dtype=torch.float32), images(12).float()
        difference = (model(x) - model.reference(x)).abs().amax(1)
        assert (difference < 1e-5).sum() >= 11, difference

    @pytest.mark.parametrize("reset", ["hard", "soft"])
    @pytest.mark.parametrize(
        "arguments",
        [
            {"kind": "if"},
            {"kind": "lif", "tau": 1.7, "decay_input": True, "v_threshold": 0.4},
            {"kind": "plif", "tau": 1.5},
            {"kind": "if", "v_init": 0.5},
        ],
        ids=str,
    )
    def test_neurons(self, make_model, arguments, reset):
        model = make_model(spec=NeuronSpec(reset=reset, **arguments))
        torch.testing.assert_close(model(images()), model.reference(images()), rtol=1e-9, atol=1e-10)

    @pytest.mark.parametrize("steps", [1, 2, 7])
    def test_steps_and_normalisation(self, make_model, steps):
        model = make_model(time_steps=steps, normalize=((0.1, 0.2), (0.5, 0.8)))
        torch.testing.assert_close(model(images()), model.reference(images()), rtol=1e-9, atol=1e-10)
        assert torch.equal(model.encode(images())[:, 1], (images()[:, 1] - model.mean[1]) / model.std[1])
        assert not torch.equal(model(images()), SpikingClassifier(model.net, steps)(images()))

    @layouts
    def test_layouts_agree(self, layout):
        torch.testing.assert_close(
            classifier(layout)(images()), classifier("folded").reference(images()), rtol=1e-9, atol=1e-10
        )
        torch.testing.assert_close(
            classifier(layout).reference(images()), classifier(layout)(images()), rtol=1e-9, atol=1e-10
        )

    def test_gradient_equals_that_of_spikingjelly(self):
        """Gradients at the images and at every weight, of the folded pass and of SpikingJelly step by step."""
        folded, single = classifier("folded"), network("single").eval()

        def by_hand(x: Tensor) -> Tensor:
            functional.reset_net(single)
            return torch.stack([single(x) for _ in range(5)]).mean(0)

        found = grads(folded, images(), list(folded.parameters()))
        expected = grads(by_hand, images(), list(single.parameters()))
        assert len(found) == 11
        for a, b in zip(found, expected):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
            assert (a != 0).any()

    def test_mixed_order_of_memory(self, make_model):
        model = make_model("cnn")
        expected = model(images())
        last = model.to(memory_format=torch.channels_last)
        torch.testing.assert_close(last(images().to(memory_format=torch.channels_last)), expected)

    @layouts
    def test_one_and_no_image(self, layout):
        model = classifier(layout)
        whole = model(images())
        torch.testing.assert_close(model(images()[:1]), whole[:1])
        if layout == "folded":
            assert model(images()[:0]).shape == (0, 5)


class TestSpikingJellyByHand:
    """Wrapped networks of SpikingJelly give what SpikingJelly gives."""

    @pytest.mark.parametrize("readout", ["mean", "sum", "max", "last"])
    @pytest.mark.parametrize("layout", ["multi", "single"])
    def test_logits_and_gradients(self, layout, readout):
        model, net = classifier(layout, readout=readout), network(layout).eval()

        def by_hand(x: Tensor) -> Tensor:
            functional.reset_net(net)
            frames = x.unsqueeze(0).repeat(5, 1, 1, 1, 1)
            outputs = net(frames) if layout == "multi" else torch.stack([net(frame) for frame in frames.unbind(0)])
            if readout == "last":
                return outputs[-1]
            return outputs.amax(0) if readout == "max" else getattr(outputs, readout)(0)

        assert torch.equal(model(images()), by_hand(images()))
        found = grads(model, images(), list(model.parameters()))
        expected = grads(by_hand, images(), list(net.parameters()))
        for a, b in zip(found, expected):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
        assert (found[0] != 0).any()


class TestFreshState:
    """Every call is the first one."""

    def disturb_exception(self, model: SpikingClassifier) -> None:
        model.net[4].broken = True
        with pytest.raises(ZeroDivisionError):
            model(images(seed=1))
        with pytest.raises(ZeroDivisionError):
            model.reference(images(seed=1))
        model.net[4].broken = False

    def disturb_batch_size(self, model: SpikingClassifier) -> None:
        model(images(3, seed=1))

    def disturb_same_size(self, model: SpikingClassifier) -> None:
        model(images(seed=1))

    def disturb_no_grad(self, model: SpikingClassifier) -> None:
        with torch.no_grad():
            model(images(seed=1))

    def disturb_backward(self, model: SpikingClassifier) -> None:
        model(images(seed=1).requires_grad_()).sum().backward()
        model.zero_grad()

    def disturb_reference(self, model: SpikingClassifier) -> None:
        model.reference(images(seed=1))

    def disturb_by_hand(self, model: SpikingClassifier) -> None:
        """Run the network outside of the classifier, so that its membranes are dirty and in a graph."""
        x = images(seed=1)
        model.net(x.expand(5, *x.shape) if model.layout == "multi" else x)
        assert any(isinstance(module.v, Tensor) for module in neurons(model))

    @pytest.mark.parametrize(
        "disturbance",
        ["exception", "batch_size", "same_size", "no_grad", "backward", "reference", "by_hand"],
    )
    @layouts
    def test_after(self, layout, disturbance):
        model = classifier(layout)
        twin = classifier(layout)
        logits, expected = model(images()), grads(twin, images(), [])
        getattr(self, f"disturb_{disturbance}")(model)
        modes = [module.step_mode for module in neurons(model)]
        assert torch.equal(model(images()), logits)
        torch.testing.assert_close(model.reference(images()), logits, rtol=1e-9, atol=1e-10)
        assert torch.equal(grads(model, images(), [])[0], expected[0])
        assert [module.step_mode for module in neurons(model)] == modes
        assert current() is None

    @layouts
    def test_nothing_stays_behind(self, layout):
        """Flags, forwards and membranes are as before, also after a failure half-way."""
        model = classifier(layout)
        if layout == "folded":
            for module, mode in zip(neurons(model), "msm"):
                module.step_mode = mode
                module.v = torch.ones(1)  # somebody's own state outlives our calls
        before = [(m.step_mode, m.training, "forward" in m.__dict__, m.v) for m in model.modules() if hasattr(m, "v")]
        assert len(before) == 3

        def unchanged() -> bool:
            after = [(m.step_mode, m.training, "forward" in m.__dict__, m.v) for m in neurons(model)]
            return all(a == b for a, b in zip(before, after)) and current() is None

        for call in (model, model.reference, model.logits_over_time):
            call(images())
            assert unchanged()
            model.net[4].broken = True
            with pytest.raises(ZeroDivisionError):
                call(images())
            model.net[4].broken = False
            assert unchanged()

    def test_reset_states(self):
        net = network("multi")
        net(images().expand(2, -1, -1, -1, -1))
        assert isinstance(net[2].v, Tensor)
        reset_states(net)
        assert net[2].v == 0.0


def neurons(model: nn.Module) -> list[neuron.BaseNode]:
    return [module for module in model.modules() if isinstance(module, neuron.BaseNode)]


class TestLayout:
    @pytest.mark.parametrize(
        ("net", "expected"),
        [
            (nn.Sequential(nn.Flatten(), IF()), "folded"),
            (nn.Sequential(nn.Flatten(), IF(step_mode="m")), "folded"),
            (nn.Sequential(nn.Flatten(), IF(), IF(step_mode="m")), "folded"),
            (nn.Sequential(nn.Flatten(), neuron.IFNode()), "single"),
            (nn.Sequential(layer.Flatten(step_mode="m"), neuron.IFNode(step_mode="m")), "multi"),
            (nn.Sequential(layer.Flatten(step_mode="m"), IF(step_mode="m")), "multi"),
            (nn.Sequential(neuron.IFNode(), IF()), "single"),
            (nn.Sequential(layer.SeqToANNContainer(nn.Linear(2, 2)), neuron.IFNode(step_mode="m")), "multi"),
            (nn.Sequential(layer.MultiStepContainer(nn.Linear(2, 2), neuron.IFNode())), "multi"),
            (nn.Sequential(layer.StepModeContainer(False, "s", nn.Linear(2, 2)), neuron.IFNode()), "single"),
        ],
        ids=lambda value: value if isinstance(value, str) else " ".join(str(value).split()),
    )
    def test_is_found_out(self, net, expected):
        assert SpikingClassifier(net, 2).layout == expected

    @pytest.mark.parametrize(
        "net",
        [
            nn.Sequential(neuron.IFNode(), neuron.IFNode(step_mode="m")),
            nn.Sequential(layer.Linear(2, 2, step_mode="m"), neuron.IFNode()),
            nn.Sequential(layer.Linear(2, 2), neuron.LIFNode(step_mode="m")),
            nn.Sequential(layer.SeqToANNContainer(nn.Linear(2, 2)), neuron.IFNode()),
            nn.Sequential(IF(), neuron.IFNode(step_mode="m")),
            nn.Sequential(IF(step_mode="m"), neuron.IFNode()),
        ],
        ids=lambda value: " ".join(str(value).split()),
    )
    def test_mixed_modes(self, net):
        with pytest.raises(RobustSNNError, match=r"mixes .*set_step_mode"):
            SpikingClassifier(net, 2)
        assert SpikingClassifier(net, 2, layout="single").layout == "single"

    def test_no_neuron(self):
        with pytest.raises(RobustSNNError, match="no spiking neuron"):
            SpikingClassifier(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), 2)

    def test_unknown(self):
        with pytest.raises(RobustSNNError, match=r"unknown layout 'multistep'. Did you mean 'multi'\?"):
            SpikingClassifier(nn.Sequential(IF()), 2, layout="multistep")

    def test_layers_that_lose_the_folded_axis(self):
        net = nn.Sequential(nn.Flatten(0), IF(), nn.Linear(3, 3))
        with pytest.raises(RobustSNNError, match="not a multiple of time_steps=2"):
            SpikingClassifier(nn.Sequential(IF(), nn.Flatten(0), nn.Unflatten(0, (3, -1)), IF()), 2)(torch.rand(3, 5))
        assert SpikingClassifier(net, 2, layout="folded").layout == "folded"


class TestArguments:
    @pytest.mark.parametrize("steps", [0, -1, 2.5, True, "4", None, 4.0])
    def test_time_steps(self, steps):
        with pytest.raises(RobustSNNError, match="time_steps must be a whole number of at least 1, got"):
            SpikingClassifier(nn.Sequential(IF()), steps)

    @pytest.mark.parametrize(
        "normalize",
        [
            ((0.5,), (0.5, 0.5)),
            ((0.5,), (0.0,)),
            ((0.5, 0.5), (0.5, -1.0)),
            ((), ()),
            (0.5, 0.5),
            ((0.5,), (float("nan"),)),
            ((float("inf"),), (1.0,)),
            ((0.5,),),
            "ab",
            ((0.5,), ("x",)),
        ],
        ids=str,
    )
    def test_normalize(self, normalize):
        with pytest.raises(RobustSNNError, match="normalize must be"):
            SpikingClassifier(nn.Sequential(IF()), 2, normalize=normalize)

    def test_normalize_for_other_channels(self):
        model = SpikingClassifier(nn.Sequential(nn.Flatten(), IF()), 2, normalize=((0.5,) * 3, (0.5,) * 3))
        with pytest.raises(RobustSNNError, match="given for 3 channels, the images have 2"):
            model(torch.rand(1, 2, 4, 4))

    @pytest.mark.parametrize("shape", [(4, 3), (3, 3, 5), (4, 3, 5), (4, 3, 5, 6)], ids=str)
    def test_normalize_is_along_the_channels(self, shape):
        mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
        x = torch.rand(shape)
        for encoder in ("direct", "poisson"):
            model = SpikingClassifier(nn.Sequential(nn.Flatten(), IF()), 2, encoder, normalize=(mean, std))
            frames = model.encode(x)
            raw = model.encoder(x, 2) if encoder == "direct" else None
            assert frames.shape == (shape if encoder == "direct" else (2, *shape))
            for channel in range(3):
                values = frames.select(1 if encoder == "direct" else 2, channel)
                if raw is not None:
                    torch.testing.assert_close(values, (x[:, channel] - mean[channel]) / std[channel])
                else:
                    spikes = values * std[channel] + mean[channel]
                    torch.testing.assert_close(spikes, spikes.round(), rtol=0, atol=1e-6)
            assert model(x).shape == (shape[0], x[0].numel())
        one = SpikingClassifier(nn.Sequential(nn.Flatten(), IF()), 2, normalize=((0.1,), (0.5,)))
        torch.testing.assert_close(one.encode(x), (x - 0.1) / 0.5)

    def test_not_a_batch(self):
        with pytest.raises(RobustSNNError, match=r"expected a batch of images .* shape \(5,\)"):
            SpikingClassifier(nn.Sequential(IF()), 2)(torch.rand(5))

    @pytest.mark.parametrize(("kind", "near"), [("encoder", "poisson"), ("readout", "mean")])
    def test_unknown_names(self, kind, near):
        with pytest.raises(RobustSNNError, match=rf"unknown {kind} '{near}s'. Did you mean '{near}'\?"):
            SpikingClassifier(nn.Sequential(IF()), 2, **{kind: f"{near}s"})

    def test_own_readout(self):
        model = classifier("folded", readout=Readout("first", lambda outputs: outputs[0]))
        torch.testing.assert_close(model(images()), SpikingClassifier(model.net, 1)(images()))

    def test_whole_numbers_are_refused(self):
        with pytest.raises(RobustSNNError, match="floating-point"):
            SpikingClassifier(nn.Sequential(IF()), 2)(torch.ones(2, 3, dtype=torch.uint8))

    def test_description(self):
        text = repr(classifier("multi", normalize=((0.5,), (0.25,))))
        assert "time_steps=5, readout=mean, layout=multi, normalize=((0.5,), (0.25,))" in text


class Repeating(Encoder):
    """Direct coding that does not say that it is static."""

    def forward(self, images: Tensor, time_steps: int) -> Tensor:
        return images.unsqueeze(0).repeat(time_steps, *[1] * images.dim())


class TestStaticPrefix:
    def sizes(self, model: SpikingClassifier) -> list[int]:
        """Return how many frames each call of the first convolution gets."""
        seen: list[int] = []
        conv = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        hook = conv.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
        model(images())
        hook.remove()
        return seen

    @pytest.mark.parametrize("architecture", ["cnn", "vgg11", "wrn16-4"])
    def test_first_layer_once(self, make_model, architecture):
        model = make_model(architecture)
        assert self.sizes(model) == [6]
        static, found = model(images()), grads(model, images(), list(model.parameters()))
        model.encoder = Repeating()
        assert self.sizes(model) == [24]
        torch.testing.assert_close(static, model(images()), rtol=1e-12, atol=1e-12)
        for a, b in zip(found, grads(model, images(), list(model.parameters()))):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)

    def test_batch_norm_in_training_sees_every_step(self):
        """Its output and running statistics are SpikingJelly's in multi-step mode, over T*N frames."""
        model, theirs = classifier("folded", 4).train(), network("multi").train()
        model.net[1].momentum = theirs[1].momentum = 0.3
        logits = model(images())
        functional.reset_net(theirs)
        torch.testing.assert_close(logits, theirs(images().repeat(4, 1, 1, 1, 1)).mean(0), rtol=1e-9, atol=1e-10)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            torch.testing.assert_close(getattr(model.net[1], name), getattr(theirs[1], name), rtol=1e-12, atol=0)
        assert self.sizes(model) == [6]  # the convolution before it still runs once

    def test_dropout_in_training_differs_from_step_to_step(self):
        net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Identity(), IF(v_threshold=0.5))
        model = SpikingClassifier(net, 40).train()
        outputs = model.outputs(torch.ones(1, 1, 5, 5))
        rates = outputs.mean(0)
        assert ((rates > 0.2) & (rates < 0.8)).all()
        assert (model.eval().outputs(torch.ones(1, 1, 5, 5)) == 1).all()

    @pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
    def test_hooks_of_every_neuron_run(self, kind):
        model, seen = classifier("folded"), []
        expected = model(images())
        for module in neurons(model):
            getattr(module, kind)(lambda module, inputs, *_: seen.append((module, len(inputs[0]))))
        assert torch.equal(model(images()), expected)
        assert seen == [(module, 30) for module in neurons(model)]

    def test_hook_of_the_container_runs(self):
        model, seen = classifier("folded"), []
        expected = model(images())
        model.net.register_forward_hook(lambda _module, inputs, _outputs: seen.append(len(inputs[0])))
        torch.testing.assert_close(model(images()), expected, rtol=1e-12, atol=1e-12)
        assert seen == [30]

    def test_neuron_with_a_forward_of_its_own(self):
        class Louder(IF):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(2 * x)

        x = torch.full((1, 4), 0.3)
        model = SpikingClassifier(nn.Sequential(Louder()), 5)
        torch.testing.assert_close(model(x), model.reference(x))
        assert not torch.equal(model(x), SpikingClassifier(nn.Sequential(IF()), 5)(x))

    def test_no_neuron_before_the_end(self):
        net = nn.Sequential(nn.Flatten(), nn.Linear(128, 3)).double()
        model = SpikingClassifier(net, 3, layout="folded")
        torch.testing.assert_close(model.outputs(images()), net(images()).expand(3, -1, -1))


class TestCopies:
    @layouts
    def test_deepcopy(self, layout):
        model = classifier(layout, normalize=((0.2,), (0.5,)))
        expected = model(images())
        twin = copy.deepcopy(model)
        assert torch.equal(twin(images()), expected)
        with torch.no_grad():
            twin.net[0].weight.zero_()
        assert torch.equal(model(images()), expected)
        assert not torch.equal(twin(images()), expected)

    @layouts
    def test_state_dict(self, layout):
        model = classifier(layout, normalize=((0.2,), (0.5,)))
        assert set(model.state_dict()) == {f"net.{name}" for name in network(layout).state_dict()}
        other = SpikingClassifier(network(layout, seed=1), 5, normalize=((0.2,), (0.5,))).double().eval()
        assert not torch.equal(other(images()), model(images()))
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(images()), model(images()))

    def test_weights_travel_between_layouts(self):
        states = [network(layout).state_dict() for layout in LAYOUTS]
        assert states[0].keys() == states[1].keys() == states[2].keys()


class TestOverTime:
    @pytest.mark.parametrize("readout", ["mean", "sum", "max", "last"])
    @layouts
    def test_equals_separate_runs(self, layout, readout):
        model = classifier(layout, readout=readout)
        found = model.logits_over_time(images())
        assert found.shape == (5, 6, 5)
        for t in range(5):
            expected = SpikingClassifier(model.net, t + 1, readout=readout).double()(images())
            torch.testing.assert_close(found[t], expected, rtol=1e-10, atol=1e-11)
        torch.testing.assert_close(found[-1], model(images()), rtol=0, atol=0)

    def test_outputs(self):
        model = classifier("folded")
        torch.testing.assert_close(model.outputs(images()).mean(0), model(images()), rtol=0, atol=0)


def test_encoder_object_is_used():
    encoder = DirectEncoder()
    assert classifier("folded", encoder=encoder).encoder is encoder


def test_import_is_quick_and_light():
    """``import robustsnn`` loads neither torch nor anything as heavy, and takes less than two seconds."""
    code = (
        "import sys, time; start = time.perf_counter(); import robustsnn; took = time.perf_counter() - start;"
        "heavy = {'torch', 'numpy', 'matplotlib', 'sklearn', 'scipy', 'numba', 'spikingjelly', 'pydantic'};"
        "print(took, *sorted(heavy & set(sys.modules)));"
        "robustsnn.SpikingClassifier, robustsnn.neurons.IF, robustsnn.gradients.BPTR;"
        "print(*sorted({'matplotlib', 'sklearn', 'torchattacks', 'tonic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = done.stdout.split("\n")[:2]
    took, *loaded = first.split()
    assert float(took) < 2
    assert loaded == []
    assert second == ""


@pytest.mark.parametrize("readout", ["mean", "sum", "max", "last"])
def test_a_classifier_can_be_sent_to_another_process(readout):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3), LIF())
    model = SpikingClassifier(net, 3, readout=readout).eval()
    images = torch.rand(5, 1, 2, 2)
    assert torch.equal(pickle.loads(pickle.dumps(model))(images), model(images))
