"""What counts as an adversarial example, what is claimed and what is verified, and the input gradient in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from tiny_benchmark import tiny
from torch import Tensor, nn

from robustsnn.attacks.image import ImageAttack
from robustsnn.attacks.image.ball import build_ball
from robustsnn.attacks.registry import ATTACKS, AttackEntry
from robustsnn.classifier import SpikingClassifier
from robustsnn.errors import RobustSNNError
from robustsnn.evaluation.aggregation import attack_results, columns_of, warnings_of
from robustsnn.evaluation.gradient_study import study_gradients
from robustsnn.evaluation.measurement import Job, jobs_of, measure
from robustsnn.evaluation.verification import decide, is_legal
from robustsnn.models import NeuronSpec


class Scripted(SpikingClassifier):
    """A spiking network whose reference gives all images the logits that the test says, draw after draw."""

    def __init__(self, *draws: Sequence[float], encoder: str = "direct") -> None:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), NeuronSpec(v_threshold=0.5)(), nn.Linear(40, 4))
        super().__init__(net, 3, encoder, normalize=((0.5,), (0.2,)))
        self.draws = [torch.tensor([draw]) for draw in draws]
        self.asked: list[Tensor] = []
        self.eval()

    def reference(self, images: Tensor) -> Tensor:
        self.asked.append(images)
        if not self.draws:
            return super().reference(images)
        return self.draws[(len(self.asked) - 1) % len(self.draws)].expand(len(images), 4)


class Shift(ImageAttack):
    """Moves every pixel by the same amount, whatever ball and bounds say."""

    by = 0.0

    def perturb(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.by


ONE, TWO, THREE = (nn.functional.one_hot(torch.tensor(k), 4).float().tolist() for k in (1, 2, 3))
ONES = torch.ones(12, dtype=torch.long)
"""The class of nearly all images by the fast path."""


@pytest.fixture
def images() -> Tensor:
    return 0.3 + 0.4 * torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def shifting(monkeypatch: pytest.MonkeyPatch, by: float, eps: float = 0.1) -> Any:
    monkeypatch.setitem(ATTACKS, "shift", AttackEntry(type("Shift", (Shift,), {"by": by}), "moves every pixel"))
    return tiny(attacks=[{"name": "shift"}], noises=[], rules=[{"name": "bptr"}], eps=[eps])


def report(model: SpikingClassifier, images: Tensor, labels: Tensor, config: Any) -> tuple[dict[str, Any], list[str]]:
    """The model's part of the results and its warnings, from rows measured one job after the other."""
    tables = [pa.table(measure(job, model, images, labels, 0, config)) for job in jobs_of("plain", config)]
    entry = attack_results(columns_of(pa.concat_tables(tables)), config, "plain", len(images)) | {"title": "Plain"}
    return entry, warnings_of([entry], config)


