"""What attacks refuse: always a readable error, and before any work that it would make worthless."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attack_models as am
import pytest
import torch
from attack_models import EVERY, GRADIENT, NORMS
from torch import Tensor, nn

from robustsnn.attacks import APGD, ATTACKS, FGSM, PGD, RFGSM, UniformNoise, build_attack
from robustsnn.errors import RobustSNNError, UnknownNameError

every = pytest.mark.parametrize("name", EVERY)
gradient = pytest.mark.parametrize("name", GRADIENT)


def good() -> tuple[am.Counting, Tensor, Tensor]:
    model = am.Smooth(16, classes=4)
    x = am.random_images(5, 1, 4, 4)
    return am.Counting(model), x, model(x).argmax(1).detach()


def refuses(*words: str) -> Any:
    """All of ``words``, in this order, and one line that does not look like a traceback."""
    return pytest.raises(RobustSNNError, match="(?s)^[^\n]*" + "[^\n]*".join(words) + "[^\n]*$")


def changed(x: Tensor, where: tuple[int, ...], value: float) -> Tensor:
    x = x.clone()
    x[where] = value
    return x


class TestImages:
    cases: dict[str, tuple[Callable[[Tensor], Any], tuple[str, ...]]] = {  # noqa: RUF012
        "NaN": (lambda x: changed(x, (2, 0, 1, 1), math.nan), ("1 of 5 images", "NaN", "image 2")),
        "infinity": (lambda x: changed(x, (3, 0, 0, 0), -math.inf), ("1 of 5 images", "infinity", "image 3")),
        "above": (lambda x: changed(x, (4, 0, 0, 0), 1.5), (r"\[0, 1\]", r"1\.5\]", "1 of 5", "image 4", "scale")),
        "below": (lambda x: changed(x, (1, 0, 0, 0), -1e-6), (r"\[0, 1\]", "-1e-06", "1 of 5", "image 1")),
        "0 to 255": (lambda x: x * 255, (r"\[0, 1\]", "5 of 5", "scale")),
        "empty": (lambda x: x[:0], ("no images", "empty")),
        "uint8": (lambda x: (x * 255).to(torch.uint8), ("floating point", "uint8", "255")),
        "one dimension": (lambda x: x[0, 0, 0], (r"batch of shape \[N, C, H, W\]", r"\(4,\)")),
        "no tensor": (lambda x: x.tolist(), ("batch", "list")),
        "NumPy": (lambda x: x.numpy(), ("batch", "ndarray")),
    }

    @pytest.mark.parametrize("case", cases)
    @every
    def test_refused_before_the_model_is_called(self, name, case):
        model, x, y = good()
        spoil, words = self.cases[case]
        with refuses(*words):
            EVERY[name](model)(spoil(x), y)
        assert model.calls == 0

    @every
    def test_other_bounds(self, name):
        model, x, y = good()
        EVERY[name](model, bounds=(-2, 3))(changed(x, (0, 0, 0, 0), -2.0), y)
        with refuses(r"\[-2, 3\]", "image 0"):
            EVERY[name](model, bounds=(-2, 3))(changed(x, (0, 0, 0, 0), -2.01), y)

    def test_edges_are_inside(self):
        model, x, y = good()
        FGSM(model)(x.round(), y)


class TestLabels:
    cases: dict[str, tuple[Callable[[Tensor], Any], tuple[str, ...]]] = {  # noqa: RUF012
        "too few": (lambda y: y[:4], (r"\[5\]", r"\(4,\)")),
        "too many": (lambda y: torch.cat([y, y]), (r"\[5\]", r"\(10,\)")),
        "a column": (lambda y: y[:, None], (r"\[5\]", r"\(5, 1\)")),
        "one-hot": (lambda y: nn.functional.one_hot(y, 4), (r"\[5\]", r"\(5, 4\)")),
        "float": (lambda y: y.float(), ("integers", "float32", r"long\(\)")),
        "bool": (lambda y: y.bool(), ("integers", "bool")),
        "complex": (lambda y: y.to(torch.complex64), ("integers", "complex64")),
        "negative": (lambda y: torch.where(y == y[0], -1, y), ("negative", "-1")),
        "list": (lambda y: y.tolist(), (r"\[5\]", "list")),
    }

    @pytest.mark.parametrize("case", cases)
    @every
    def test_refused_before_the_model_is_called(self, name, case):
        model, x, y = good()
        spoil, words = self.cases[case]
        with refuses("labels", *words):
            EVERY[name](model)(x, spoil(y))
        assert model.calls == 0

    @gradient
    def test_out_of_range_is_seen_at_the_first_answer(self, name):
        model, x, y = good()
        y[3] = 4
        with refuses("label 4", "4 classes", "0 to 3"):
            GRADIENT[name](model)(x, y)
        assert model.calls == 1

    @every
    @pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8, torch.uint8])
    def test_any_integers_do(self, name, dtype):
        model, x, y = good()
        attack = EVERY[name](model, eps=0.05)
        assert torch.equal(attack(x, y.to(dtype)), attack(x, y))


class TestNumbers:
    @every
    @pytest.mark.parametrize("eps", [-0.1, math.nan, math.inf, -math.inf, "8/255", True, None, [0.1], 1j])
    def test_eps(self, name, eps):
        with refuses("eps", "finite number of at least 0", "got"):
            EVERY[name](good()[0], eps=eps)

    @pytest.mark.parametrize("kind", [PGD, RFGSM])
    @pytest.mark.parametrize("alpha", [-0.1, math.nan, math.inf, "0.1", False])
    def test_alpha(self, kind, alpha):
        with refuses("alpha", "finite number of at least 0", "got"):
            kind(good()[0], alpha=alpha)

    @pytest.mark.parametrize("kind", [PGD, APGD])
    @pytest.mark.parametrize("steps", [0, -1, 2.0, "10", True, None])
    def test_steps(self, kind, steps):
        with refuses("steps", "whole number of at least 1", "got"):
            kind(good()[0], steps=steps)

    @gradient
    @pytest.mark.parametrize("restarts", [0, -1, 1.5, "2", True, None])
    def test_restarts(self, name, restarts):
        with refuses("n_restarts", "whole number of at least 1", "got"):
            GRADIENT[name](good()[0], n_restarts=restarts)

    @every
    @pytest.mark.parametrize("size", [0, -5, 2.5, "all", True])
    def test_batch_size(self, name, size):
        with refuses("batch_size", "whole number of at least 1", "got"):
            EVERY[name](good()[0], batch_size=size)

    @every
    @pytest.mark.parametrize("bounds", [(1, 0), (0, 0), (0, math.nan), (math.nan, 1), (0,), (0, 1, 2), 1, None, "ab"])
    def test_bounds(self, name, bounds):
        with refuses("bounds", "lowest", "highest", "got"):
            EVERY[name](good()[0], bounds=bounds)


class TestNames:
    @every
    @pytest.mark.parametrize(("norm", "near"), [("l_inf", "Linf"), ("Lint", "Linf"), ("L_2", "L"), ("L3", "L")])
    def test_unknown_norm(self, name, norm, near):
        with pytest.raises(
            UnknownNameError, match=f"unknown norm '{norm}'. Did you mean '{near}.*Known: L0, L1, L2, Linf"
        ):
            EVERY[name](good()[0], norm=norm)

    @pytest.mark.parametrize("norm", [2, math.inf, None])
    def test_norm_that_is_no_name(self, norm):
        with pytest.raises(UnknownNameError, match=r"unknown norm .*Known: L0, L1, L2, Linf"):
            PGD(good()[0], norm=norm)

    @pytest.mark.parametrize("norm", ["linf", "LINF", "Linf", "l2", "L2"])
    def test_case_of_a_norm_does_not_matter(self, norm):
        assert PGD(good()[0], norm=norm).ball.norm.lower() == norm.lower()

    @pytest.mark.parametrize(
        ("name", "near"), [("pdg", "pgd"), ("fgms", "fgsm"), ("apgd_ce", "apgd-ce"), ("gausian", "gaussian")]
    )
    def test_unknown_attack(self, name, near):
        with pytest.raises(UnknownNameError, match=f"unknown attack '{name}'. Did you mean '{near}'.*Known: .*uniform"):
            build_attack(name, good()[0])

    @pytest.mark.parametrize("name", ["", "spike", 3, None])
    def test_attack_that_resembles_none(self, name):
        with pytest.raises(UnknownNameError, match=r"unknown attack .*Known: apgd, apgd-ce"):
            build_attack(name, good()[0])

    @pytest.mark.parametrize("name", [name for name in ATTACKS if name not in ("ensemble-standard", "ensemble-full")])
    def test_known_attacks_are_built_and_run(self, name):
        model, x, y = good()
        for spelling in (name, name.upper()):
            attack = build_attack(spelling, model, eps=0.03, norm="L2", seed=1)
            assert torch.equal(attack(x, y), ATTACKS[name].build(model, eps=0.03, norm="L2", seed=1)(x, y))
        assert attack.family == ("noise" if name in am.NOISES else "adversarial")

    @pytest.mark.parametrize("name", ATTACKS)
    def test_unknown_parameter(self, name):
        with refuses(f"attack {name}", "epsilon"):
            build_attack(name, good()[0], epsilon=0.1)

    @pytest.mark.parametrize(("name", "parameter"), [("uniform", "steps"), ("fgsm", "alpha"), ("apgd-ce", "alpha")])
    def test_parameter_of_another_attack(self, name, parameter):
        with refuses(f"attack {name}", parameter):
            build_attack(name, good()[0], **{parameter: 3})

    def test_wrong_values_keep_their_own_message(self):
        with refuses("^eps must"):
            build_attack("pgd", good()[0], eps=-1)


class Late(am.Counting):
    """Answers as ``wrong`` makes them, from the n-th call on."""

    def __init__(self, model: nn.Module, at: int, wrong: Callable[[Tensor], Any]) -> None:
        super().__init__(model)
        self.at, self.wrong = at, wrong

    def forward(self, x: Tensor) -> Any:
        z = super().forward(x)
        return self.wrong(z) if self.calls >= self.at else z


class TestLogits:
    cases: dict[str, tuple[Callable[[Tensor], Any], tuple[str, ...]]] = {  # noqa: RUF012
        "NaN": (lambda z: z * math.nan, ("model returned NaN or infinite logits", "5 of 5", "weights")),
        "one NaN": (
            lambda z: torch.where(torch.arange(len(z))[:, None] == 2, math.nan, z),
            ("NaN", "1 of 5 images", "image 2"),
        ),
        "infinity": (lambda z: z / 0.0, ("NaN or infinite", "5 of 5")),
        "time first": (
            lambda z: z.expand(8, *z.shape),
            (r"\[N, K\]", r"\[5, K\]", r"\(8, 5, 4\)", "SpikingClassifier"),
        ),
        "one number": (lambda z: z[:, 0], (r"\[N, K\]", r"\(5,\)")),
        "class first": (lambda z: z.t(), (r"\[5, K\]", r"\(4, 5\)")),
        "a single logit": (lambda z: z[:, :1], ("1 output", "at least 2")),
        "a tuple": (lambda z: (z, z), (r"\[N, K\]", "tuple")),
    }

    @pytest.mark.parametrize("case", cases)
    @gradient
    def test_refused_at_the_first_answer(self, name, case):
        wrong, words = self.cases[case]
        counting, x, y = good()
        model = Late(counting.model, 1, wrong)
        with refuses(*words):
            GRADIENT[name](model)(x, y)
        assert model.calls == 1

    @gradient
    @pytest.mark.parametrize("case", ["NaN", "time first"])
    def test_refused_when_it_begins_to_happen(self, name, case):
        wrong, words = self.cases[case]
        counting, x, y = good()
        last = {"fgsm": 1, "rfgsm": 3, "bim": 5, "pgd": 6, "apgd": 8}[name]  # clean pass, start, steps
        for at in range(2, last + 1):
            model = Late(counting.model, at, wrong).train()
            with refuses(words[0]):
                GRADIENT[name](model, eps=1e-5)(x, y)  # too little to fool: nobody leaves
            assert model.calls == at
            assert all(module.training for module in model.modules())

    @gradient
    def test_no_later_call_is_left(self, name):
        """The counts above are complete: one call later nothing is wrong any more."""
        counting, x, y = good()
        last = {"fgsm": 1, "rfgsm": 3, "bim": 5, "pgd": 6, "apgd": 8}[name]
        model = Late(counting.model, last + 1, lambda z: z * math.nan)
        GRADIENT[name](model, eps=1e-5)(x, y)
        assert model.calls == last

    def test_noise_does_not_ask(self):
        _, x, y = good()
        UniformNoise(lambda z: z * math.nan)(x, y)


class TestGradients:
    """Where the model gives no usable gradient, silence would look like robustness."""

    breaks: dict[str, Callable[[nn.Module], Callable[[Tensor], Tensor]]] = {  # noqa: RUF012
        "detached images": lambda model: lambda x: model(x.detach()),
        "detached logits": lambda model: lambda x: model(x).detach(),
        "hard threshold": lambda model: lambda x: model((x > 0.5).to(x.dtype)),
        "no grad": lambda model: torch.no_grad()(model.forward),
        "inference mode": lambda model: torch.inference_mode()(lambda x: model(x.clone())),
    }

    @gradient
    @pytest.mark.parametrize("case", breaks)
    def test_a_broken_graph_is_named(self, name, case):
        _, x, _ = good()
        model = self.breaks[case](am.Smooth(16, classes=4))
        y = model(x).argmax(1).detach().clone()
        with refuses("no gradient reaches the images", "threshold", "detach"):
            GRADIENT[name](model)(x, y)

    @gradient
    @pytest.mark.parametrize("norm", NORMS)
    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_gradient_that_is_no_number_counts_as_none(self, name, norm, bad):
        model = Poisoned(am.Smooth(16, classes=4), bad)
        _, x, y = good()
        attack = GRADIENT[name](model, norm=norm)
        with pytest.warns(RuntimeWarning, match="NaN or infinity"):
            result = attack(x, y)
        assert attack.work.bad_gradients == attack.work.backwards > 0
        assert result.isfinite().all()


class Poisoned(am.Wrapper):
    """Right logits, and a backward that multiplies by ``factor``, as roots and divisions at 0 do."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__(model)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x.register_hook(lambda grad: grad.abs() * self.factor + self.factor)
        return self.model(x)
