"""The report: what it says against the numbers it is given, and what it survives."""

from __future__ import annotations

import copy
import io
import json
import os
import re
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from rich.console import Console
from sample_results import EPSILONS, fake_examples, fake_hostile, fake_partial, fake_results, write_run

from robustsnn.errors import RobustSNNError
from robustsnn.evaluation.statistics import rate
from robustsnn.report import plots
from robustsnn.report.finding import finding
from robustsnn.report.formatting import (
    decimals_for,
    format_eps,
    format_interval,
    format_number,
    format_percent,
    format_seconds,
    format_significant,
    format_time,
    plain,
    shorten,
)
from robustsnn.report.html import attack_settings, attack_tables, code, member_tables, render, write_report
from robustsnn.report.loading import checked, load_examples, load_results
from robustsnn.report.plots import example_names, figures, save_plots
from robustsnn.report.selection import (
    headline_budgets,
    is_kind,
    main_blocks,
    main_columns,
    other_attacks,
    telling_budget,
)
from robustsnn.report.style import inline_svg, looks, styled
from robustsnn.report.tables import print_summary
from robustsnn.report.trust import trusts


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return fake_results()


@pytest.fixture(scope="module")
def page(results) -> str:
    return render(results, fake_examples())


SIGN = {"sound": "✓", "doubtful": "!", "unreliable": "✗"}


def title(model: dict[str, Any]) -> str:
    return str(model["title"])


def empty() -> dict[str, Any]:
    return {"schema_version": 1, "tool": {"name": "robustsnn", "version": "0.1.0"}}


def words(results: dict[str, Any]) -> str:
    return " ".join(finding(results)).replace("\u00a0", " ").replace("\u202f", " ")


class TestFormatting:
    @given(st.integers(1, 254))
    def test_multiples_of_a_grey_level(self, k):
        assert format_eps(k / 255) == f"{k}/255"
        assert format_eps(float(np.float32(k / 255))) == f"{k}/255"
        assert format_eps(k / 255 + 0.1 / 255) != f"{k}/255"

    @pytest.mark.parametrize(
        ("eps", "text"), [(0, "0"), (0.01, "0.01"), (0.5, "0.5"), (1.0, "1"), (3.0, "3"), (0.031, "0.031")]
    )
    def test_other_budgets(self, eps, text):
        assert format_eps(eps) == text

    def test_numbers(self):
        assert format_percent(0.95) == "95.0"
        assert format_percent(1) == "100.0"
        assert format_number(-0.04) == "0.0"
        assert format_number(-0.06) == "−0.1"
        assert format_number(1234567, 0) == "1\u202f234\u202f567"
        for missing in (None, float("nan"), float("inf"), "12", True):
            assert format_percent(missing) == "–"
        assert format_interval({"low": -0.013, "high": 0.25}) == "[−1.3, 25.0]"
        assert format_interval(None) == format_interval({"low": None, "high": 1}) == ""
        assert [format_significant(x) for x in (0, 0.012345, 12.345, 1234.5, 1.5e-7)] == [
            "0", "0.0123", "12.3", "1\u202f234", "1.50e−07",
        ]  # fmt: skip
        assert [decimals_for(x) for x in ([13.4, 0.944], [250.0], [], [0, None])] == [3, 0, 0, 0]

    def test_times(self):
        assert [format_seconds(x) for x in (0.04, 5, 461.3, 7500, None)] == [
            "0.04 s",
            "5.0 s",
            "7 min 41 s",
            "2 h 5 min",
            "–",
        ]
        assert format_time("2025-11-21T08:00:00+00:00") == "2025-11-21 08:00 UTC"
        assert format_time("yesterday") == "yesterday"

    @given(st.text())
    def test_plain_text_is_one_clean_line(self, text):
        line = plain(text)
        assert plain(line) == line
        assert all(c.isprintable() or c in "\u00a0\u202f" for c in line)
        line.encode("utf-8")
        assert len(shorten(text, 10)) <= 10

    def test_escape_codes_are_removed(self):
        assert plain("a\x1b[31mb\n\tc\ud800") == "a [31mb c"