class TestLegal:
    @pytest.mark.parametrize("norm", ["Linf", "L2"])
    def test_in_the_ball_up_to_rounding(self, norm):
        x = torch.full((6, 1, 2, 2), 0.5)
        unit = torch.ones_like(x[0]) / (1 if norm == "Linf" else 2)
        sizes = [0.0, 0.0999, 0.1, -0.1, 0.10002, -0.10002]
        adversarial = torch.stack([x[0] + size * unit for size in sizes])
        assert is_legal(adversarial, x, build_ball(norm, 0.1)).tolist() == [True, True, True, True, False, False]

    def test_one_pixel_too_far_is_too_far(self):
        x = torch.full((1, 1, 8, 8), 0.5)
        adversarial = x.clone()
        adversarial[0, 0, 3, 3] += 0.1001
        assert not is_legal(adversarial, x, build_ball("Linf", 0.1)).item()
        assert is_legal(adversarial, x, build_ball("L2", 0.1002)).item()

    def test_l2_adds_all_pixels_up(self):
        x = torch.full((1, 3, 4, 4), 0.5)
        assert not is_legal(x + 0.1, x, build_ball("L2", 0.1)).item()
        assert is_legal(x + 0.1, x, build_ball("L2", 0.1 * 48**0.5)).item()

    @pytest.mark.parametrize("bad", [-0.001, 1.001, float("nan"), float("inf"), -float("inf")])
    @pytest.mark.parametrize("norm", ["Linf", "L2"])
    def test_outside_the_bounds_or_not_finite(self, norm, bad):
        x = torch.full((2, 1, 2, 2), 0.5)
        adversarial = x.clone()
        adversarial[0, 0, 0, 0] = bad
        assert is_legal(adversarial, x, build_ball(norm, 10.0)).tolist() == [False, True]

    def test_projections_on_the_ball_are_legal(self):
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(500, 1, 4, 4, generator=generator)
        far = x + torch.randn(x.shape, generator=generator)
        for norm in ("Linf", "L2"):
            for eps in (0.0, 1 / 255, 0.3, 5.0):
                ball = build_ball(norm, eps)
                assert is_legal(ball.project(far, x), x, ball).all()


class TestDecide:
    def test_the_reference_decides(self, images):
        model = Scripted(TWO)
        assert decide(model, images).tolist() == [2] * 12
        assert len(model.asked) == 1, "without randomness one run is enough"

    def test_mean_logits_decide_over_draws_and_not_the_majority(self, images):
        draws = [[9.0, 0.0, 0.0, 0.0], [0.0, 4.0, 0.0, 0.0], [0.0, 4.0, 0.0, 0.0]]
        model = Scripted(*draws, encoder="poisson")
        assert decide(model, images, 3).tolist() == [0] * 12
        assert len(model.asked) == 3
        assert decide(Scripted(*draws[1:], encoder="poisson"), images, 1).tolist() == [1] * 12

    def test_draws_are_fresh(self, images):
        model = Scripted(encoder="poisson")
        assert not model.reference(images).equal(model.reference(images))

    def test_other_models_are_asked_directly(self, images):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
        with torch.no_grad():
            assert decide(model, images).equal(model(images).argmax(1))


class WrongWhereMoved(Scripted):
    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images = images

    def reference(self, images: Tensor) -> Tensor:
        moved = (images != self.images).flatten(1).any(1)
        return torch.where(moved[:, None], torch.tensor([TWO]), torch.tensor([THREE]))


class TestIllegalExamples:
    @pytest.mark.parametrize(("by", "eps"), [(0.2, 0.1), (-0.6, 0.7)], ids=["ball", "bounds"])
    def test_never_count_and_are_reported(self, monkeypatch, images, by, eps):
        model = WrongWhereMoved(images)  # right on the clean images, wrong on others; the fast path never says 3
        entry, warnings = report(model, images, ONES + 2, shifting(monkeypatch, by, eps))
        (attack,) = entry["attacks"]
        assert entry["clean"]["count"] == 12
        assert attack["claimed"] == 12
        assert attack["illegal"] == 12
        assert attack["verified"] == 0
        assert attack["accuracy"]["count"] == 12
        assert f"Plain, shift at eps {eps:.4g}: 12 examples left the ball and were not counted" in warnings

    def test_legal_ones_do_count(self, monkeypatch, images):
        config = shifting(monkeypatch, 0.1)
        job = Job("plain", config.attacks[0], config.rules[0], 0.1)
        rows = measure(job, Scripted(TWO), images, ONES + 2, 0, config)
        assert rows["legal"] == [True] * 12
        assert rows["correct"] == [False] * 12
        assert rows["predicted"] == [2] * 12


