"""The probe matrix: every attack, ours and other people's, in situations in which attack libraries fail silently."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import math
import random
from collections.abc import Callable
from typing import Any

import attack_models as am
import numpy as np
import pytest
import torch
from attack_models import distance, fooled
from spikingjelly.activation_based import layer, neuron, surrogate
from torch import Tensor, nn

from robustsnn import SpikingClassifier, gradients
from robustsnn.attacks import ATTACKS, build_attack
from robustsnn.attacks.ensemble.presets import PRESETS
from robustsnn.attacks.named import NATIVE
from robustsnn.errors import RobustSNNError

pytestmark = pytest.mark.filterwarnings("ignore:.*input gradients were all zero")

EPS = {"Linf": 0.1, "L2": 1.0, "L1": 4.0, "L0": 4}

# What attacks get so that the matrix stays small.
OURS: dict[str, dict[str, Any]] = {
    **{name: {"steps": 4} for name in NATIVE if name not in ("fgsm", "rfgsm") and NATIVE[name].family != "noise"},
    "square": {"steps": 20},
    "random-search": {"steps": 20},
    **{
        f"ensemble-{preset}": {"members": [dataclasses.replace(m, steps=3) for m in members[:3] + members[-3:]]}
        for preset, members in PRESETS.items()
    },
}
THEIRS: dict[str, dict[str, Any]] = {
    "torchattacks:PGD": {"steps": 4},
    "torchattacks:APGD": {"steps": 6},
    "torchattacks:FAB": {"steps": 4},
    "torchattacks:Square": {"n_queries": 30},
    "torchattacks:DeepFool": {"steps": 10},
    "torchattacks:Pixle": {"restarts": 2},
    "autoattack": {},
    "foolbox:LinfPGD": {"steps": 4},
    "foolbox:LinfDeepFoolAttack": {"steps": 10},
    "foolbox:LinfAdditiveUniformNoiseAttack": {},
    "art:ProjectedGradientDescent": {"max_iter": 4},
    "art:AutoProjectedGradientDescent": {"max_iter": 6, "nb_random_init": 1},
    "art:SquareAttack": {"max_iter": 20, "p_init": 0.3},
}
NOISE = {name for name, entry in ATTACKS.items() if entry.family == "noise"}
NOISE |= {"foolbox:LinfAdditiveUniformNoiseAttack"}
WITHOUT_GRADIENT = {"torchattacks:Square", "torchattacks:Pixle", "art:SquareAttack"} | NOISE


def norm_of(name: str) -> str:
    """Linf, or what the attack is defined in."""
    norms = getattr(NATIVE.get(name), "norms", ("Linf",))
    return "Linf" if "Linf" in norms else norms[0]


def eps_of(name: str) -> float:
    return 0.5 if name == "autoattack" else EPS[norm_of(name)]  # AutoAttack is quick where its first member wins


def build(name: str, model: Any, **options: Any) -> Any:
    """The attack at a size that is fit for a test, whoever wrote it."""
    library = name.partition(":")[0]
    if name in THEIRS and importlib.util.find_spec({"autoattack": "pyautoattack"}.get(library, library)) is None:
        pytest.skip(f"{library} is not installed")
    options = {"eps": eps_of(name), "norm": norm_of(name)} | OURS.get(name, {}) | THEIRS.get(name, {}) | options
    return build_attack(name, model, **options)


def climbs(name: str) -> bool:
    """Whether the attack needs a gradient, and so refuses a model without one."""
    if name in NATIVE:
        return NATIVE[name].takes_gradient and name not in NOISE
    return name not in WITHOUT_GRADIENT


EVERY = [*ATTACKS, *THEIRS]
every = pytest.mark.parametrize("name", EVERY)
asking = pytest.mark.parametrize("name", [name for name in EVERY if name not in NOISE])
climbing = pytest.mark.parametrize("name", [name for name in EVERY if climbs(name)])


def case(classes: int = 4, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor, Tensor]:
    model = am.Smooth(16, classes=classes).to(dtype)
    x = am.random_images(6, 1, 4, 4, dtype=dtype)
    return model, x, model(x).argmax(1).detach()


class Busy(nn.Module):
    """Batch norm in training mode, dropout off, frozen and free weights, gradients that are there already."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten())
            self.head = nn.Linear(144, 4)
        self.head.bias.requires_grad_(False)
        self.head.weight.grad = torch.ones_like(self.head.weight)
        self.train()
        self.body.training = False
        self.body[2].eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def busy_case() -> tuple[Busy, Tensor, Tensor]:
    model, x = Busy(), am.random_images(6, 1, 8, 8, dtype=torch.float32)
    return model, x, copy.deepcopy(model).eval()(x).argmax(1)


