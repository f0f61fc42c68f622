"""ANN to SNN: what the conversion keeps, what it refuses, and what the converted network computes."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from robustsnn import conversion
from robustsnn.classifier import SpikingClassifier
from robustsnn.conversion import METHODS, convert, convert_opi, convert_qcfs, to_spec
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.gradients import BPTR, BPTT
from robustsnn.models import ActivationSpec, AnnClassifier, ModelSpec, NeuronSpec
from robustsnn.neurons import IF, QCFS, ScaledIF

SPECS = {
    "cnn": ModelSpec(architecture="cnn", options={"width": 3, "hidden": 9}, image_shape=(1, 8, 8), num_classes=4),
    "vgg11": ModelSpec(architecture="vgg11", options={"width": 0.1}, image_shape=(3, 8, 8), num_classes=4),
    "wrn16-4": ModelSpec(architecture="wrn16-4", options={"width": 1}, image_shape=(3, 8, 8), num_classes=4),
}


class Bottleneck(nn.Module):
    """One activation module at three places, as in torchvision's block."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.norm = nn.BatchNorm2d(3)
        self.act = activation

    def forward(self, x, scale=None):
        out = self.act(self.norm(self.first(x)))
        out = self.act(self.second(out))
        out = self.third(out)
        out += x if scale is None else x * scale
        return self.act(out)


class Functional(nn.Module):
    """ReLUs as a function of torch, of nn.functional, of the tensor, in place and bounded by 6."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(12, 12) for _ in range(5))
        self.relu = nn.ReLU()
        self.gain = nn.Parameter(torch.tensor([2.0, -1.0]))

    def forward(self, x):
        a, b, c, d, e = self.layers
        x = self.relu(a(torch.flatten(x, 1)))
        x = torch.relu(b(x)) * F.relu(self.gain)[0]
        x = c(x).relu()
        x = F.relu(d(x).view(x.size(0), -1), inplace=True)
        return F.relu6(e(x) * 20) / 4


class InPlace(nn.Module):
    """The shortcut reads what the in-place activation left behind."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(12, 12), nn.Linear(12, 12)
        self.act = activation

    def forward(self, x):
        x = self.inner(x.flatten(1))
        active = self.act(x)
        return self.outer(active) + 3 * x


def images(n=6, channels=3, size=8, seed=0):
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classifier(block: nn.Module, normalize=None, seed=0) -> AnnClassifier:
    torch.manual_seed(seed)
    ann = AnnClassifier(nn.Sequential(block), normalize).double()
    with torch.no_grad():
        for parameter in block.parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter)
    return ann.eval()


def neurons(model: SpikingClassifier) -> list[ScaledIF]:
    return [module for module in model.modules() if isinstance(module, ScaledIF)]