class TestClaimedAndVerified:
    def test_what_fools_only_the_fast_path_is_claimed_but_not_verified(self, images):
        """A defect of the fast path must not make an attack look strong."""
        config = tiny(noises=[], attacks=[{"name": "fgsm"}], rules=[{"name": "bptr"}], eps=[0.2])
        labels = Scripted().reference(images).argmax(1)
        honest, no_warnings = report(Scripted(), images, labels, config)
        claimed = honest["attacks"][0]["claimed"]
        assert claimed == honest["attacks"][0]["verified"] > 3
        assert no_warnings == []
        entry, warnings = report(Scripted(ONE), images, ONES, config)
        (attack,) = entry["attacks"]
        assert attack["claimed"] > 3
        assert attack["verified"] == 0
        assert attack["accuracy"]["count"] == entry["clean"]["count"] == 12
        told = f"{attack['claimed']} claimed successes did not fool the untouched model"
        assert warnings == [f"Plain, fgsm at eps 0.2: {told}"]

    def test_a_stochastic_model_is_judged_by_all_draws_even_where_nothing_is_claimed(self, images):
        config = tiny(noises=[], attacks=[{"name": "fgsm"}], rules=[{"name": "bptr"}], eps=[0.0], verify_draws=4)
        for job in jobs_of("plain", config):
            for draw, correct in ((ONE, True), (TWO, False)):
                model = Scripted(draw, encoder="poisson")
                rows = measure(job, model, images, ONES, 0, config)
                assert not all(rows["claimed"])
                assert rows["correct"] == [correct] * 12
                assert [len(asked) for asked in model.asked] == [12] * 4

    def test_rows_of_a_stochastic_model_do_not_depend_on_what_ran_before(self, images):
        config = tiny(noises=[], attacks=[{"name": "fgsm"}], rules=[{"name": "bptr"}], eps=[0.1], verify_draws=2)
        model = Scripted(encoder="poisson")
        labels = model.reference(images).argmax(1)
        jobs = list(jobs_of("plain", config))

        def rows(job: Job) -> dict[str, list[Any]]:
            return {k: v for k, v in measure(job, model, images, labels, 0, config).items() if k != "seconds"}

        first = [rows(job) for job in jobs]
        assert [rows(job) for job in reversed(jobs)] == first[::-1]


class TestMisclassifiedImages:
    def test_are_no_success_but_noise_is_measured_on_them(self, images):
        config = tiny(noises=[{"name": "sign"}], attacks=[{"name": "pgd"}], rules=[{"name": "bptr"}], eps=[0.2])
        model = Scripted()
        labels = model.reference(images).argmax(1)
        labels[:5] = (labels[:5] + 1) % 4
        entry, _ = report(model, images, labels, config)
        noise, pgd = entry["attacks"]
        assert entry["clean"]["count"] == 7
        assert noise["accuracy"]["n"] == pgd["accuracy"]["n"] == 12
        assert noise["success"]["n"] == pgd["success"]["n"] == 7
        assert pgd["accuracy"]["count"] == 7 - pgd["verified"] < 7
        rows = {job.attack_label: measure(job, model, images, labels, 0, config) for job in jobs_of("plain", config)}
        assert rows["clean"]["correct"] == [False] * 5 + [True] * 7
        assert rows["sign"]["linf"] == pytest.approx([0.2] * 12, abs=1e-6)
        assert rows["pgd"]["linf"][:5] == [0.0] * 5
        assert rows["pgd"]["correct"][:5] == [False] * 5
        assert min(rows["pgd"]["linf"][5:]) > 0
        noisy = rows["sign"]["correct"]
        assert noise["accuracy"]["count"] == sum(noisy)
        assert noise["verified"] == sum(not right for right in noisy[5:])

    def test_nothing_right_gives_no_success_rate(self, images):
        config = tiny(noises=[{"name": "sign"}], attacks=[{"name": "fgsm"}], rules=[{"name": "bptr"}], eps=[0.0])
        model = Scripted()
        labels = (model.reference(images).argmax(1) + 1) % 4
        entry, _ = report(model, images, labels, config)
        assert entry["clean"]["count"] == 0
        assert [attack["success"] for attack in entry["attacks"]] == [None, None]
        assert entry["gap"][0]["gap"]["value"] == 0