def trace(model: nn.Module) -> list[Any]:
    """Everything an attack might leave behind in a model."""
    weights = list(model.named_parameters())
    return [
        {name: module.training for name, module in model.named_modules()},
        {name: weight.requires_grad for name, weight in weights},
        {name: None if weight.grad is None else weight.grad.tolist() for name, weight in weights},
        {name: value.tolist() for name, value in model.state_dict().items()},
    ]


def generators() -> list[Any]:
    numpy_state = np.random.get_state()  # noqa: NPY002
    return [torch.get_rng_state().tolist(), random.getstate(), numpy_state[1].tolist(), numpy_state[2:]]


class TestInput:
    spoils: dict[str, tuple[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], str]] = {  # noqa: RUF012
        "NaN pixel": (lambda x, y: (x.where(torch.arange(6).view(-1, 1, 1, 1) != 2, math.nan), y), "NaN.*image 2"),
        "empty batch": (lambda x, y: (x[:0], y[:0]), "the batch is empty"),
        "counts in the wrong bounds": (lambda x, y: (3 * x, y), r"\[0, 1\]"),
        "float labels": (lambda x, y: (x, y.float()), "labels must be integers"),
        "labels of another batch": (lambda x, y: (x, y[:3]), r"labels must have shape \[6\]"),
        "negative label": (lambda x, y: (x, y - 5), "negative"),
    }

    @every
    @pytest.mark.parametrize("spoil", spoils)
    def test_refused_before_the_model_is_called(self, spoil, name):
        model, x, y = case()
        counting = am.Counting(model)
        change, words = self.spoils[spoil]
        attack = build(name, counting)
        counting.calls = 0
        with pytest.raises(RobustSNNError, match=words):
            attack(*change(x, y))
        assert counting.calls == 0

    @asking
    def test_label_out_of_range(self, name):
        model, x, y = case()
        y[3] = 4
        with pytest.raises(RobustSNNError, match="label 4 is out of range"):
            build(name, model)(x, y)

    @asking
    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_logits_that_are_no_numbers(self, bad, name):
        model, x, y = case()
        with pytest.raises(RobustSNNError, match="NaN or infinite logits"):
            build(name, lambda images: model(images) + bad)(x, y)

    @climbing
    def test_gradient_for_training_mode_only(self, name):
        """Attacks run in eval mode; there the surrogate is gone, and silence would look like robustness."""

        class EvalHard(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return torch.sigmoid(4 * x) if self.training else (x > 0).to(x.dtype)

        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), EvalHard(), nn.Linear(8, 4))
        _, x, _ = case()
        y = net.eval()(x).argmax(1)
        with pytest.raises(RobustSNNError, match="no gradient reaches the images"):
            build(name, net.train())(x, y)


class TestLeavesNoTrace:
    @every
    def test_model_and_generators(self, name):
        model, x, y = busy_case()
        before, draws, copies = trace(model), generators(), (x.clone(), y.clone())
        adv = build(name, model)(x, y)
        assert trace(model) == before
        assert generators() == draws
        assert torch.equal(x, copies[0])
        assert torch.equal(y, copies[1])
        assert not adv.requires_grad
        assert adv.is_leaf

    @asking
    @pytest.mark.parametrize("at", [1, 2])
    def test_a_model_that_raises(self, at, name):
        model, x, y = busy_case()
        raising = am.Raising(model, at)
        before, draws = trace(raising), generators()
        attack = build(name, raising, eps=1e-4 if norm_of(name) != "L0" else 1)
        if (name, at) == ("fgsm", 2):
            pytest.skip("one step is one pass")
        with pytest.raises(ArithmeticError, match="the model gave up"):
            attack(x, y)
        assert trace(raising) == before
        assert generators() == draws
        assert torch.is_grad_enabled()

    @pytest.mark.parametrize("name", [name for name in EVERY if name != "autoattack"])  # 4,000 passes of a draw each
    def test_stochastic_encoders_keep_their_own_generator(self, name):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), neuron.IFNode(step_mode="m"), nn.Linear(12, 4))
        model = SpikingClassifier(net, 4, encoder="poisson", layout="multi")
        model.net[0] = nn.Flatten(2)
        _, x, _ = case()
        y = torch.tensor([0, 1, 2, 3, 0, 1])
        runs = []
        for seed in (4, 4):
            model.encoder.reseed(seed)
            runs.append(build(name, model)(x, y))
        assert torch.equal(*runs)