def ann_of(name: str, activation: str, seed=0) -> tuple[ModelSpec, AnnClassifier]:
    torch.manual_seed(seed)
    norm = ((0.4,) * SPECS[name].image_shape[0], (0.5,) * SPECS[name].image_shape[0])
    spec = SPECS[name].model_copy(update={"neuron": ActivationSpec(kind=activation, bound=2.0), "normalize": norm})
    ann = spec.build().double()
    for norm in (module for module in ann.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = None  # the statistics of the one batch that follows
    with torch.no_grad():
        ann(images(32, spec.image_shape[0]))
        for position, module in enumerate(m for m in ann.modules() if isinstance(m, QCFS)):
            module.bound.fill_(0.5 + position / 32)
    return spec, ann


def converted(name: str, method: str, time_steps=4) -> tuple[ModelSpec, AnnClassifier, SpikingClassifier]:
    spec, ann = ann_of(name, "relu" if METHODS[method].calibrated else "qcfs")
    calibration = images(8, spec.image_shape[0]) if METHODS[method].calibrated else None
    options = {"iterations": 20} if method == "ltb" else {}
    return spec, ann, convert(ann, method, time_steps, calibration, **options)


# --- what the converted network computes -----------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(steps=st.sampled_from([1, 2, 3, 4, 8]), seed=st.integers(0, 999), bound=st.sampled_from([0.5, 1.0, 4.0]))
def test_one_layer_is_exactly_qcfs_with_as_many_levels_as_steps(steps, seed, bound):
    """Weights, bias and images are dyadic, so there is no rounding and ties occur."""
    generator = torch.Generator().manual_seed(seed)
    first, last = nn.Linear(5, 6), nn.Linear(6, 3, bias=False)
    with torch.no_grad():
        for parameter in (*first.parameters(), *last.parameters()):
            parameter.copy_(torch.randint(-8, 9, parameter.shape, generator=generator) / 8 * bound)
    ann = nn.Sequential(first, QCFS(steps, bound), last)
    x = torch.randint(0, 9, (20, 5), generator=generator) / 8
    torch.testing.assert_close(convert_qcfs(ann, steps)(x), ann(x), rtol=1e-6, atol=1e-6 * bound**2)


@pytest.mark.parametrize("block", [Bottleneck, InPlace])
@pytest.mark.parametrize("inplace", [False, True])
def test_opi_tends_to_the_relu_network_as_t_grows(block, inplace):
    ann = classifier(nn.Sequential(block(nn.ReLU(inplace=inplace))))
    x = images(4, 3, 2)
    with torch.no_grad():
        target = ann(x)
        errors = [
            (convert_opi(ann, x, steps, percentile=100)(x) - target).abs().max() / target.abs().max()
            for steps in (8, 64, 2048)
        ]
    assert errors[2] < 0.005
    assert errors[2] < errors[1] < errors[0]


def test_opi_finds_every_form_of_relu():
    ann = classifier(Functional())
    x = images(4, 3, 2)
    model = convert_opi(ann, x, 4096, percentile=100)
    assert len(neurons(model)) == 5, "that of a parameter is no neuron"
    assert neurons(model)[-1].threshold == 6
    with torch.no_grad():
        torch.testing.assert_close(model(x), ann(x), rtol=0, atol=0.01)


def test_qcfs_tends_to_the_clipped_network_as_t_grows():
    """T levels become ever more: the limit is clip(z, 0, bound), not the quantised ANN."""
    ann = classifier(Bottleneck(QCFS(4, 0.7)))
    clipped = copy.deepcopy(ann)
    clipped.net[0].act.levels = 1 << 30
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(convert_qcfs(ann, 4096)(x), clipped(x), rtol=0, atol=0.01)
        assert (ann(x) - clipped(x)).abs().max() > 0.02


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("method", METHODS)
def test_reference_is_forward(name, method):
    _, ann, model = converted(name, method)
    x = images(3, ann.mean.numel())
    assert model(x).std() > 0
    torch.testing.assert_close(model.reference(x), model(x))


def test_rewritten_graph_agrees_with_its_reference():
    model = convert_qcfs(classifier(Bottleneck(QCFS(4, 0.7))), 5)
    torch.testing.assert_close(model.reference(images()), model(images()))


@pytest.mark.parametrize("rule", [BPTT(), BPTR(), BPTR(single_frame=False)])
@pytest.mark.parametrize("block", [lambda: Bottleneck(QCFS(4, 0.7)), lambda: nn.Sequential(nn.Flatten(), QCFS(4, 1.0))])
def test_gradients_reach_the_image(rule, block):
    model = convert_qcfs(classifier(block(), ((0.1,) * 3, (0.5,) * 3)), 4)
    x = images().requires_grad_()
    logits = model.through(rule)(x)
    torch.testing.assert_close(logits, model(x))
    (gradient,) = torch.autograd.grad(logits.square().sum(), x)
    assert gradient.isfinite().all()
    assert (gradient != 0).double().mean() > 0.2


def test_single_frame_rule_holds_on_a_rewritten_graph():
    model, x = convert_qcfs(classifier(Bottleneck(QCFS(4, 0.7))), 4), images().requires_grad_()
    fast, slow = (
        torch.autograd.grad(model.through(BPTR(single_frame=f))(x).square().sum(), x)[0] for f in (True, False)
    )
    torch.testing.assert_close(fast, slow)


# --- what it keeps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("method", METHODS)
def test_spec_of_the_converted_network_takes_its_weights(name, method):
    spec, ann, model = converted(name, method)
    assert isinstance(model.net, nn.Sequential)
    after = to_spec(spec, 4, METHODS[method].v_init)
    again = after.build().double().eval()
    again.load_state_dict(model.state_dict())
    x = images(3, ann.mean.numel())
    torch.testing.assert_close(again(x), model(x))
    assert ModelSpec.model_validate_json(after.model_dump_json()) == after
    assert [key.replace("bound", "threshold") for key in ann.state_dict() if method == "qcfs"] in (
        [],
        [*again.state_dict()],
    )


@pytest.mark.parametrize("method", METHODS)
def test_ann_is_not_modified(method):
    _, ann = ann_of("cnn", "relu" if METHODS[method].calibrated else "qcfs")
    ann.train()
    ann.net[0].eval()
    ann.net[3].weight.requires_grad_(False)
    ann(images(4, 1)).sum().backward()
    before = copy.deepcopy(ann.state_dict())
    state = [(m.training, [(id(p), p.requires_grad, p.grad) for p in m.parameters()]) for m in ann.modules()]
    model = convert(ann, method, 2, images(4, 1) if METHODS[method].calibrated else None)
    model(images(2, 1)).sum().backward()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
    assert before.keys() == ann.state_dict().keys()
    assert all(torch.equal(before[key], value) for key, value in ann.state_dict().items())
    assert not any(module.training for module in model.modules())
    after = [(m.training, [(id(p), p.requires_grad, p.grad) for p in m.parameters()]) for m in ann.modules()]
    assert str(after) == str(state)


def test_thresholds_are_the_bounds_in_their_precision_and_v_init_is_passed_on():
    _, ann = ann_of("cnn", "qcfs")
    model = convert_qcfs(ann, 2, v_init=0.25)
    assert [n.threshold.item() for n in neurons(model)] == [
        m.bound.item() for m in ann.modules() if isinstance(m, QCFS)
    ]
    assert {n.threshold.dtype for n in neurons(model)} == {torch.float64}
    assert {n.neuron.v_init for n in neurons(model)} == {0.25}
    assert model.normalize == ann.normalize
    assert model.time_steps == 2


def test_bare_network_with_normalisation_is_the_classifier():
    _, ann = ann_of("cnn", "qcfs")
    x = images(3, 1)
    torch.testing.assert_close(convert_qcfs(ann.net, 4, normalize=ann.normalize)(x), convert_qcfs(ann, 4)(x))
    with pytest.raises(RobustSNNError, match="normalisation of its own"):
        convert_qcfs(ann, 4, normalize=ann.normalize)


# --- call sites ------------------------------------------------------------------------------------------------------


def test_one_activation_at_three_places_becomes_three_neurons():
    ann = classifier(Bottleneck(QCFS(4, 0.7)))
    model = convert_qcfs(ann, 4)
    found = neurons(model)
    assert len({id(layer.neuron) for layer in found}) == 3
    assert not any(isinstance(module, QCFS) for module in model.modules())
    weights = {key for key in ann.state_dict() if "act" not in key}
    assert weights < {*model.state_dict()}


def test_one_activation_in_several_slots_keeps_the_structure():
    act = QCFS(4, 0.7)
    net = nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 4), act, nn.Sequential(nn.Linear(4, 4), act))
    model = convert_qcfs(net, 4)
    assert type(model.net) is nn.Sequential
    assert len({id(layer.neuron) for layer in neurons(model)}) == 3
    assert [key for key in model.state_dict() if "threshold" in key] == [
        f"net.{i}.threshold" for i in ("1", "3", "4.1")
    ]


