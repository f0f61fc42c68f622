"""The self-contained HTML page of a run: one file, no scripts, nothing fetched, light and dark, any width."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from robustsnn.errors import RobustSNNError
from robustsnn.files import write_atomic
from robustsnn.report import formatting
from robustsnn.report.finding import finding
from robustsnn.report.formatting import MISSING, format_eps, format_norm, plain, shorten, title_of
from robustsnn.report.loading import Examples, Results, checked, load_examples, load_results
from robustsnn.report.plots import example_names, figures
from robustsnn.report.selection import (
    OTHERS,
    Entry,
    budgets,
    main_blocks,
    main_columns,
    other_attacks,
    primary_norm,
    same,
    successes,
    telling_budget,
)
from robustsnn.report.style import inline_svg, looks
from robustsnn.report.trust import SIGNS, all_comparisons, format_p, model_comparisons, model_titles, trusts

PAGE = "report.html"
LABELS = {
    "accuracy": "Line plots of accuracy against the budget, one panel a model: strongest noise and worst-case attack.",
    "gap": "Line plot of the gap between random and adversarial accuracy against the budget, for all models.",
    "attacks": "Heat-maps of accuracy by attack and gradient rule, one panel a model.",
    "gradient-norms": "Distributions of the gradient's l1 norm and of its share of zeros, by model and rule.",
    "energy-ratio": "Adversarial-to-random ratio, measured and predicted, beside its bounds, by model and rule.",
    "conversion": "Accuracy of converted models over time steps, with the ANN's accuracy as limit.",
}


def write_report(folder: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` into a run's folder from its ``results.json`` and optional ``examples.npz``.

    Args:
        folder: the run's output folder.

    Returns:
        The path of the page.

    Raises:
        RobustSNNError: if the results or examples cannot be read (see ``robustsnn.report.loading``), or the page cannot
            be written.
    """
    page = render(load_results(folder), load_examples(folder))
    path = Path(folder) / PAGE
    try:
        write_atomic(path, page)
    except OSError as error:
        raise RobustSNNError(f"cannot write {str(path)!r}: {error.strerror}.") from error
    return path