class TestBrokenModels:
    def test_nan_logits_are_an_error_and_no_success(self, images):
        model = Scripted()
        with torch.no_grad():
            list(model.parameters())[-1].fill_(float("nan"))
        with pytest.raises(RobustSNNError, match=r"NaN or infinite logits for 12 of 12"):
            measure(Job("plain"), model, images, torch.zeros(12, dtype=torch.long), 0, tiny())


class TestWarnings:
    @staticmethod
    def entry(attack: str, count: int, title: str = "", rule: str = "BPTT") -> dict[str, Any]:
        accuracy = {"count": count, "n": 100}
        return {
            "attack": attack,
            "title": title or attack,
            "family": "adversarial",
            "rule": rule,
            "eps": 0.1,
            "accuracy": accuracy,
            "claimed": 100 - count,
            "verified": 100 - count,
            "illegal": 0,
            "bad_gradients": 0,
            "zero_gradients": 0,
            "backwards": 10.0,
        }

    def model(self, *entries: dict[str, Any], gap: Sequence[Any] = ()) -> list[dict[str, Any]]:
        return [{"title": "M", "attacks": list(entries), "gap": list(gap)}]

    def test_an_iterated_attack_weaker_than_one_step(self):
        entries = [self.entry("fgsm", 50), self.entry("pgd", 52, "PGD-10"), self.entry("pgd", 40, "PGD-50")]
        (warning,) = warnings_of(self.model(*entries), tiny())
        assert "PGD-10 is weaker than one step at eps 0.1 through BPTT (52 against 50 of 100" in warning

    def test_another_rule_or_an_equal_number_is_no_reason(self):
        entries = [self.entry("fgsm", 50), self.entry("pgd", 51), self.entry("pgd", 90, rule="BPTR")]
        assert warnings_of(self.model(*entries), tiny()) == []

    def test_noise_that_beats_every_attack(self):
        gap = {"eps": 0.1, "gap": {"low": -0.3, "high": -0.01}}
        (warning,) = warnings_of(self.model(gap=[gap]), tiny())
        assert "random noise beats every attack at eps 0.1" in warning
        gap["gap"]["high"] = 0.0
        assert warnings_of(self.model(gap=[gap]), tiny()) == []

    def test_masked_gradients(self):
        study = {"rule": "BPTR", "n": 8, "all_zero": {"count": 3}}
        (warning,) = warnings_of([{"title": "M", "attacks": [], "gap": [], "gradients": [study]}], tiny())
        assert "3 of 8 images have an all-zero input gradient through BPTR" in warning

    def test_gradients_that_vanish_on_the_way(self):
        entries = [self.entry(attack, 50) for attack in ("pgd", "apgd-ce", "fgsm")]
        entries.append(self.entry("pgd", 50, rule="BPTR"))
        entries[0]["zero_gradients"] = 300
        assert warnings_of(self.model(*entries), tiny()) == []
        entries[1]["zero_gradients"] = 1
        (warning,) = warnings_of(self.model(*entries), tiny())
        assert "301 of 3000 gradients that attacks took through BPTT were all zero" in warning

    def test_a_radius_without_noise_has_no_gap_to_warn_of(self):
        assert warnings_of(self.model(gap=[{"eps": 0.1, "gap": None}]), tiny()) == []