class TestLoading:
    def test_round_trip(self, results, tmp_path):
        folder = write_run(tmp_path, results, fake_examples(["plain"], 2))
        loaded = load_results(folder)
        assert loaded["models"][0]["gap"] == results["models"][0]["gap"]
        examples = load_examples(folder)
        assert examples is not None
        assert examples["plain/clean"].shape == (2, 1, 8, 8)

    def test_missing(self, tmp_path):
        with pytest.raises(RobustSNNError, match="no folder"):
            load_results(tmp_path / "nowhere")
        with pytest.raises(RobustSNNError, match=r"no results\.json.*run the benchmark"):
            load_results(tmp_path)
        assert load_examples(tmp_path) is None

    @pytest.mark.parametrize("content", [b"", b'{"schema_version": 1', b"\xff\xfe\x00", b"[" * 100_000])
    def test_corrupt(self, tmp_path, content):
        (tmp_path / "results.json").write_bytes(content)
        with pytest.raises(RobustSNNError, match="corrupt"):
            load_results(tmp_path)

    @pytest.mark.parametrize(
        "content", [[], "text", None, {}, {"schema_version": 1}, {"schema_version": 1, "tool": {"name": "pytest"}}]
    )
    def test_foreign(self, tmp_path, content):
        (tmp_path / "results.json").write_text(json.dumps(content))
        with pytest.raises(RobustSNNError, match="not written by robustsnn"):
            load_results(tmp_path)

    @pytest.mark.parametrize(
        ("version", "message"),
        [
            (2, "upgrade"),
            (99, "upgrade"),
            (0, "whole number"),
            ("1", "whole number"),
            (True, "whole number"),
            (None, "whole number"),
        ],
    )
    def test_schema_versions(self, version, message):
        with pytest.raises(RobustSNNError, match=message):
            checked(empty() | {"schema_version": version})

    @pytest.mark.parametrize(
        ("path", "value", "place"),
        [
            (("models",), {}, r"models must be a list"),
            (("models", 0), 3, r"models\[0\] must be an object"),
            (("models", 0, "name"), None, r"models\[0\]\.name must be a name"),
            (("models", 1, "name"), "plain", "same name"),
            (("models", 0, "clean"), 0.97, r"models\[0\]\.clean must be an object"),
            (("models", 0, "clean", "low"), "0.9", r"models\[0\]\.clean\.low must be a number"),
            (("models", 0, "attacks", 3, "eps"), None, r"attacks\[3\]\.eps must be a number"),
            (("models", 0, "attacks", 3, "family"), "other", r"attacks\[3\]\.family must be 'noise' or 'adversarial'"),
            (("models", 0, "attacks", 3, "rule"), ["bptt"], r"attacks\[3\]\.rule must be a name or null"),
            (("dataset", "image_shape"), 8, r"dataset\.image_shape must be a list"),
            (("models", 0, "gap", 0, "gap"), [], r"gap\[0\]\.gap must be an object"),
            (("models", 0, "gradients", 0, "l1", "median"), "x", r"gradients\[0\]\.l1\.median must be a number"),
            (("models", 0, "gradients", 0, "values", "l1"), 3, r"values\.l1 must be a list"),
            (("models", 0, "checks"), [], r"checks must be an object"),
            (("models", 0, "checks", "verdict"), "fine", r"checks\.verdict must be one of sound, doubtful, unreliable"),
            (("models", 0, "checks", "checks", 1, "verdict"), None, r"checks\[1\]\.verdict must be one of pass, warn"),
            (("models", 0, "checks", "checks", 1, "title"), "", r"checks\[1\]\.title must be a name"),
            (("models", 0, "checks", "checks", 1, "evidence"), 3, r"checks\[1\]\.evidence must be a text"),
            (("comparisons", 0, "a"), None, r"comparisons\[0\]\.a must be a name"),
            (("comparisons", 0, "difference", "low"), "x", r"comparisons\[0\]\.difference\.low must be a number"),
            (("conversions", 0, "over_time", 0, "time_steps"), None, r"over_time\[0\]\.time_steps must be a number"),
        ],
    )
    def test_malformed_parts_are_named(self, path, value, place):
        broken = fake_results(["plain", "at"], n=20)
        part: Any = broken
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value
        with pytest.raises(RobustSNNError, match=place):
            checked(broken)

    def test_nan_reads_as_missing(self, tmp_path):
        partial = fake_partial()
        partial["seconds"] = float("nan")
        assert "seconds" not in load_results(write_run(tmp_path, partial))

    def test_input_stays_as_it_was(self):
        partial = fake_partial()
        before = copy.deepcopy(partial)
        once = checked(partial)
        assert partial == before
        assert checked(once) == once

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"text"])
    def test_corrupt_examples(self, tmp_path, content):
        (tmp_path / "examples.npz").write_bytes(content)
        with pytest.raises(RobustSNNError, match="corrupt"):
            load_examples(tmp_path)

    def test_pickled_examples_are_refused(self, tmp_path):
        np.savez(tmp_path / "examples.npz", eps=np.array([{}], dtype=object))
        with pytest.raises(RobustSNNError, match="corrupt"):
            load_examples(tmp_path)


