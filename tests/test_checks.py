"""Checks of an evaluation against rows written by hand: every verdict for a reason that can be counted."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustsnn.errors import RobustSNNError
from robustsnn.evaluation.checks import Check, checks_from_rows, overall, section, summary, weakest
from robustsnn.evaluation.checks.check import shown
from robustsnn.evaluation.checks.kinds import kind_of
from robustsnn.evaluation.checks.outcomes import outcomes_of
from robustsnn.evaluation.checks.rows import telling_eps
from robustsnn.evaluation.checks.verdict import ESSENTIAL
from robustsnn.evaluation.comparisons import comparisons, holm
from robustsnn.evaluation.statistics import mcnemar_exact, paired_difference

N = 200
NAMES = {"PGD-10": "pgd", "FGSM": "fgsm", "noise": "uniform", "Square": "square"}
Measurement = tuple[str, str, float, set[int]]


def rows_of(*measurements: Measurement, n=N, wrong=(), unconfirmed=(), illegal=()):
    """Rows in which each measurement (attack, rule, eps) fools a set of images; ``wrong`` ones were never right."""
    columns = {name: [] for name in ("image", "attack", "rule", "eps", "correct", "claimed", "legal")}
    for attack, rule, eps, fooled in (("clean", "", 0.0, set()), *measurements):
        for image in range(n):
            columns["image"].append(1000 + image)
            columns["attack"].append(attack)
            columns["rule"].append(rule)
            columns["eps"].append(eps)
            columns["correct"].append(image not in fooled and image not in wrong)
            columns["claimed"].append(image in fooled or image in wrong or (attack != "clean" and image in unconfirmed))
            columns["legal"].append(attack == "clean" or image not in illegal)
    return {name: np.array(values) for name, values in columns.items()}


def check(rows, name, names=NAMES) -> Check:
    (found,) = [c for c in checks_from_rows(rows, names) if c.name == name]
    return found


def first(k: int) -> set[int]:
    return set(range(k))


class TestOneStep:
    def rows(self, once, often):
        return rows_of(("FGSM", "A", 0.1, once), ("PGD-10", "A", 0.1, often))

    @pytest.mark.parametrize(
        ("extra", "verdict"), [(0, "pass"), (2, "pass"), (3, "warn"), (10, "warn"), (11, "fail"), (40, "fail")]
    )
    def test_images_that_only_one_step_fools(self, extra, verdict):
        found = check(self.rows(set(range(100, 100 + extra)), first(80)), "one-step")
        assert found.verdict == verdict
        assert found.numbers["missed"] == extra
        assert found.images == tuple(range(1100, 1100 + min(extra, 20)))
        assert f"{extra} of 200 images" in found.evidence
        assert bool(found.advice) == (verdict != "pass")

    def test_another_rule_does_not_help(self):
        rows = rows_of(("FGSM", "A", 0.1, first(50)), ("PGD-10", "A", 0.1, first(20)), ("PGD-10", "B", 0.1, first(90)))
        assert check(rows, "one-step").verdict == "fail"
        assert check(rows, "one-step").numbers["rule"] == "A"

    def test_significantly_weaker_fails_below_the_share_too(self):
        found = check(self.rows(first(28), first(20)), "one-step")
        assert mcnemar_exact(np.arange(N) < 28, np.arange(N) < 20) < 0.05
        assert found.numbers["missed"] == 8 <= 0.05 * N
        assert found.verdict == "fail"

    def test_several_iterative_attacks_count_together(self):
        rows = rows_of(
            ("FGSM", "A", 0.1, first(30)), ("PGD-10", "A", 0.1, first(15)), ("other", "A", 0.1, set(range(15, 30)))
        )
        assert check(rows, "one-step").verdict == "pass"

    @pytest.mark.parametrize("other", [("PGD-10", "B", 0.1, first(3)), ("PGD-10", "A", 0.2, first(3))])
    def test_nothing_to_compare(self, other):
        found = check(rows_of(("FGSM", "A", 0.1, first(3)), other), "one-step")
        assert found.verdict == "not run"
        assert "--attack" in found.advice


class TestWithoutGradients:
    @pytest.mark.parametrize(("attack", "name"), [("Square", "black-box"), ("noise", "noise")])
    @pytest.mark.parametrize(("extra", "verdict"), [(0, "pass"), (2, "pass"), (5, "warn"), (11, "fail")])
    def test_finds_that_gradients_miss(self, attack, name, extra, verdict):
        rows = rows_of((attack, "", 0.1, set(range(50, 50 + extra))), ("PGD-10", "A", 0.1, first(50)))
        found = check(rows, name)
        assert (found.verdict, found.numbers["missed"]) == (verdict, extra)

    def test_any_gradient_attack_at_that_radius_counts(self):
        rows = rows_of(
            ("Square", "", 0.1, first(30)),
            ("PGD-10", "A", 0.1, first(10)),
            ("FGSM", "B", 0.1, set(range(10, 30))),
            ("PGD-10", "A", 0.2, first(60)),
        )
        assert check(rows, "black-box").verdict == "pass"

    def test_not_run(self):
        rows = rows_of(("PGD-10", "A", 0.1, first(10)))
        assert check(rows, "black-box").verdict == check(rows, "noise").verdict == "not run"
        assert "--attack square" in check(rows, "black-box").advice

    @pytest.mark.parametrize(("last", "verdict"), [(0, "pass"), (2, "pass"), (5, "warn"), (20, "fail")])
    def test_the_last_member_of_an_ensemble(self, last, verdict):
        rows = rows_of(("ensemble-standard", "", 0.1, first(100)))
        by = ["SQUARE-1000" if image < 1000 + last else "APGD-10 through RGA" for image in rows["image"]]
        rows["by"] = np.where(rows["correct"], "", by)
        found = check(rows, "black-box")
        assert (found.verdict, found.numbers["missed"], found.numbers["gradients"]) == (verdict, last, 100 - last)

    def test_an_ensemble_of_gradients_alone(self):
        rows = rows_of(("ensemble-quick", "", 0.1, first(100)))
        rows["by"] = np.where(rows["correct"], "", "APGD-10 through RGA")
        assert check(rows, "black-box").verdict == "not run"

    def test_noise_is_no_black_box_attack(self):
        rows = rows_of(("noise", "", 0.1, first(90)), ("PGD-10", "A", 0.1, first(10)))
        assert check(rows, "black-box").verdict == "not run"
        assert check(rows, "noise").verdict == "fail"


class TestMonotone:
    @pytest.mark.parametrize(("back", "verdict"), [(0, "pass"), (2, "pass"), (4, "warn"), (15, "fail")])
    def test_images_that_recover(self, back, verdict):
        rows = rows_of(("PGD-10", "A", 0.1, first(40)), ("PGD-10", "A", 0.2, set(range(back, 120))))
        found = check(rows, "monotone")
        assert (found.verdict, found.numbers["recovered"]) == (verdict, back)
        assert found.numbers["drops"] == 0

    def test_one_radius(self):
        assert check(rows_of(("PGD-10", "A", 0.1, first(4))), "monotone").verdict == "not run"

    @settings(deadline=None, max_examples=30)
    @given(st.lists(st.sets(st.integers(0, 39)), min_size=2, max_size=4))
    def test_nested_sets_pass(self, sets):
        grown: set[int] = set()
        measurements = []
        for k, more in enumerate(sets):
            grown = grown | more
            measurements.append(("PGD-10", "A", 0.1 * (k + 1), grown))
        found = check(rows_of(*measurements, n=40), "monotone")
        assert (found.verdict, found.numbers["recovered"], found.numbers["drops"]) == ("pass", 0, 0)


class TestRules:
    def test_hanging_on_one_rule(self):
        rows = rows_of(("PGD-10", "A", 0.1, first(120)), ("PGD-10", "B", 0.1, first(60)))
        found = check(rows, "rules")
        assert found.verdict == "warn"
        assert (found.numbers["strongest"], found.numbers["weakest"]) == ("A", "B")
        assert found.numbers["accuracy"] == {"A": 0.4, "B": 0.7}
        a, b = np.arange(N) >= 120, np.arange(N) >= 60
        assert found.numbers["p_value"] == mcnemar_exact(a, b)
        assert found.numbers["spread"] == paired_difference(b, a).as_dict()
        assert found.images == tuple(range(1060, 1080))

    def test_a_poor_rule_beside_two_good_ones_is_no_matter(self):
        rows = rows_of(
            ("PGD-10", "A", 0.1, first(120)), ("PGD-10", "B", 0.1, first(118)), ("PGD-10", "C", 0.1, first(10))
        )
        found = check(rows, "rules")
        assert found.verdict == "pass"
        assert "40.0 % (A) to 95.0 % (C)" in found.evidence

    def test_one_rule(self):
        assert check(rows_of(("PGD-10", "A", 0.1, first(10))), "rules").verdict == "not run"


class TestVerified:
    @pytest.mark.parametrize(("lost", "verdict"), [(0, "pass"), (2, "pass"), (3, "warn"), (30, "fail")])
    def test_claims_that_do_not_hold(self, lost, verdict):
        rows = rows_of(("PGD-10", "A", 0.1, first(40)), unconfirmed=set(range(100, 100 + lost)))
        found = check(rows, "verified")
        assert (found.verdict, found.numbers["lost_most"]) == (verdict, lost)
        assert (found.numbers["claimed"], found.numbers["confirmed"]) == (40 + lost, 40)

    def test_images_that_were_never_right_claim_nothing(self):
        rows = rows_of(("PGD-10", "A", 0.1, first(40)), wrong=set(range(150, 200)))
        assert check(rows, "verified").numbers["claimed"] == 40

    def test_examples_outside_the_ball(self):
        found = check(rows_of(("PGD-10", "A", 0.1, first(40)), illegal={3}), "verified")
        assert (found.verdict, found.numbers["illegal"]) == ("warn", 1)


class TestWorstCase:
    def test_figures(self):
        rows = rows_of(("PGD-10", "A", 0.1, first(40)), ("PGD-10", "B", 0.1, set(range(20, 70))), wrong={199})
        found = check(rows, "worst-case")
        assert found.verdict == "pass"
        assert (found.numbers["worst_case"], found.numbers["strongest_single"]) == (129 / 200, 149 / 200)

    def test_missing_images_and_missing_radii(self):
        rows = rows_of(("PGD-10", "A", 0.1, first(40)), ("PGD-10", "B", 0.1, first(40)), ("PGD-10", "A", 0.2, first(9)))
        found = check(rows, "worst-case")
        assert found.verdict == "warn"
        assert "not every attack was run at eps 51/255" in found.evidence
        keep = ~((rows["rule"] == "B") & (rows["image"] > 1100))
        found = check({name: values[keep] for name, values in rows.items()}, "worst-case")
        assert "PGD-10 through B at eps 0.1 (101 of 200 images)" in found.evidence


def test_the_telling_radius_is_nearest_to_half():
    rows = rows_of(*[("PGD-10", "A", eps, first(k)) for eps, k in ((0.1, 10), (0.2, 90), (0.3, 160))])
    assert telling_eps(outcomes_of(rows, NAMES)) == 0.2
    assert telling_eps(outcomes_of(rows_of(("noise", "", 0.1, first(3))), NAMES)) is None


def test_the_order_of_rows_does_not_matter():
    rows = rows_of(("FGSM", "A", 0.1, first(33)), ("PGD-10", "A", 0.1, first(20)), ("PGD-10", "B", 0.2, {5, 190}))
    order = np.random.default_rng(0).permutation(len(rows["image"]))
    assert checks_from_rows({k: v[order] for k, v in rows.items()}, NAMES) == checks_from_rows(rows, NAMES)


def test_rows_that_cannot_be_checked():
    rows = rows_of(("PGD-10", "A", 0.1, first(3)))
    with pytest.raises(RobustSNNError, match="lack the column 'legal'"):
        checks_from_rows({k: v for k, v in rows.items() if k != "legal"})
    attacked = rows["attack"] != "clean"
    with pytest.raises(RobustSNNError, match="without an attack"):
        checks_from_rows({k: v[attacked] for k, v in rows.items()})


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("uniform", "noise"), ("FGSM", "one-step"), ("rfgsm", "one-step"), ("pgd", "iterative"), ("apgd-ce", "iterative"),
        ("square", "black-box"), ("transfer", "black-box"), ("somebody's own", "iterative"),
        ("random-search", "black-box"), ("torchattacks:FGSM", "one-step"), ("torchattacks:Square", "black-box"),
        ("ensemble-full", "iterative"), ("torchattacks:GN", "noise"), ("foolbox:LinfAdditiveUniformNoiseAttack", "noise"),
        ("foolbox:L2FastGradientAttack", "one-step"), ("art:FastGradientMethod", "one-step"), ("torchattacks:FFGSM", "one-step"),
        ("art:HopSkipJump", "black-box"), ("torchattacks:SPSA", "black-box"), ("art:ProjectedGradientDescent", "iterative"),
    ],
)  # fmt: skip
def test_kinds(name, kind):
    assert kind_of(name) == kind


def made(verdict="pass", name="noise", **fields):
    return Check(name, f"Title of {name}", verdict, f"Evidence of {name}.", **fields)


def sound() -> list[Check]:
    return [made(name=name) for name in (*ESSENTIAL, "one-step")]


class TestVerdict:
    def test_overall(self):
        assert overall(sound()) == "sound"
        assert overall([*sound(), made("warn")]) == "doubtful"
        assert overall([*sound(), made("warn"), made("fail")]) == "unreliable"
        assert overall([*sound(), made("not run", "black-box")]) == "sound"

    @pytest.mark.parametrize("name", ESSENTIAL)
    def test_nothing_is_sound_without_the_essential_checks(self, name):
        without = [c for c in sound() if c.name != name]
        assert overall(without) == overall([*without, made("not run", name)]) == "doubtful"
        assert name in weakest(without)
        assert f"Title of {name}" in weakest([*without, made("not run", name)])

    def test_weakest_is_the_gravest(self):
        checks = [*sound(), made("warn", "verified"), made("fail", "budget", advice="Do this."), made("fail", "loss")]
        assert weakest(checks) == "“Title of budget” does not hold: Evidence of budget. Do this."
        assert weakest(list(reversed(checks))) == weakest(checks)
        assert weakest([*sound(), made("warn", "somebody's")]).startswith("“Title of somebody's” is in doubt")

    def test_weakest_of_a_sound_evaluation_says_what_to_add(self):
        assert weakest(sound()) == "No check found a weak point."
        added = weakest([*sound(), made("not run", "black-box", advice="Add `--attack square`.")])
        assert added.endswith("Add `--attack square`.")

    def test_section_is_plain_data(self):
        rows = rows_of(("FGSM", "A", 0.1, first(33)), ("PGD-10", "A", 0.1, first(20)), ("PGD-10", "B", 0.1, first(90)))
        found = section(checks_from_rows(rows, NAMES))
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        assert found["verdict"] == "unreliable"
        assert sum(found["counts"].values()) == len(found["checks"]) == 7
        assert found["counts"] == summary(checks_from_rows(rows, NAMES))
        assert found["checks"][0]["images"] == list(range(1020, 1033))


def test_radii_read_as_people_write_them():
    assert [shown(eps) for eps in (8 / 255, 0.03, 1.0, 0.5, 0.0, 32 / 255)] == [
        "8/255",
        "0.03",
        "1",
        "0.5",
        "0",
        "32/255",
    ]


class TestComparisons:
    rows: ClassVar[dict[str, Any]] = {
        "a": rows_of(
            ("PGD-10", "A", 0.1, first(40)), ("FGSM", "A", 0.1, first(10)), ("noise", "", 0.1, first(150)), wrong={199}
        ),
        "b": rows_of(("PGD-10", "A", 0.1, set(range(30, 100))), ("PGD-10", "B", 0.1, set(range(90, 120)))),
        "other images": rows_of(("PGD-10", "A", 0.1, first(4)), n=50),
    }

    def of(self, what):
        return [entry for entry in comparisons(self.rows, [0.1], NAMES) if entry["what"] == what]

    def test_models_in_the_worst_case(self):
        (entry,) = self.of("worst case")
        index = np.arange(N)
        a, b = (index >= 40) & (index < 199), (index < 30) | (index >= 120)
        assert (entry["a"], entry["b"], entry["model"], entry["eps"]) == ("a", "b", None, 0.1)
        assert entry["difference"] == paired_difference(a, b).as_dict()
        assert entry["p_value"] == entry["p_holm"] == mcnemar_exact(a, b)
        assert (entry["accuracy_a"], entry["accuracy_b"]) == (159 / 200, 110 / 200)

    def test_attacks_and_rules_of_one_model(self):
        attacks = self.of("attacks")
        assert [(e["model"], e["a"], e["b"], e["accuracy_a"], e["accuracy_b"]) for e in attacks] == [
            ("a", "PGD-10", "FGSM", 159 / 200, 189 / 200)
        ]
        (rules,) = self.of("rules")
        assert (rules["model"], rules["a"], rules["b"]) == ("b", "A", "B")
        assert (rules["difference"]["n10"], rules["difference"]["n01"]) == (20, 60)

    def test_nothing_at_a_radius_that_was_not_measured(self):
        assert comparisons(self.rows, [0.2], NAMES) == []
        assert comparisons({}, [0.1]) == []

    def test_holm(self):
        assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
        assert holm([0.9, 0.8]) == [1.0, 1.0]
        assert holm([]) == []
        with pytest.raises(RobustSNNError, match="lie in"):
            holm([1.2])