class TestResult:
    def check(self, name: str, x: Tensor, adv: Tensor, eps: float, top: float = 1.0) -> None:
        assert adv.shape == x.shape
        assert adv.dtype == x.dtype
        assert adv.isfinite().all()
        assert adv.min() >= 0
        assert adv.max() <= top
        if norm_of(name) != "L0":
            assert (distance(adv, x, norm_of(name)) <= eps * (1 + 1e-6) + 1e-6).all()

    @every
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_legal_in_both_precisions(self, dtype, name):
        model, x, y = case(dtype=dtype)
        x[:3] = x[:3].round()  # extreme pixels
        self.check(name, x, build(name, model)(x, y), eps_of(name))

    @every
    def test_no_budget_no_change(self, name):
        model, x, y = case()
        assert torch.equal(build(name, model, eps=0)(x, y), x)

    @every
    def test_event_counts_stay_in_their_own_bounds(self, name):
        """Most libraries clip counts to [0, 1] and call the difference a perturbation of eps."""
        x = torch.randint(0, 4, (6, 2, 4, 4), generator=torch.Generator().manual_seed(0)).float()
        model = am.Smooth(32, classes=4).float()
        y = model(x).argmax(1).detach()
        eps = 2 * eps_of(name)
        adv = build(name, model, eps=eps, bounds=(0, 3))(x, y)
        self.check(name, x, adv, eps, top=3)
        assert adv.max() > 2

    @every
    @pytest.mark.parametrize("classes", [2, 3])
    def test_few_classes(self, classes, name):
        model, x, y = case(classes)
        if (name, classes) == ("apgd-dlr", 2):  # the loss that is asked for is not defined
            with pytest.raises(RobustSNNError, match="needs at least 3 classes"):
                build(name, model)(x, y)
            return
        self.check(name, x, build(name, model)(x, y), eps_of(name))

    @every
    def test_time_in_the_input(self, name):
        """[N, T, C, H, W] runs, and gives what the same network gives on [N, T*C, H, W]."""
        x = am.random_images(4, 3, 2, 4, 4, dtype=torch.float32)
        model = am.Smooth(96, classes=4).float()
        y = model(x).argmax(1).detach()
        adv = build(name, model)(x, y)
        self.check(name, x, adv, eps_of(name))
        if not name.startswith("art:Square"):  # draws at other places
            assert torch.equal(build(name, model)(x.flatten(1, 2), y), adv.flatten(1, 2))

    @every
    def test_stale_state(self, name):
        """A SpikingJelly network keeps its membranes; an attack, its repetition and the judge see fresh ones."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = nn.Sequential(
                layer.Conv2d(1, 6, 3, padding=1),
                neuron.LIFNode(v_threshold=0.3, surrogate_function=surrogate.ATan()),
                layer.Flatten(),
                layer.Linear(96, 4),
            )
        model = SpikingClassifier(net, 4)
        _, x, _ = case()
        y = model.reference(x).argmax(1)
        attack = build(name, model.through(gradients.BPTT()) if climbs(name) else model)
        first = attack(x, y)
        with torch.no_grad():
            net(am.random_images(3, 1, 4, 4, dtype=torch.float32))  # somebody leaves charged membranes
        assert torch.equal(attack(x, y), first)
        assert torch.equal(fooled(model, first, y), model.reference(first).argmax(1) != y)


LAST_STEP: dict[str, Callable[[float], dict[str, Any]]] = {
    "pgd": lambda eps: {"steps": 1, "alpha": 2 * eps},
    "apgd-ce": lambda eps: {"steps": 1},
    "fgsm": lambda eps: {},
    "torchattacks:PGD": lambda eps: {"steps": 1, "alpha": 2 * eps},
    "torchattacks:APGD": lambda eps: {"steps": 1},
    "autoattack": lambda eps: {},
    "foolbox:LinfPGD": lambda eps: {"steps": 1, "abs_stepsize": 2 * eps},
    "art:ProjectedGradientDescent": lambda eps: {"max_iter": 1, "eps_step": 2 * eps, "num_random_init": 1},
    "art:AutoProjectedGradientDescent": lambda eps: {"max_iter": 1},
}


class TestLastStep:
    """Only the point after the last step fools: an attack that does not judge it reports a robust model."""

    @staticmethod
    def case() -> tuple[nn.Module, Tensor, Tensor]:
        w = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(3))
        x = 0.5 + 0.02 * (am.random_images(16, 1, 8, 8, dtype=torch.float32) - 0.5)
        x -= ((x - 0.5) * w).flatten(1).sum(1).view(-1, 1, 1, 1) * w / w.pow(2).sum()
        return am.LastStep(w, 0.05, "Linf"), x, torch.zeros(16, dtype=torch.long)

    @pytest.mark.parametrize("name", LAST_STEP)
    def test_one_step_fools_all(self, name):
        model, x, y = self.case()
        assert fooled(model, build(name, model, eps=0.05, **LAST_STEP[name](0.05))(x, y), y).all()

    @pytest.mark.parametrize("name", [name for name in EVERY if norm_of(name) == "Linf" and name != "autoattack"])
    def test_a_little_less_fools_none(self, name):
        model, x, y = self.case()
        assert not fooled(model, build(name, model, eps=0.79 * 0.05)(x, y), y).any()