class TestSelection:
    @pytest.mark.parametrize(
        ("levels", "expected"),
        [
            ([], []),
            ([8], [8]),
            ([4, 8], [8, 4]),
            ([2, 4, 8], [8, 4]),
            ([2, 4, 8, 16], [16, 8]),
            ([1, 2, 4, 8, 16], [16, 8]),
        ],
    )
    def test_headline_budgets(self, levels, expected):
        content = empty()
        attacks = [{"attack": "fgsm", "family": "adversarial", "eps": k / 255, "norm": "Linf"} for k in levels]
        content["models"] = [{"name": "m", "attacks": attacks + attacks}]
        assert [round(eps * 255) for eps in headline_budgets(checked(content))] == expected

    def test_the_first_headline_budget_is_where_the_models_differ_most(self, results):
        content = checked(results)
        for model, worst in zip(content["models"], (0.2, 0.9, 0.5)):
            for gap in model["gap"]:
                gap["adversarial"] = gap["adversarial"] | {"value": worst if round(gap["eps"] * 255) == 4 else 0.3}
        assert [round(eps * 255) for eps in headline_budgets(content)] == [4, 16]

    def test_main_table_by_brute_force(self, results):
        blocks = main_blocks(checked(results))
        assert [round(block.eps * 255) for block in blocks] == [8, 16]
        for block in blocks:
            for row, model in zip(block.rows, results["models"]):
                at = [a for a in model["attacks"] if a["eps"] == block.eps]
                for column, names in {"FGSM": ["fgsm"], "PGD": ["pgd"], "APGD": ["apgd-ce", "apgd-dlr"]}.items():
                    lowest = min(a["accuracy"]["value"] for a in at if a["attack"] in names)
                    assert row.attacks[column]["value"] == lowest
                gap = next(g for g in model["gap"] if g["eps"] == block.eps)
                assert (row.clean, row.random, row.worst, row.gap) == (
                    model["clean"], gap["random"], gap["adversarial"], gap["gap"],
                )  # fmt: skip
                noises = {a["attack"]: a["accuracy"]["value"] for a in at if a["family"] == "noise"}
                assert row.random["value"] == min(noises.values())

    def test_kinds(self):
        kinds = {"pgd": ["pgd", "PGD-10", "pgd_50", "pgd7"], "apgd": ["apgd-ce", "APGD"], "fgsm": ["fgsm"]}
        for stem in kinds:
            for other, names in kinds.items():
                assert all(is_kind({"attack": name}, stem) is (stem == other) for name in names)
        assert not is_kind({"attack": "pgdish"}, "pgd")

    def test_only_attacks_that_were_run_have_columns(self):
        assert main_columns(checked(fake_partial())) == ["FGSM"]

    def test_all_other_attacks_share_a_column(self, results):
        """Here Square-1000: what neither FGSM, PGD nor APGD stands for is shown all the same."""
        assert main_columns(checked(results)) == ["FGSM", "PGD", "APGD", "others"]
        assert other_attacks(checked(results)) == ["Square-1000"]
        (block, _) = main_blocks(checked(results))
        for model, row in zip(results["models"], block.rows):
            (square,) = [a["accuracy"] for a in model["attacks"] if a["attack"] == "square" and a["eps"] == block.eps]
            assert row.attacks["others"] == square

    def test_the_attacks_are_compared_where_they_differ(self, results):
        assert telling_budget(checked(results)) == 8 / 255
        assert telling_budget(checked(empty())) is None