class LinearProbability(nn.Module):
    """Two classes whose first has probability ``1/2 + w (x - 1/2)``, so ``f`` is linear in the image."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x: Tensor) -> Tensor:
        p = 0.5 + ((x - 0.5) * self.w).flatten(1).sum(1)
        return torch.stack([p.log(), (1 - p).log()], 1)


class TestGradientStudy:
    def test_a_linear_softmax_model_in_closed_form(self):
        generator = torch.Generator().manual_seed(0)
        W = torch.randn(20, 5, generator=generator, dtype=torch.float64)
        W[[3, 7, 11]] = 0  # pixels that do not matter
        x = torch.rand(9, 1, 4, 5, generator=generator, dtype=torch.float64)
        y = torch.arange(9) % 5
        model = nn.Sequential(nn.Flatten(), nn.Linear(20, 5, bias=False)).double()
        with torch.no_grad():
            model[1].weight.copy_(W.T)
        study = study_gradients(model, x, y, [0.01, 0.1], draws=3)

        weights, flat, labels = W.numpy(), x.numpy().reshape(9, 20), y.numpy()

        def softmax(z: np.ndarray) -> np.ndarray:
            e = np.exp(z)
            return e / e.sum(1, keepdims=True)

        p = softmax(flat @ weights)
        f = p[range(9), labels]
        g = f[:, None] * (weights.T[labels] - p @ weights.T)
        assert study["probability"] == pytest.approx(f.tolist())
        assert study["l1"] == pytest.approx(np.abs(g).sum(1).tolist())
        assert study["l2"] == pytest.approx(np.sqrt((g**2).sum(1)).tolist())
        assert study["nonzero"] == [17.0] * 9
        assert study["entries"] == [20.0] * 9
        for i, eps in enumerate((0.01, 0.1)):
            moved = softmax((flat + eps * np.sign(g)) @ weights)[range(9), labels]
            assert study[f"adversarial_{i}"] == pytest.approx(((moved - f) ** 2).tolist())
        logits = flat @ weights
        logits[range(9), labels] = -np.inf
        margin = weights.T[labels] - weights.T[logits.argmax(1)]
        assert study["margin_l1"] == pytest.approx(np.abs(margin).sum(1).tolist())
        assert set(study) == {"probability", "l1", "l2", "nonzero", "entries", "margin_l1"} | {
            f"{kind}_{i}" for kind in ("adversarial", "random") for i in range(2)
        }

    @staticmethod
    def ratio(w: Tensor, eps: float, draws: int = 1500) -> tuple[float, dict[str, list[float]]]:
        x = 0.5 + 0.1 * torch.rand(3, *w.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        study = study_gradients(LinearProbability(w), x, torch.tensor([0, 1, 0]), [eps], draws, seed=5)
        return float(np.sum(study["adversarial_0"]) / np.sum(study["random_0"])), study

    @pytest.mark.parametrize("eps", [0.001, 0.2])
    def test_the_ratio_of_a_linear_function(self, eps):
        w = 0.05 * torch.randn(1, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        l1, l2 = w.abs().sum().item(), w.pow(2).sum().sqrt().item()
        ratio, study = self.ratio(w, eps)
        assert ratio == pytest.approx(3 * l1**2 / l2**2, rel=0.04)
        assert study["adversarial_0"] == pytest.approx([(eps * l1) ** 2] * 3)
        assert np.mean(study["random_0"]) == pytest.approx((eps * l2) ** 2 / 3, rel=0.04)
        assert study["l1"] == pytest.approx([l1] * 3)

    @pytest.mark.parametrize("k", [1, 2, 9])
    def test_k_equal_entries_give_three_k(self, k):
        w = torch.zeros(9, dtype=torch.float64)
        w[:k] = 0.1 * (-1) ** torch.arange(k)
        ratio, study = self.ratio(w.view(1, 3, 3), 0.01)
        assert ratio == pytest.approx(3 * k, rel=0.04)
        assert study["nonzero"] == [k] * 3

    def test_draws_are_uniform_in_the_cube_and_not_clipped(self):
        """Seen by a model that shows its input: at the border of [0, 1] too."""
        seen: list[Tensor] = []

        class Watching(LinearProbability):
            def forward(self, x: Tensor) -> Tensor:
                seen.append(x.detach().clone())
                return super().forward(x)

        x = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64).view(1, 1, 1, 3).expand(4, 1, 1, 3).contiguous()
        model = Watching(torch.tensor([0.1, 0.1, 0.1], dtype=torch.float64).view(1, 1, 3))
        study_gradients(model, x, torch.zeros(4, dtype=torch.long), [0.2], 400)
        moves = (torch.stack(seen[2:]) - x)[:, 0].flatten(0, 1).flatten(0, 1)
        assert moves.shape == (400, 3)
        assert moves.abs().max() <= 0.2
        assert moves.abs().max() > 0.19
        assert moves.mean(0).tolist() == pytest.approx([0.0] * 3, abs=0.02)
        assert moves.pow(2).mean(0).tolist() == pytest.approx([0.04 / 3] * 3, rel=0.15)

    def test_images_do_not_depend_on_batch_mates(self):
        w = torch.full((1, 3, 3), 0.03, dtype=torch.float64)
        x = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        y = torch.tensor([0, 1, 1, 0])
        together = study_gradients(LinearProbability(w), x, y, [0.1], 3, seed=1)
        for i in range(4):
            alone = study_gradients(LinearProbability(w), x[i : i + 1], y[i : i + 1], [0.1], 3, seed=1)
            assert {key: values[i : i + 1] for key, values in together.items()} == {
                key: pytest.approx(values) for key, values in alone.items()
            }
        other = study_gradients(LinearProbability(w), x, y, [0.1], 3, seed=2)
        assert other["adversarial_0"] == together["adversarial_0"]
        assert other["random_0"] != together["random_0"]

    def test_a_constant_function_has_no_gradient_and_no_change(self):
        w = torch.zeros(1, 3, 3, dtype=torch.float64)
        _, study = self.ratio_of_nothing(w)
        assert (
            study["l1"] == study["l2"] == study["nonzero"] == study["adversarial_0"] == study["random_0"] == [0.0] * 3
        )

    @staticmethod
    def ratio_of_nothing(w: Tensor) -> tuple[None, dict[str, list[float]]]:
        x = torch.rand(3, *w.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        return None, study_gradients(LinearProbability(w), x, torch.zeros(3, dtype=torch.long), [0.1], 2)

    def test_a_stochastic_encoder_draws_the_same_for_every_f(self, images):
        model = Scripted(encoder="poisson")
        labels = torch.arange(12) % 4
        study = study_gradients(model, images, labels, [0.0, 1e-4, 0.3], 4)
        assert study["adversarial_0"] == study["random_0"] == [0.0] * 12
        assert sum(study["adversarial_1"]) < 0.01 * sum(study["adversarial_2"])
        assert study_gradients(model, images, labels, [0.0, 1e-4, 0.3], 4) == study
        assert (
            study_gradients(model, images, labels, [0.0, 1e-4, 0.3], 4, seed=1)["probability"] != study["probability"]
        )

    def test_a_model_without_gradient_is_an_error(self, images):
        with pytest.raises(RobustSNNError, match="no gradient reaches the images"):
            study_gradients(lambda x: torch.zeros(len(x), 4), images, torch.zeros(12, dtype=torch.long), [0.1])

    def test_the_view_gives_the_direction_and_the_network_the_change(self, images):
        """A rule of doubled gradients: norms double, directions and changes of f stay."""

        class Doubled:
            def logits(self, model: SpikingClassifier, x: Tensor) -> Tensor:
                z = model(x)
                return z + (z - z.detach())

        model = Scripted()
        labels = torch.arange(12) % 4
        plain = study_gradients(model, images, labels, [0.1], 2)
        doubled = study_gradients(model.through(Doubled()), images, labels, [0.1], 2)
        assert max(plain["l1"]) > 0
        assert doubled["l1"] == pytest.approx([2 * value for value in plain["l1"]], rel=1e-4)
        assert doubled["random_0"] == plain["random_0"]
        assert doubled["adversarial_0"] == pytest.approx(plain["adversarial_0"], rel=1e-4)