def render(results: Results, examples: Examples | None = None) -> str:
    """Return the page as text; the same results and examples give the same page.

    Args:
        results: the contents of ``results.json``; parts that are missing are left out.
        examples: the arrays of ``examples.npz``, if there are any.

    Raises:
        RobustSNNError: if the results or the examples are malformed.
    """
    results = checked(results)
    environment = Environment(
        loader=PackageLoader("robustsnn.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {name: getattr(formatting, name) for name in dir(formatting) if name.startswith("format_")}
    environment.globals |= {
        "MISSING": MISSING,
        "title_of": title_of,
        "shorten": shorten,
        "format_p": format_p,
        "code": code,
    }
    environment.filters["plain"] = plain
    environment.finalize = _finalize
    telling = telling_budget(results)
    claimed, verified = successes(results)
    return environment.get_template("report.html.j2").render(
        results=results,
        finding=finding(results),
        blocks=main_blocks(results),
        columns=main_columns(results),
        standard=[column for column in main_columns(results) if column != OTHERS],
        others=other_attacks(results),
        plots=_plots(results, examples),
        examples=list(example_names(results, examples).values()),
        looks={name: f"--series-{i % 6}" for i, name in enumerate(looks(results))},
        norm=primary_norm(results),
        every_eps=[format_eps(eps) for eps in budgets(results)],
        trusts=trusts(results),
        signs=SIGNS,
        titles=model_titles(results),
        compared=model_comparisons(results),
        all_compared=all_comparisons(results),
        telling=None if telling is None else format_eps(telling),
        attack_tables={model["name"]: list(attack_tables(model)) for model in results["models"]},
        member_tables={model["name"]: list(member_tables(model)) for model in results["models"]},
        claimed=claimed,
        verified=verified,
        attack_settings=attack_settings(results),
        gradient_decimals={
            key: formatting.decimals_for(
                g[key]["mean"] for model in results["models"] for g in model["gradients"] if g[key]
            )
            for key in ("l1", "l2")
        },
        time_decimals=formatting.decimals_for(
            (p.get("ms_per_image") for c in results["conversions"] for p in c["over_time"]), digits=2
        ),
        config=list(flatten(results["config"])),
        environment=list(flatten(results["environment"])),
        attack_seconds=sum(formatting.finite(e.get("seconds")) or 0 for m in results["models"] for e in m["attacks"]),
    )


def code(text: object) -> Markup:
    """Return text as HTML in which parts between backticks are code."""
    parts = re.split("`([^`]*)`", plain(text))
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


def attack_tables(model: Entry) -> Iterator[dict[str, Any]]:
    """Yield for each norm the table attack by budget: the budgets, and rows of the entries at each (or None)."""
    norms = dict.fromkeys(str(entry["norm"]) for entry in model["attacks"])
    for norm in norms:
        entries = [entry for entry in model["attacks"] if entry["norm"] == norm]
        every: list[float] = []
        for entry in entries:
            if not any(same(entry["eps"], eps) for eps in every):
                every.append(float(entry["eps"]))
        every.sort()
        rows: dict[tuple[str, ...], list[Entry | None]] = {}
        for entry in entries:
            column = next(i for i, eps in enumerate(every) if same(entry["eps"], eps))
            key: tuple[str, ...] = (
                entry["family"],
                title_of(entry, "attack"),
                plain(entry["rule"] or ""),
                entry["attack"],
            )
            while rows.setdefault(key, [None] * len(every))[column]:
                key += ("again",)
            rows[key][column] = entry
        yield {
            "norm": format_norm(norm),
            "eps": [format_eps(eps) for eps in every],
            "families": [
                (name, [(*key[1:3], cells, _sizes(cells)) for key, cells in rows.items() if key[0] == family])
                for family, name in (("noise", "Random noise"), ("adversarial", "Adversarial attacks"))
            ],
        }


def member_tables(model: Entry) -> Iterator[dict[str, Any]]:
    """Yield for each ensemble the table member by budget: how many images each member was the first to fool."""
    ensembles: dict[tuple[str, str], list[Entry]] = {}
    for entry in model["attacks"]:
        if entry["members"]:
            ensembles.setdefault((title_of(entry, "attack"), str(entry["norm"])), []).append(entry)
    for (title, norm), entries in ensembles.items():
        entries.sort(key=lambda entry: float(entry["eps"]))
        counts = [{member["member"]: int(member["count"]) for member in entry["members"]} for entry in entries]
        totals = {name: sum(found.get(name, 0) for found in counts) for found in counts for name in found}
        yield {
            "title": title,
            "norm": format_norm(norm),
            "eps": [format_eps(entry["eps"]) for entry in entries],
            "rows": [
                (name, [found.get(name, 0) for found in counts])
                for name in sorted(totals, key=lambda name: -totals[name])
            ],
        }


def attack_settings(results: Results) -> list[tuple[str, str]]:
    """Return each attack with the settings that are the same at every budget, and the range of those that are not."""
    found: dict[str, dict[str, list[Any]]] = {}
    for model in results["models"]:
        for entry in model["attacks"]:
            settings = found.setdefault(title_of(entry, "attack"), {})
            for key, value in flatten(entry["settings"]):
                values = settings.setdefault(key, [])
                if value not in values:
                    values.append(value)
    return [
        (attack, ", ".join(f"{key} {_one_or_range(values)}" for key, values in settings.items()) or MISSING)
        for attack, settings in found.items()
    ]


def flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested settings as dotted names and short texts."""
    for key, item in value.items():
        name = f"{prefix}{plain(key)}"
        if isinstance(item, Mapping) and item:
            yield from flatten(item, f"{name}.")
        elif isinstance(item, (list, tuple)):
            yield name, ", ".join(_text(part) for part in item) or "none"
        else:
            yield name, _text(item)


def _text(value: object) -> str:
    if value is None or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else shorten(value, 300)


def _one_or_range(values: list[str]) -> str:
    if len(values) == 1:
        return values[0]
    try:
        ordered = sorted(values, key=float)
    except ValueError:
        return " | ".join(values)
    return f"{ordered[0]} to {ordered[-1]}"


def _sizes(cells: list[Entry | None]) -> str:
    sizes = sorted({int(cell["accuracy"]["n"]) for cell in cells if cell and cell["accuracy"]})
    return "/".join(map(str, sizes)) or MISSING


def _plots(results: Results, examples: Examples | None) -> dict[str, dict[str, Markup]]:
    """Return each plot as SVG for wide and for narrow pages."""
    plots: dict[str, dict[str, Markup]] = {}
    titles = {name: model for model, name in example_names(results, examples).items()}
    for width, narrow in (("wide", False), ("narrow", True)):
        for name, figure in figures(results, examples if narrow else None, narrow):
            label = LABELS.get(name) or f"Example images of {shorten(titles.get(name, name), 60)}."
            plots.setdefault(name, {})[width] = Markup(inline_svg(figure, f"{name}-{width}", label))
    return plots


def _finalize(value: Any) -> Any:
    """Keep control characters and line breaks of names out of the page."""
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value