class TestFinding:
    def test_says_the_numbers(self, results):
        text = words(results)
        gap = results["models"][0]["gap"][-2]
        assert text.startswith(
            "At ε = 8/255 (ℓ∞, n = 360) the strongest random noise (Random signs) leaves Plain SNN at "
        )
        assert f"at {100 * gap['random']['value']:.1f} %, but" in text
        assert (
            f"takes it to {100 * gap['adversarial']['value']:.1f} %: a gap of {100 * gap['gap']['value']:.1f} points ["
            in text
        )
        assert "Adversarial training keeps" in text
        assert "were confirmed on the untouched model. 1 warning below" in text
        assert len(finding(results)) == 3

    def test_names_the_worst_case_unless_one_attack_reaches_it(self):
        results = fake_results(["at"])
        assert "but the worst case over all attacks takes it" in words(results)
        results["models"][0]["gap"][-1]["adversarial"] = min(
            (a["accuracy"] for a in results["models"][0]["attacks"] if a["eps"] == EPSILONS[-1]),
            key=lambda r: r["value"],
        )
        assert "but APGD-CE through bptr takes it" in words(results)

    def test_no_gap_is_not_called_one(self):
        results = fake_results(["at"])
        for entry in results["models"][0]["gap"]:
            entry["gap"] = {"value": 0.003, "low": -0.008, "high": 0.014, "n": 360}
        assert "no gap that this many images can tell from zero, 0.3 points [−0.8, 1.4]" in words(results)

    def test_overlapping_models_are_not_ranked(self):
        results = fake_results(["plain", "at"], n=30)
        for model, count in zip(results["models"], (14, 16)):
            for gap in model["gap"]:
                gap["adversarial"] = rate(count, 30).as_dict()
        results["comparisons"] = []
        assert "intervals overlap, so this run does not tell them apart" in words(results)

    @pytest.mark.parametrize("swap", [False, True])
    def test_models_are_compared_in_pairs(self, swap):
        results = fake_results(["plain", "at"], n=30)
        (entry,) = [e for e in results["comparisons"] if e["what"] == "worst case" and e["eps"] == EPSILONS[-1]]
        results["comparisons"] = [entry]
        for model, count in zip(results["models"], (14, 16)):
            for gap in model["gap"]:
                gap["adversarial"] = rate(count, 30).as_dict()
        low, high = (-0.2, 0.1) if not swap else (-0.1, 0.2)
        entry["difference"] = {"value": 2 / 30 if swap else -2 / 30, "low": low, "high": high, "n": 30}
        entry.update(p_value=0.5, **({"a": "at", "b": "plain"} if swap else {}))
        text = words(results)
        assert "(paired difference 6.7 points [−10.0, 20.0], p = 0.500), which this run does not tell apart." in text

    def test_says_what_the_checks_say(self, results):
        told = (
            "Checks call the evaluation unreliable for Adversarial training; doubtful for Sparse gradients (SR), QCFS "
        )
        assert told + "conversion; sound for Plain SNN." in words(results)
        assert "Checks call the evaluation of Plain SNN sound." in words(fake_results(["plain"]))
        assert "Checks call the evaluation of every model doubtful." in words(fake_results(["sr", "qcfs"]))

    def test_unconfirmed_successes_are_told(self, results):
        results = copy.deepcopy(results)
        results["models"][0]["attacks"][-1]["verified"] -= 1
        assert re.search(r"Only [\d ]+ of [\d ]+ claimed successes.*only confirmed ones count", words(results))

    def test_incomplete(self):
        assert words(checked(empty())) == "This run holds no attack results yet."
        assert "the strongest single attack of this run; it has no worst case yet" in words(checked(fake_partial()))

    def test_one_model_with_conversion(self):
        assert "The converted network qcfs (qcfs) reaches 95.6 % [92.9, 97.2] in 32 steps" in words(
            fake_results(["plain"])
        )


class TestTables:
    def text(self, results: dict[str, Any], width: int = 80) -> str:
        console = Console(width=width, file=io.StringIO(), force_terminal=False)
        print_summary(results, console)
        return console.file.getvalue()  # type: ignore[attr-defined]

    def test_fits_and_says_the_numbers(self, results):
        text = self.text(results)
        assert max(map(len, text.splitlines())) <= 80
        assert "Accuracy (%) at ε = 16/255, ℓ∞" in text
        plain_row = next(line for line in text.splitlines() if re.match(r"Plain SNN +\d", line))
        gap = results["models"][0]["gap"][-2]
        assert (
            f"{100 * gap['gap']['value']:.1f} [{100 * gap['gap']['low']:.1f}, {100 * gap['gap']['high']:.1f}]"
            in plain_row
        )
        assert plain_row.split()[-1] == "360"
        assert "…" not in text
        assert "T=32" in text
        assert "‖g‖₁" in text
        assert "Warning: plain: 3 images fall" in text

    def test_checks_and_comparisons(self, results):
        text = self.text(results)
        assert re.search(r"Adversarial training +✗ unreliable +1 +0 +1 +5\n", text)
        assert re.search(r"Plain SNN +✓ sound +0 +0 +1 +6\n", text)
        flat = " ".join(text.split())
        assert (
            "Adversarial training: “Other surrogates, sharpness, reset handling, rules and losses find no more” does"
            in flat
        )
        (entry,) = [e for e in results["comparisons"] if (e["a"], e["b"], e["eps"]) == ("plain", "at", 8 / 255)]
        shown = f"{100 * entry['difference']['value']:.1f}".replace("-", "−")
        assert shown in text.split("Models compared")[1]

    def test_old_results_have_neither(self):
        results = fake_results(["plain", "at"])
        del results["comparisons"]
        for model in results["models"]:
            del model["checks"]
        text = self.text(results)
        assert "trusted" not in text
        assert "compared at" not in text

    def test_markup_in_names_is_shown_not_obeyed(self):
        text = self.text(fake_hostile(), width=200)
        assert "[bold red]" in text
        assert "\x1b" not in text

    @pytest.mark.parametrize("content", [empty(), fake_partial(), empty() | {"models": [{"name": "m"}]}])
    def test_incomplete(self, content):
        assert "not complete" in self.text(content)