def test_block_that_is_used_twice_gives_its_activations_twice():
    block = nn.Sequential(nn.Linear(4, 4), QCFS(4, 0.7))
    model = convert_qcfs(nn.Sequential(block, block, nn.Linear(4, 2)), 4)
    assert len({id(layer.neuron) for layer in neurons(model)}) == 2


def test_new_names_do_not_meet_old_ones():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu, self.relu_1, self.relu_2 = nn.ReLU(), nn.Linear(4, 4), "taken"

        def forward(self, x):
            return torch.relu(self.relu(self.relu_1(self.relu(x))))

    model = convert_opi(Net(), torch.rand(9, 4, generator=torch.Generator().manual_seed(0)), 4)
    assert len({id(layer.neuron) for layer in neurons(model)}) == 3
    assert isinstance(model.net.relu_1, nn.Linear)


# --- what it refuses -------------------------------------------------------------------------------------------------


class Gated(nn.Module):
    def forward(self, x):
        return x * x.mean()


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(3, 1)

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        return self.attention(x, x, x)[0]


class Branching(nn.Module):
    def forward(self, x):
        return 2 * x if x.isfinite().all() else x


class Calling(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def around(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 3), QCFS(4, 1.0), layer, nn.Flatten())


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.MaxPool2d(2), r"layer '2' \(MaxPool2d\): .*average pooling"),
        (nn.AdaptiveMaxPool2d(2), r"layer '2' \(AdaptiveMaxPool2d\): .*average pooling"),
        (Calling(lambda x: F.max_pool2d(x, 2)), "the call 'max_pool2d' of max_pool2d: .*average pooling"),
        (nn.Softmax(1), r"layer '2' \(Softmax\): .*logits"),
        (Calling(lambda x: x.log_softmax(1)), "the call 'log_softmax' of log_softmax: .*logits"),
        (nn.GroupNorm(1, 3), r"layer '2' \(GroupNorm\): .*batch norm"),
        (nn.BatchNorm2d(3, track_running_stats=False), r"layer '2' \(BatchNorm2d\): .*running statistics"),
        (nn.ReLU(), r"layer '2' \(ReLU\): .*only QCFS becomes a neuron"),
        (nn.Sigmoid(), r"layer '2' \(Sigmoid\): .*is_affine"),
        (Attending(), r"layer '2.attention' \(MultiheadAttention\)"),
        (Calling(F.relu), "the call 'relu' of relu"),
        (Calling(torch.abs), "the call '.*' of abs:"),
        (Calling(lambda x: F.dropout(x, training=True)), "dropout"),
        (Calling(lambda x: 1 / x), "truediv"),
        (Calling(lambda x: torch.div(x, 2, rounding_mode="floor")), "div"),
        (Gated(), "the call 'mul' of mul"),
        (Branching(), "torch.fx cannot trace Sequential.*is_affine = True"),
        (IF(), r"layer '2' \(IF\)"),
    ],
)
def test_layers_that_do_not_commute_with_time_are_refused(layer, message):
    with pytest.raises(RobustSNNError, match=message) as caught:
        convert_qcfs(around(layer), 4)
    assert "\n" not in str(caught.value)


