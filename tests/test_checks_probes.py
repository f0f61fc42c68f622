"""Probes of models: what is wrong on purpose is found and named, and a trained network under good attacks passes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from attack_models import digits, trained_snn
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.errors import RobustSNNError
from robustsnn.evaluation.aggregation import Rows
from robustsnn.evaluation.checks import Check, assess, overall, run_probes, weakest
from robustsnn.evaluation.config import parse_config
from robustsnn.evaluation.measurement import jobs_of, measure
from robustsnn.gradients import BPTR, BPTT
from robustsnn.models import NeuronSpec, build_network

EPS = 32 / 255
GOOD = {"BPTT": BPTT(), "BPTR": BPTR()}
COUNT = 24
PROBES = {
    "finite", "clean", "outputs", "repeatable", "gradients", "direction", "loss", "unbounded", "budget", "random-search",
    "sensitivity",
}  # fmt: skip


class Changed(nn.Module):
    """A trained network with something done to it."""

    def __init__(self, change: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.change = trained_snn(), change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.model, x)


class Remembering(nn.Module):
    """A SpikingJelly-like network that nobody resets: half of the logits of the last call of that size stay."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.last = trained_snn(), {}

    def forward(self, x: Tensor) -> Tensor:
        z = self.model(x) + 0.5 * self.last.get(x.shape, torch.zeros(()))
        self.last[x.shape] = z.detach()
        return z


def probed(model, **options) -> dict[str, Check]:
    images, labels = digits(COUNT)
    settings = {"eps": EPS, "rules": GOOD, "steps": 3} | options
    checks = run_probes(model, images, labels, **settings)
    assert {check.name for check in checks} >= {"finite", "gradients", "sensitivity"}
    return {check.name: check for check in checks}


def verdicts(checks: dict[str, Check]) -> dict[str, str]:
    return {name: check.verdict for name, check in checks.items()}


@pytest.fixture(scope="module")
def sound() -> dict[str, Check]:
    return probed(trained_snn(), steps=8)


def test_a_sound_evaluation_passes(sound):
    assert verdicts(sound) == dict.fromkeys(PROBES, "pass")
    assert overall(list(sound.values())) == "sound"
    assert sound["budget"].numbers["standing"] >= 4  # it had something to find
    assert sound["sensitivity"].numbers["settings"] >= 18


@pytest.mark.parametrize(("alpha", "detach"), [(20.0, True), (100.0, False)])
def test_a_finite_support_surrogate_at_extreme_sharpness_is_masking(alpha, detach):
    checks = probed(trained_snn(), rules={"sharp": BPTT("triangle", alpha=alpha, detach_reset=detach)})
    found = verdicts(checks)
    assert overall(list(checks.values())) == "unreliable"
    for name in ("gradients", "direction", "unbounded", "random-search", "sensitivity"):
        assert found[name] == "fail", name
    numbers = checks["sensitivity"].numbers
    assert numbers["found"][numbers["best"]] > numbers["restart"] + 0.3 * COUNT
    assert numbers["robust_accuracy_with_best"] < numbers["robust_accuracy"] - 0.3
    assert "rule" in checks["sensitivity"].advice
    assert "gradient" in weakest(list(checks.values()))


def test_a_good_rule_beside_the_masked_one_makes_it_sound(sound):
    rules = {"sharp": BPTT("triangle", alpha=100.0)} | GOOD
    checks = probed(trained_snn(), rules=rules, steps=8)
    assert verdicts(checks) == verdicts(sound) | {"gradients": "warn"}
    zero = checks["gradients"].numbers["zero"]
    assert zero["sharp"] > 0.5 * COUNT
    assert zero["BPTT"] == zero["BPTR"] == checks["gradients"].numbers["all_zero"]["count"] == 0


def test_the_share_of_zero_gradients_is_counted_right():
    model = trained_snn()
    images, labels = digits(COUNT)
    rule = BPTT("triangle", alpha=20.0)
    x = images.clone().requires_grad_()
    loss = nn.functional.cross_entropy(model.through(rule)(x), labels, reduction="sum")
    right = model(images).argmax(1) == labels
    expected = (torch.autograd.grad(loss, x)[0].flatten(1).abs().amax(1) == 0) & right
    found = probed(model, rules={"sharp": rule})["gradients"]
    assert found.numbers["zero"] == {"sharp": int(expected.sum())}
    assert found.numbers["all_zero"]["n"] == int(right.sum())
    assert list(found.images) == expected.nonzero()[:20, 0].tolist()


