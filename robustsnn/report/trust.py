"""What a run's checks say, arranged for the terminal and the page: the open points first, with signs beside colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from robustsnn.report.formatting import finite, plain, shorten, title_of
from robustsnn.report.loading import Results
from robustsnn.report.selection import headline_budgets, same

Entry = dict[str, Any]
SIGNS = {"fail": "✗", "warn": "!", "not run": "○", "pass": "✓"}
OVERALL_SIGNS = {"unreliable": "✗", "doubtful": "!", "sound": "✓"}
STYLES = {"unreliable": "bold red", "doubtful": "bold yellow", "sound": "green"}
_GRAVEST_FIRST = list(SIGNS)
_SAID = {"fail": "failed", "warn": "in doubt", "not run": "not run", "pass": "passed"}


@dataclass(frozen=True)
class Trust:
    """The checks of one model.

    Attributes:
        model: its name.
        title: its title.
        verdict: ``"sound"``, ``"doubtful"`` or ``"unreliable"``.
        sign: of the verdict, so that it does not hang on colour.
        weakest: the weakest point in a sentence or two.
        shown: checks that failed, then those that warn; none where that is a single one, which ``weakest`` has told.
        folded: all other checks: not run, then passed.
        folded_title: what they are, in a few words.
        counts: number of checks by verdict, those that are 0 left out, gravest first.
    """

    model: str
    title: str
    verdict: str
    sign: str
    weakest: str
    shown: list[Entry]
    folded: list[Entry]
    folded_title: str
    counts: dict[str, int]


def trusts(results: Results) -> list[Trust]:
    """The checks of every model that has any; results as from `robustsnn.report.loading.checked`."""
    return [_trust(model) for model in results["models"] if model["checks"]]


def model_comparisons(results: Results) -> list[Entry]:
    """Comparisons of models in the worst case at the budget that says most."""
    chosen = headline_budgets(results)[:1]
    return [e for e in _of_models(results) if any(same(e["eps"], eps) for eps in chosen)]


def all_comparisons(results: Results) -> list[Entry]:
    """Every comparison: of models, budget by budget, then of attacks and rules within one model."""
    return [*_of_models(results), *(e for e in results["comparisons"] if e["what"] != "worst case")]


def _of_models(results: Results) -> list[Entry]:
    found = [entry for entry in results["comparisons"] if entry["what"] == "worst case"]
    return sorted(found, key=lambda entry: float(entry["eps"]))


def comparison_of(results: Results, eps: float, first: str, second: str) -> Entry | None:
    """The comparison of two models by name in the worst case at one budget, whichever comes first in it."""
    pair = {first, second}
    return next(
        (
            e
            for e in results["comparisons"]
            if e["what"] == "worst case" and {e["a"], e["b"]} == pair and same(e["eps"], eps)
        ),
        None,
    )


def model_titles(results: Results) -> dict[str, str]:
    """Titles of the models by name."""
    return {model["name"]: title_of(model) for model in results["models"]}


def format_p(p: object) -> str:
    """Return a p-value as ``0.034``, or ``< 0.001``."""
    value = finite(p)
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def trust_sentence(results: Results) -> str:
    """One sentence: what the checks say of each model's evaluation; empty where there are none."""
    found = trusts(results)
    if not found:
        return ""
    verdicts = {trust.verdict for trust in found}
    if len(verdicts) == 1:
        whole = "every model" if len(found) > 1 else shorten(found[0].title, 60)
        return f"Checks call the evaluation of {whole} {found[0].verdict}."
    grouped = (
        f"{verdict} for {', '.join(shorten(trust.title, 60) for trust in found if trust.verdict == verdict)}"
        for verdict in OVERALL_SIGNS
        if verdict in verdicts
    )
    return f"Checks call the evaluation {'; '.join(grouped)}."


def _trust(model: Entry) -> Trust:
    checks = sorted(model["checks"]["checks"], key=lambda check: _GRAVEST_FIRST.index(check["verdict"]))
    verdict = model["checks"]["verdict"]
    open_points = [check for check in checks if check["verdict"] in ("fail", "warn")]
    shown = open_points if len(open_points) > 1 else []
    folded = checks[len(shown) :]
    return Trust(
        model=model["name"],
        title=title_of(model),
        verdict=verdict,
        sign=OVERALL_SIGNS[verdict],
        weakest=plain(model["checks"]["weakest"]),
        shown=shown,
        folded=folded,
        folded_title=("" if shown else "All checks: ")
        + ", ".join(f"{count} {_SAID[name]}" for name, count in _counts(folded).items()),
        counts=_counts(checks),
    )


def _counts(checks: list[Entry]) -> dict[str, int]:
    counts = {name: sum(check["verdict"] == name for check in checks) for name in _GRAVEST_FIRST}
    return {name: count for name, count in counts.items() if count}