class TestPlots:
    def test_every_plot_at_both_widths(self, results):
        names = ["accuracy", "gap", "attacks", "gradient-norms", "energy-ratio", "conversion"]
        examples = fake_examples()
        for narrow in (False, True):
            drawn = dict(figures(results, examples, narrow))
            assert list(drawn) == [*names, "examples-plain", "examples-sr", "examples-at", "examples-qcfs"]
            assert all(isinstance(figure, Figure) for figure in drawn.values())

    def test_curves_are_the_rates(self, results):
        figure = plots.accuracy_against_eps(results)
        panels = [ax for ax in figure.axes if ax.get_title(loc="left")]
        assert [ax.get_title(loc="left") for ax in panels] == [model["title"] for model in results["models"]]
        for ax, model in zip(panels, results["models"]):
            noise, adversarial = ax.get_lines()[:2]
            for line, key in ((noise, "random"), (adversarial, "adversarial")):
                rates = [model["clean"], *(gap[key] for gap in model["gap"])]
                np.testing.assert_allclose(line.get_xdata(), [0, *EPSILONS])
                np.testing.assert_allclose(line.get_ydata(), [100 * r["value"] for r in rates])
            assert ax.get_ylim() == panels[0].get_ylim()

    def test_colours_are_the_same_in_all_plots(self, results):
        panels = [ax for ax in plots.accuracy_against_eps(results).axes if ax.get_title(loc="left")]
        first = [ax.get_lines()[0].get_color() for ax in panels]
        second = [bars.lines[0].get_color() for bars in plots.gap_against_eps(results).axes[0].containers]
        assert first == second
        assert len(set(first)) == 4
        conversion = plots.conversion_over_time(results).axes[0].get_lines()[0].get_color()
        assert conversion == first[3]

    def test_no_two_of_many_models_look_alike(self):
        content = empty() | {"models": [{"name": f"m{i}"} for i in range(20)]}
        assert len(set(looks(checked(content)).values())) == 20

    def test_gap_bars_are_the_intervals(self, results):
        axes = plots.gap_against_eps(results).axes[0]
        for container, model in zip(axes.containers, results["models"]):
            ends = np.array([segment[:, 1] for segment in container.lines[2][0].get_segments()])
            expected = [[100 * gap["gap"]["low"], 100 * gap["gap"]["high"]] for gap in model["gap"]]
            np.testing.assert_allclose(ends, expected)

    def test_heat_map_holds_each_rate_once(self, results):
        figure = plots.attack_comparison(results, eps=8 / 255)
        for ax, model in zip(figure.axes, results["models"]):
            shown = sorted(text.get_text() for text in ax.texts)
            expected = [a for a in model["attacks"] if a["eps"] == 8 / 255 and a["family"] == "adversarial"]
            assert shown == sorted(f"{100 * a['accuracy']['value']:.1f}" for a in expected)

    def test_missing_data_is_said_or_skipped(self):
        for draw in plots.PLOTS.values():
            with pytest.raises(RobustSNNError, match="hold no"):
                draw(empty())
        assert [name for name, _ in figures(fake_partial())] == ["accuracy", "attacks"]
        with pytest.raises(RobustSNNError, match="no example images"):
            plots.example_images({}, "plain")

    def test_summaries_do_where_values_are_missing(self):
        results = fake_results(["plain"], n=30)
        for gradients in results["models"][0]["gradients"]:
            gradients["values"] = {}
            gradients["ratio"][0].update(measured=12.5, predicted=14.0, upper_bound=90)
            gradients["ratio"][1]["measured"] = None
        results["models"][0]["gradients"][0]["l1"] = dict.fromkeys(results["models"][0]["gradients"][0]["l1"], 0.0)
        assert {"gradient-norms", "energy-ratio"} <= {name for name, _ in figures(results)}

    def test_gradients_that_are_all_zero(self):
        results = fake_results(["plain"], n=30)
        for gradients in results["models"][0]["gradients"]:
            zero = dict.fromkeys(gradients["l1"], 0.0)
            gradients.update(l1=zero, l2=zero, all_zero=rate(30, 30).as_dict(), values={"l1": [0.0] * 30})
            gradients["ratio"] = [{"eps": 0.01, "measured": 0.0, "predicted": zero, "upper_bound": zero}]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert {"gradient-norms", "energy-ratio"} <= {name for name, _ in figures(results)}
            render(results)

    def test_one_budget_one_image_one_class_of_attack(self):
        results = fake_results(["plain"], n=1)
        model = results["models"][0]
        model["attacks"] = [a for a in model["attacks"] if a["eps"] == EPSILONS[0] and not a["rule"]]
        model["gap"] = model["gap"][:1]
        assert {"accuracy", "gap", "attacks"} <= {name for name, _ in figures(results)}
        render(results)

    @pytest.mark.parametrize("channels", [1, 2, 3])
    def test_example_images_of_any_channels(self, channels):
        examples = {
            "m/clean": np.random.default_rng(0).random((9, channels, 5, 7)),
            "m/adversarial": np.zeros((2, channels, 5, 7)),
        }
        assert isinstance(plots.example_images(examples, "m"), Figure)

    @pytest.mark.parametrize("shape", [(3, 8, 8), (0, 1, 8, 8)])
    def test_example_images_of_wrong_shape(self, shape):
        with pytest.raises(RobustSNNError, match="example images"):
            plots.example_images({"m/clean": np.zeros(shape)}, "m")

    def test_save(self, tmp_path):
        results = fake_results(["plain"], n=40)
        written = save_plots(results, tmp_path / "plots", fake_examples(["plain"], 2))
        assert len(written) == 2 * 7
        for path in written:
            if path.suffix == ".png":
                assert path.read_bytes().startswith(b"\x89PNG")
            else:
                ElementTree.parse(path)
        again = save_plots(results, tmp_path / "again", fake_examples(["plain"], 2))
        assert [p.read_bytes() for p in written] == [p.read_bytes() for p in again]
        (tmp_path / "file").write_text("")
        with pytest.raises(RobustSNNError, match="cannot write"):
            save_plots(results, tmp_path / "file")

    def test_names_of_example_plots_are_safe_and_distinct(self):
        results = fake_results(["plain", "at"], n=10)
        results["models"][0]["name"], results["models"][1]["name"] = "../A b", "..\\a/b"
        names = example_names(results, {"../A b/clean": np.zeros(1), "..\\a/b/clean": np.zeros(1)})
        assert list(names.values()) == ["examples-a-b", "examples-a-b-2"]

    def test_settings_of_the_caller_are_left_alone(self):
        with matplotlib.rc_context({"font.size": 31, "lines.linewidth": 7}):
            before = dict(matplotlib.rcParams)
            plots.gap_against_eps(fake_results(["plain"], n=10))
            assert dict(matplotlib.rcParams) == before

    def test_inline_svg_stands_alone(self):
        with styled():
            figure = plots.gap_against_eps(fake_results(["plain"], n=10))
        text = inline_svg(figure, "gap-wide", 'A "label" & more')
        root = ElementTree.fromstring(text)
        assert root.get("aria-label") == 'A "label" & more'
        assert "http" not in text
        assert "var(--series-0)" in text
        ids = set(re.findall(r'\bid="([^"]*)"', text))
        assert ids
        assert all(name.startswith("gap-wide-") for name in ids)
        assert set(re.findall(r'(?:href="#|url\(#)([^")]*)', text)) <= ids