def test_randomness_and_memory_are_told_apart():
    drawn = probed(Changed(lambda model, x: model(x) + 0.3 * torch.randn(len(x), 10)))["repeatable"]
    kept = probed(Remembering())["repeatable"]
    assert drawn.verdict == kept.verdict == "fail"
    assert (drawn.numbers["cause"], kept.numbers["cause"]) == ("randomness", "memory")
    assert "eot_iter" in drawn.advice
    assert "Reset" in kept.advice


def test_a_declared_stochastic_encoder_may_differ():
    net = copy.deepcopy(trained_snn().net)
    checks = probed(SpikingClassifier(net, 4, encoder="poisson").eval(), steps=1, n_images=6)
    assert checks["repeatable"].verdict == "pass"
    assert checks["repeatable"].numbers["declared"]
    assert checks["repeatable"].numbers["moved"] > 3
    assert any("draws averaged" in label for label in checks["sensitivity"].numbers["found"])


def test_logits_that_depend_on_batch_mates():
    found = probed(Changed(lambda model, x: model(x) - model(x).mean(0)))["repeatable"]
    assert found.verdict == "fail"
    assert found.numbers["moved"] == 0
    assert "batch" in found.evidence


def test_probabilities():
    checks = probed(Changed(lambda model, x: model(x).softmax(1)))
    assert checks["outputs"].verdict == "warn"
    assert overall(list(checks.values())) != "sound"
    assert probed(Changed(lambda model, x: model(x).log_softmax(1)))["outputs"].verdict == "pass"


@pytest.mark.parametrize(
    "change",
    [lambda model, x: model(x.detach()), lambda model, x: model((16 * x).round() / 16)],
    ids=["detach", "round"],
)
def test_dead_gradients(change):
    checks = probed(Changed(change))
    assert checks["gradients"].verdict == "fail"
    assert checks["gradients"].numbers["all_zero"]["value"] == 1.0
    assert checks["random-search"].verdict == "fail"  # which needs no gradient, so it is run all the same
    assert checks["unbounded"].verdict in ("fail", "not run")
    assert "SpikingClassifier" in weakest(list(checks.values()))


def test_a_saturated_loss_is_told_from_a_dead_gradient():
    checks = probed(Changed(lambda model, x: 1e4 * model(x)))
    assert checks["gradients"].verdict == "fail"
    assert checks["gradients"].numbers["saturated"] == checks["gradients"].numbers["all_zero"]["count"] >= 20
    assert "apgd-dlr" in checks["gradients"].advice
    assert checks["sensitivity"].verdict == "fail"
    assert "margin" in checks["sensitivity"].numbers["best"]


def test_nan_gradients():
    def spoilt(model, x):
        return model(x) + 0 * (x - x.detach()).sum((1, 2, 3))[:, None].abs().sqrt()  # slope of the root at 0

    found = probed(Changed(spoilt))["gradients"]
    assert found.verdict == "fail"
    assert found.numbers["nan"]["own"] >= 20


def test_nan_logits_stop_everything():
    checks = probed(Changed(lambda model, x: model(x) / 0))
    assert checks["finite"].verdict == "fail"
    assert {check.verdict for name, check in checks.items() if name != "finite"} == {"not run"}


def test_an_untrained_network_is_no_better_than_chance():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build_network("cnn", (1, 8, 8), 10, NeuronSpec(), width=4, hidden=16)
    assert probed(SpikingClassifier(net, 2).eval(), steps=2)["clean"].verdict == "fail"


def test_an_evaluation_that_found_nothing_is_stopped_by_its_budget():
    model, (images, labels) = trained_snn(), digits(COUNT)
    checks = run_probes(
        model, images, labels, eps=EPS, rules={"BPTT": BPTT()}, steps=5, fooled=torch.zeros(COUNT, dtype=torch.bool)
    )
    budget = {check.name: check for check in checks}["budget"]
    assert budget.verdict == "fail"  # as if the evaluation had found nothing
    assert budget.numbers["standing"] == int((model(images).argmax(1) == labels).sum())
    assert budget.numbers["gained"] >= budget.numbers["double"] > 10


