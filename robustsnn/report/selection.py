"""Which of a run's many figures a reader sees first: budgets, worst cases over rules, the rows of the main table."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from robustsnn.report.formatting import MISSING, finite, title_of
from robustsnn.report.loading import Results

Entry = dict[str, Any]
COLUMNS = {"FGSM": "fgsm", "PGD": "pgd", "APGD": "apgd"}
OTHERS = "others"
"""Column of the attacks that have none of their own: black-box attacks, ensembles, those of other libraries."""


@dataclass(frozen=True)
class MainRow:
    """One model at one budget: rates and difference as in results.json, None where the run has none."""

    model: str
    title: str
    clean: Entry | None
    random: Entry | None
    random_title: str
    attacks: dict[str, Entry | None]
    worst: Entry | None
    gap: Entry | None


@dataclass(frozen=True)
class MainBlock:
    """The main table at one budget."""

    eps: float
    norm: str
    rows: list[MainRow]


def same(a: float, b: float) -> bool:
    """Return whether two budgets are the same up to rounding."""
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12)


def primary_norm(results: Results) -> str:
    """Return the norm that most figures are about (``Linf`` if there are none)."""
    norms = Counter(str(entry["norm"]) for model in results["models"] for entry in model["attacks"] + model["gap"])
    return norms.most_common(1)[0][0] if norms else "Linf"


def budgets(results: Results, norm: str | None = None) -> list[float]:
    """Return all budgets of a norm (the primary one by default) in rising order."""
    chosen = norm or primary_norm(results)
    found: list[float] = []
    for model in results["models"]:
        for entry in model["attacks"] + model["gap"]:
            if entry["norm"] == chosen and not any(same(entry["eps"], eps) for eps in found):
                found.append(float(entry["eps"]))
    return sorted(found)


def headline_budgets(results: Results) -> list[float]:
    """Return the budget that says most, and the largest; one or none if there are no more.

    The first is where the models' worst cases lie farthest apart (for one model: where its gap is widest), the larger of
    equal ones.
    """
    every, norm = budgets(results), primary_norm(results)
    if len(every) < 2:
        return every

    def tells(eps: float) -> float:
        found = [gap for model in results["models"] if (gap := gap_at(model, eps, norm))]
        worst = [gap["adversarial"]["value"] for gap in found if gap["adversarial"]]
        if len(worst) > 1:
            return max(worst) - min(worst)
        return max((abs(gap["gap"]["value"]) for gap in found if gap["gap"]), default=0.0)

    best = max(reversed(every), key=tells)
    return [best, every[-1] if best != every[-1] else every[-2]]


def attacks_at(model: Entry, eps: float, norm: str, family: str) -> list[Entry]:
    """Return a model's attacks of one family at one budget that have an accuracy."""
    return [
        entry
        for entry in model["attacks"]
        if entry["family"] == family and entry["norm"] == norm and same(entry["eps"], eps) and entry["accuracy"]
    ]


def strongest(entries: list[Entry]) -> Entry | None:
    """Return the attack that leaves the lowest accuracy."""
    return min(entries, key=lambda entry: entry["accuracy"]["value"], default=None)


def gap_at(model: Entry, eps: float, norm: str) -> Entry | None:
    """Return a model's random-against-adversarial comparison at one budget."""
    return next((entry for entry in model["gap"] if entry["norm"] == norm and same(entry["eps"], eps)), None)


def random_title(model: Entry, gap: Entry) -> str:
    """Return the title of the noise that a comparison used."""
    name = gap.get("random_attack")
    titles = (title_of(entry, "attack") for entry in model["attacks"] if entry["attack"] == name)
    return next(titles, title_of(gap, "random_attack"))


def is_kind(entry: Entry, stem: str) -> bool:
    """Return whether an attack is of a kind: ``pgd`` for PGD-10 and pgd_50, but not for APGD."""
    name = str(entry["attack"]).lower()
    return name.startswith(stem) and not name[len(stem) : len(stem) + 1].isalpha()


def main_columns(results: Results) -> list[str]:
    """Return the attack columns of the main table: the standard attacks that the run has, and one for all others."""
    entries = [entry for model in results["models"] for entry in model["attacks"] if entry["family"] == "adversarial"]
    return [column for column in (*COLUMNS, OTHERS) if any(_belongs(entry, column) for entry in entries)]


def other_attacks(results: Results) -> list[str]:
    """Return the titles of the attacks behind the column of the others, in the order of the run."""
    entries = [entry for model in results["models"] for entry in model["attacks"] if entry["family"] == "adversarial"]
    return list(dict.fromkeys(title_of(entry, "attack") for entry in entries if _belongs(entry, OTHERS)))


def main_blocks(results: Results) -> list[MainBlock]:
    """Return the main table: for the budget that says most and the largest, a row for every model.

    An attack column is the rate under that attack with its strongest gradient rule and variant, the column of the others
    the rate under the strongest of them; ``worst`` is the per-image worst case over everything, which is why it can lie
    below each of them.
    """
    norm, columns = primary_norm(results), main_columns(results)
    return [
        MainBlock(eps, norm, [_row(model, eps, norm, columns) for model in results["models"]])
        for eps in headline_budgets(results)
    ]


def telling_budget(results: Results) -> float | None:
    """Return the budget at which the attacks' accuracies differ most, where a comparison of attacks says most."""
    norm = primary_norm(results)

    def spread(eps: float) -> float:
        total = 0.0
        for model in results["models"]:
            values = [entry["accuracy"]["value"] for entry in attacks_at(model, eps, norm, "adversarial")]
            total += max(values) - min(values) if values else 0.0
        return total

    every = [
        eps
        for eps in budgets(results, norm)
        if any(attacks_at(model, eps, norm, "adversarial") for model in results["models"])
    ]
    return max(every, key=spread, default=None)


def successes(results: Results) -> tuple[int, int]:
    """Return how many adversarial successes the attacks claimed, and how many the untouched model confirmed."""
    entries = [entry for model in results["models"] for entry in model["attacks"] if entry["family"] == "adversarial"]
    return sum(_count(e, "claimed") for e in entries), sum(_count(e, "verified") for e in entries)


def _belongs(entry: Entry, column: str) -> bool:
    if column == OTHERS:
        return not any(is_kind(entry, stem) for stem in COLUMNS.values())
    return is_kind(entry, COLUMNS[column])


def _count(entry: Entry, key: str) -> int:
    return int(finite(entry.get(key)) or 0)


def _row(model: Entry, eps: float, norm: str, columns: list[str]) -> MainRow:
    gap = gap_at(model, eps, norm)
    noise = strongest(attacks_at(model, eps, norm, "noise"))
    adversarial = attacks_at(model, eps, norm, "adversarial")
    cells: dict[str, Entry | None] = {}
    for column in columns:
        best = strongest([entry for entry in adversarial if _belongs(entry, column)])
        cells[column] = best["accuracy"] if best else None
    if gap and gap["random"]:
        random, title = gap["random"], random_title(model, gap)
    else:
        random, title = (noise["accuracy"], title_of(noise, "attack")) if noise else (None, MISSING)
    return MainRow(
        model=model["name"],
        title=title_of(model),
        clean=model["clean"],
        random=random,
        random_title=title,
        attacks=cells,
        worst=gap["adversarial"] if gap else None,
        gap=gap["gap"] if gap else None,
    )