class Opaque(Branching):
    is_affine = True


class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(2, 3, 1, 1))
        self.gain = nn.Parameter(torch.rand(2, 1, 1))

    def forward(self, x, bias=None, scale=0.5):
        x = F.conv2d(x, self.weight, bias) * F.softmax(self.gain, 0)
        return x * scale - 1


@pytest.mark.parametrize(
    "layer",
    [
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Dropout(0.5),
        nn.Identity(),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1)),
        Calling(lambda x: F.dropout(F.avg_pool2d(x, 2), training=False)),
        Calling(lambda x: F.pad(torch.cat([x[:, :1], -x], 1), (1, 1)).mean((2, 3)).view(x.shape[0], -1) / x.dim()),
        Weighted(),
        Opaque(),
    ],
)
def test_layers_that_commute_with_time_are_taken(layer):
    """One layer of neurons and affine layers after it: with T = levels it is the ANN."""
    torch.manual_seed(0)
    net = around(layer).double().eval()
    torch.testing.assert_close(convert_qcfs(net, 4)(images()), net(images()))


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan"), float("inf")])
def test_bound_that_is_no_threshold_is_refused(bound):
    net = around(nn.Identity())
    with torch.no_grad():
        net[1].bound.fill_(bound)
    with pytest.raises(RobustSNNError, match=r"'1' has the bound .*positive"):
        convert_qcfs(net, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ann: convert_qcfs(nn.Sequential(nn.Linear(2, 2)), 4), "calls no QCFS"),
        (lambda ann: convert_opi(nn.Sequential(nn.Linear(2, 2)), images(), 4), "calls no ReLU or ReLU6"),
        (lambda ann: convert_opi(ann, images(4, 1), 4), r"\(QCFS\): it is converted by the method 'qcfs'"),
        (lambda ann: convert_qcfs(ann, 0), "time_steps"),
        (lambda ann: convert_qcfs(ann, 4, v_init=float("nan")), "v_init"),
        (lambda ann: convert_qcfs(convert_qcfs(ann, 4), 4), "spiking already"),
        (lambda ann: convert_qcfs(convert_qcfs(ann, 4).through(BPTR()), 4), "spiking already"),
        (lambda ann: convert(ann, "opi"), "needs calibration images"),
        (lambda ann: convert(ann, "qcfs", calibration=images()), "takes no calibration images"),
        (lambda ann: to_spec(SPECS["cnn"].model_copy(update={"neuron": NeuronSpec()}), 4), "spiking already"),
        (lambda ann: to_spec(ann_of("cnn", "relu")[0], 0), "time_steps"),
    ],
)
def test_misuse_is_explained(call, message):
    with pytest.raises(RobustSNNError, match=message):
        call(ann_of("cnn", "qcfs")[1])


def test_unknown_names_are_explained():
    _, ann = ann_of("cnn", "qcfs")
    with pytest.raises(UnknownNameError, match=r"unknown conversion method 'qfcs'\. Did you mean 'qcfs'\?"):
        convert(ann, "qfcs")
    with pytest.raises(UnknownNameError, match="unknown option of conversion method qcfs 'percentile'"):
        convert(ann, "qcfs", percentile=99.0)
    with pytest.raises(UnknownNameError, match="Known: batch_size, normalize, percentile, v_init"):
        convert(ann, "opi", calibration=images(), time=3)


def test_options_reach_the_method():
    _, ann = ann_of("cnn", "relu")
    x = images(8, 1)
    low, high = (neurons(convert(ann, "opi", 4, x, percentile=p, v_init=0.0)) for p in (90.0, 100.0))
    assert all(a.threshold < b.threshold and a.neuron.v_init == 0 for a, b in zip(low, high))


def test_everything_public_is_there():
    assert all(hasattr(conversion, name) for name in conversion.__all__)