def test_images_that_the_evaluation_fooled_are_left_alone():
    model, (images, labels) = trained_snn(), digits(COUNT)
    fooled = torch.arange(COUNT) >= 6
    checks = run_probes(
        model, images, labels, eps=8 / 255, rules=GOOD, steps=3, fooled=fooled, numbers=range(500, 500 + COUNT)
    )
    by_name = {check.name: check for check in checks}
    assert by_name["budget"].numbers["standing"] == int((model(images).argmax(1) == labels)[:6].sum())
    assert all(500 <= image < 506 for name in ("budget", "sensitivity") for image in by_name[name].images)


def test_the_l2_ball():
    checks = probed(trained_snn(), eps=0.8, norm="L2", steps=4)
    assert checks["unbounded"].verdict == "pass"
    assert checks["unbounded"].numbers["eps"] == 8.0


def test_fewer_images_and_none_that_are_right():
    images, labels = digits(COUNT)
    checks = run_probes(trained_snn(), images, (labels + 1) % 10, eps=EPS, rules=GOOD, n_images=12, steps=2)
    by_name = {check.name: check for check in checks}
    assert by_name["clean"].verdict == "fail"
    assert by_name["clean"].numbers["accuracy"]["n"] == 12
    assert by_name["gradients"].verdict == "not run"


def test_repeatable_and_the_model_comes_back_as_it_was(rng_untouched):
    model = trained_snn()
    model.train()
    try:
        before = {name: value.clone() for name, value in model.state_dict().items()}
        first, second = (probed(model, steps=2, n_images=10) for _ in range(2))
        assert first == second
        assert all(module.training for module in model.modules())
        assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    finally:
        model.eval()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fooled": torch.zeros(3, dtype=torch.bool)}, "fooled must have shape"),
        ({"numbers": [1, 2]}, "numbers must name each"),
        ({"n_images": 0}, "n_images must be"),
        ({"steps": 0}, "steps must be"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(RobustSNNError, match=message):
        probed(trained_snn(), **options)


class TestAssess:
    def rows(self, rules: list[dict]) -> tuple[Rows, dict]:
        config = parse_config(
            {
                "models": [{"name": "m"}],
                "noises": [{"name": "sign"}],
                "attacks": [
                    {"name": "fgsm", "title": "one"},
                    {"name": "pgd", "title": "many", "params": {"steps": 10}},
                ],
                "rules": rules,
                "eps": ["8/255", "32/255", "128/255"],
            }
        )
        images, labels = digits(COUNT)
        parts = [measure(job, trained_snn(), images, labels, 0, config) for job in jobs_of("m", config)]
        names = {"one": "fgsm", "many": "pgd", "sign": "sign"}
        return {name: np.array([v for part in parts for v in part[name]]) for name in parts[0]}, names

    def test_sound(self):
        rows, names = self.rows([{"name": "bptt", "title": "BPTT"}, {"name": "bptr", "title": "BPTR"}])
        images, labels = digits(COUNT)
        found = assess(trained_snn(), images, labels, rows, rules=GOOD, names=names)
        assert found["verdict"] == "sound", found["weakest"]
        assert found["eps"] == 32 / 255
        assert {check["name"] for check in found["checks"]} > PROBES
        assert "--attack square" in found["weakest"]

    @pytest.mark.filterwarnings("ignore:.*input gradients were all zero:RuntimeWarning")
    def test_masked(self):
        params = {"surrogate": "triangle", "alpha": 100.0}
        rows, names = self.rows([{"name": "bptt", "title": "sharp", "params": params}])
        images, labels = digits(COUNT)
        found = assess(trained_snn(), images, labels, rows, rules={"sharp": BPTT("triangle", alpha=100.0)}, names=names)
        assert found["verdict"] == "unreliable"
        failed = {check["name"] for check in found["checks"] if check["verdict"] == "fail"}
        assert failed >= {"gradients", "unbounded", "sensitivity", "random-search"}