class Page(HTMLParser):
    """Collects what a page holds and checks that its tags are closed in order."""

    VOID = ("meta", "br", "link", "img", "input", "hr")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


class TestPage:
    def test_is_one_well_formed_file_that_loads_nothing(self, page):
        parsed = Page(page)
        assert not parsed.tags & {"script", "link", "iframe", "object", "embed", "img", "base", "form"}
        for tag, key, value in parsed.attributes:
            assert not key.startswith("on"), (tag, key)
            if key in ("src", "href", "xlink:href", "srcset", "data", "action"):
                assert value is not None
                assert value.startswith(("#", "data:image/png;base64,")), (tag, key)
        assert all(target.startswith("#") for target in re.findall(r"url\(\s*['\"]?([^)]*)", page))
        assert "@import" not in page
        assert "http" not in page
        ids = [value for _, key, value in parsed.attributes if key == "id"]
        assert len(ids) == len(set(ids))
        assert {value[1:] for _, key, value in parsed.attributes if key == "href" and value.startswith("#")} <= set(ids)

    def test_says_the_numbers(self, page, results):
        text = Page(page).text
        for sentence in finding(results):
            assert " ".join(sentence.split()) in text
        for model in results["models"]:
            for attack in model["attacks"]:
                accuracy = attack["accuracy"]
                shown = f"{100 * accuracy['value']:.1f} [{100 * accuracy['low']:.1f}, {100 * accuracy['high']:.1f}]"
                assert shown in text
        assert results["warnings"][0] in text
        assert text.index("1 warning: read this before the figures") < text.index("Accuracy in percent")
        for word in (
            "Wilson",
            "Bonett and Price",
            "3‖g‖₁² / ‖g‖₂²",
            "seed 0",
            "spikingjelly 2.0.0",
            "models.plain.objective",
            "29 273 were confirmed",
        ):
            assert word in text.replace("\u202f", " "), word

    def test_checks(self, results, page):
        text = Page(page).text
        assert "Can these numbers be trusted?" in text
        for model in results["models"]:
            assert f"{title(model)} {SIGN[model['checks']['verdict']]} {model['checks']['verdict']}" in text
            assert model["checks"]["weakest"].split("`")[0] in text
            for check in model["checks"]["checks"]:
                assert check["evidence"].split("`")[0] in text
        assert "Images: 3, 6, 9" in text
        assert "All checks: 1 failed, 1 not run, 5 passed" in text
        assert "<code>--attack square</code>" in page
        assert page.count('class="sign fail"') == 1
        assert page.count('class="sign warn"') == 2

    def test_several_open_points_are_shown_gravest_first(self):
        results = fake_results(["at"], n=30)
        for check in results["models"][0]["checks"]["checks"][:2]:
            check["verdict"] = "warn"
        (trust,) = trusts(checked(results))
        assert [check["verdict"] for check in trust.shown] == ["fail", "warn", "warn"]
        assert trust.folded_title == "1 not run, 3 passed"
        assert len(trust.shown) + len(trust.folded) == 7

    def test_comparisons(self, results, page):
        text = Page(page).text
        assert f"All {len(results['comparisons'])} comparisons" in text
        assert "Models in the worst case at ε = 8/255" in text
        assert "APGD-CE minus FGSM (attacks, Plain SNN)" in text
        for entry in results["comparisons"]:
            found = entry["difference"]
            shown = f"{format_number(found['value'], 1, 100)} {format_interval(found)}"
            assert shown in text, shown

    def test_old_results_have_neither_checks_nor_comparisons(self):
        results = fake_results(["plain", "at"], n=30)
        del results["comparisons"]
        for model in results["models"]:
            del model["checks"]
        page = render(results)
        assert 'id="trust"' not in page
        assert 'id="comparisons"' not in page

    def test_backticks_become_code(self):
        assert code("run `a <b>` and `c`") == "run <code>a &lt;b&gt;</code> and <code>c</code>"
        assert code("one ` alone & none") == "one ` alone &amp; none"

    def test_light_dark_phone_and_print(self, page):
        assert "prefers-color-scheme: dark" in page
        assert 'name="viewport" content="width=device-width' in page
        assert "@media (max-width:" in page
        assert "@media print" in page
        assert page.count('class="plot narrow"') == page.count('class="plot wide"') == 6

    def test_names_cannot_break_out(self):
        page = render(fake_hostile())
        parsed = Page(page)
        assert "script" not in parsed.tags
        assert '<script>alert("x")</script> & $\\frac{1}{2}$ [bold red]markup[/]' in parsed.text

    def test_is_reproducible(self):
        results, examples = fake_results(["plain"], n=30), fake_examples(["plain"], 2)
        assert render(results, examples) == render(results, examples)

    @pytest.mark.parametrize("content", [empty(), fake_partial(), empty() | {"models": [{"name": "m"}]}])
    def test_incomplete(self, content):
        parsed = Page(render(content))
        assert "This run is not complete." in parsed.text
        assert "None" not in parsed.text
        assert "nan" not in parsed.text.split()

    @pytest.mark.parametrize(
        "missing",
        [
            ("clean",),
            ("attacks",),
            ("gap",),
            ("gradients",),
            ("checks",),
            ("title", "kind", "parameters", "time_steps", "description", "training"),
        ],
    )
    def test_parts_of_a_model_may_be_missing(self, missing):
        content = fake_results(["plain"], n=20)
        for key in missing:
            del content["models"][0][key]
        assert "None" not in Page(render(content)).text
        without = checked(content)
        for key in missing:
            content["models"][0][key] = None
        assert checked(content) == without

    @pytest.mark.parametrize(
        "missing",
        ["config", "environment", "seed", "dataset", "conversions", "comparisons", "started", "finished", "seconds"],
    )
    def test_parts_of_a_run_may_be_missing(self, missing):
        content = fake_partial()
        del content[missing]
        assert "None" not in Page(render(content)).text
        assert checked(content | {missing: None}) == checked(content)

    def test_warning_marks_unconfirmed_rows(self):
        results = fake_results(["plain"], n=30)
        assert 'class="mismatch"' not in render(results)
        results["models"][0]["attacks"][-1]["verified"] -= 1
        assert render(results).count('class="mismatch"') == 1

    def test_other_norms_have_their_own_table(self):
        results = fake_results(["plain"], n=30)
        extra = copy.deepcopy(results["models"][0]["attacks"][:4])
        for attack in extra:
            attack.update(norm="L2", eps=0.5)
        results["models"][0]["attacks"] += extra
        tables = list(attack_tables(checked(results)["models"][0]))
        assert [(table["norm"], table["eps"]) for table in tables] == [
            ("ℓ∞", ["2/255", "4/255", "8/255", "16/255"]),
            ("ℓ2", ["0.5"]),
        ]

    def test_repeated_attacks_lose_no_row(self):
        results = fake_results(["plain"], n=30)
        results["models"][0]["attacks"] *= 2
        (table,) = attack_tables(checked(results)["models"][0])
        assert sum(cell is not None for _, rows in table["families"] for *_, cells, _ in rows for cell in cells) == 128

    def test_members_of_an_ensemble(self):
        results = fake_results(["plain"], n=30)
        square = [attack for attack in results["models"][0]["attacks"] if attack["attack"] == "square"]
        counts = [{"APGD-CE ASSG": 3}, {"APGD-CE ASSG": 5, "Square": 1}, {"Square": 9}, {}]
        for attack, found in zip(square, counts):
            attack["members"] = [{"member": name, "count": count} for name, count in found.items()]
        (table,) = member_tables(checked(results)["models"][0])
        assert table["eps"] == ["2/255", "4/255", "8/255"]
        assert table["rows"] == [("Square", [0, 1, 9]), ("APGD-CE ASSG", [3, 5, 0])]
        assert "Members of Square-1000" in Page(render(results)).text

    def test_without_noise_the_worst_case_stands_alone(self):
        results = fake_results(["plain"], n=30)
        for gap in results["models"][0]["gap"]:
            gap.update(random=None, random_attack=None, gap=None)
        assert "no random noise was measured to compare it with" in words(results)
        assert "no random noise was measured" in Page(render(results)).text

    def test_settings_in_short(self, results):
        assert dict(attack_settings(checked(results)))["PGD-10"] == "steps 10, alpha 0.001961 to 0.01569"

    def test_write(self, tmp_path):
        folder = write_run(tmp_path / "run", fake_results(["plain"], n=20), fake_examples(["plain"], 1))
        path = write_report(folder)
        assert path == folder / "report.html"
        assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
        assert sorted(p.name for p in folder.iterdir()) == ["examples.npz", "report.html", "results.json"]

    def test_page_that_cannot_be_written(self, tmp_path):
        folder = write_run(tmp_path / "run", fake_partial())
        (folder / "report.html").mkdir()
        with pytest.raises(RobustSNNError, match="cannot write"):
            write_report(folder)
        assert sorted(p.name for p in folder.iterdir()) == ["report.html", "results.json"]


def test_importing_the_package_pulls_no_plotting():
    code = (
        "import sys, robustsnn; assert not {'matplotlib', 'jinja2', 'rich'} & set(sys.modules), 'package';"
        "import robustsnn.report.html; assert 'matplotlib.pyplot' not in sys.modules, 'pyplot'"
    )
    root = Path(__file__).parent.parent
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
