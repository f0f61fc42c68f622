"""The plots of a report; each function returns a matplotlib Figure and none touches pyplot or a display."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from robustsnn.errors import RobustSNNError
from robustsnn.files import write_atomic
from robustsnn.report.formatting import (
    MISSING,
    finite,
    format_eps,
    format_norm,
    format_percent,
    shorten,
    title_of,
)
from robustsnn.report.loading import Examples, Results, checked
from robustsnn.report.selection import (
    Entry,
    attacks_at,
    budgets,
    gap_at,
    primary_norm,
    strongest,
    telling_budget,
)
from robustsnn.report.style import (
    GRID,
    INK,
    MUTED,
    PAPER,
    SERIES,
    Look,
    looks,
    new_figure,
    percent_axis,
    png,
    styled,
    svg,
)

Array = npt.NDArray[Any]


def accuracy_against_eps(results: Results, narrow: bool = False) -> Figure:
    """Return accuracy against the budget, one panel a model: strongest noise and worst-case attack with their bands.

    Where a run has no worst case over all attacks yet, the strongest single attack stands in.

    Raises:
        RobustSNNError: if no model has an attack.
    """
    results = checked(results)
    models = _need([m for m in results["models"] if m["attacks"] or m["gap"]], "attacks")
    norm, every = primary_norm(results), budgets(results)
    classes = finite(results["dataset"].get("num_classes"))
    style = looks(results)
    with styled():
        figure, panels = _panels(len(models), narrow, per_row=2 if narrow else 4, height=2.1 if narrow else 2.5)
        for ax, model in zip(panels, models):
            look = style[model["name"]]
            for family in ("noise", "adversarial"):
                points = _curve(model, family, norm, every)
                if points:
                    _band(ax, [eps for eps, _ in points], [rate for _, rate in points], look, family == "noise")
            if classes:
                ax.axhline(100 / classes, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
            _eps_axis(ax, every, norm, start=0.0)
            percent_axis(ax)
            _title(ax, title_of(model), 24)
        _y_label(panels, "accuracy (%)")
        handles = [
            Line2D(
                [], [], color=INK, marker="o", markerfacecolor=PAPER, linestyle=(0, (4, 2)), label="strongest noise"
            ),
            Line2D([], [], color=INK, marker="o", label="worst-case attack"),
        ]
        if classes:
            handles.append(Line2D([], [], color=MUTED, linestyle=(0, (1, 2)), linewidth=0.8, label="chance"))
        figure.legend(handles=handles, loc="outside upper left", ncols=3, handlelength=2.4, columnspacing=1.4)
    return figure


def gap_against_eps(results: Results, narrow: bool = False) -> Figure:
    """Return the gap between random and adversarial accuracy against the budget, all models in one axes with intervals.

    Raises:
        RobustSNNError: if no model has a gap.
    """
    results = checked(results)
    norm = primary_norm(results)
    style = looks(results)
    models = _need([m for m in results["models"] if any(g["gap"] and g["norm"] == norm for g in m["gap"])], "gaps")
    every = sorted({float(g["eps"]) for m in models for g in m["gap"] if g["gap"] and g["norm"] == norm})
    closest = min(np.diff(every), default=every[0])
    dodge = min((every[-1] - every[0] or every[0]) * 0.008, 0.6 * closest / len(models))
    with styled():
        figure = new_figure(3.4 if narrow else 3.6, narrow)
        ax = figure.subplots()
        for i, model in enumerate(models):
            entries = sorted((g for g in model["gap"] if g["gap"] and g["norm"] == norm), key=lambda g: g["eps"])
            x = [g["eps"] + dodge * (i - (len(models) - 1) / 2) for g in entries]
            value, low, high = (100 * np.array([g["gap"][key] for g in entries]) for key in ("value", "low", "high"))
            look = style[model["name"]]
            errors = np.maximum(0, [value - low, high - value])
            ax.errorbar(
                x,
                value,
                yerr=errors,
                color=look.colour,
                marker=look.marker,
                elinewidth=1.2,
                capsize=2.5,
                label=shorten(title_of(model), 26 if narrow else 40),
            )
        ax.axhline(0, color=MUTED, linewidth=0.8)
        _eps_axis(ax, every, norm)
        ax.set_ylim(min(0.0, ax.get_ylim()[0]), 102)
        _y_label([ax], "gap (percentage points)")
        long = max(len(title_of(model)) for model in models) > 24
        figure.legend(loc="outside upper left", ncols=1 if narrow else 2 if long else 4, columnspacing=1.4)
    return figure


def gradient_norms(results: Results, narrow: bool = False) -> Figure:
    """Return the distributions of ‖g‖₁ (log scale) and of the share of zeros, a row for each model and rule.

    Dots are images, the bar holds the middle half, the line marks the median; without values for each image the thin
    line spans the extremes. Gradients that are zero everywhere have no place on a log scale: their share is written
    beside the row.

    Raises:
        RobustSNNError: if no model has gradients.
    """
    results = checked(results)
    rows = _need(list(_gradient_rows(results)), "gradients")
    with styled():
        height = 0.6 + (0.36 if narrow else 0.3) * len(rows)
        figure = new_figure(2 * height if narrow else height, narrow)
        left, right = figure.subplots(2, 1) if narrow else figure.subplots(1, 2, sharey=True)
        for y, (_, gradients, look) in enumerate(rows):
            _distribution(left, y, gradients, "l1", look, positive=True)
            _distribution(right, y, gradients, "zero_share", look, scale=100.0)
            zero = gradients["all_zero"]
            if zero and zero["count"]:
                note = f"{format_percent(zero['value'])} % all zero"
                left.annotate(
                    note,
                    (1, y),
                    xycoords=("axes fraction", "data"),
                    xytext=(3, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=7.5,
                    color=MUTED,
                )
        _log_axis(left)
        left.set_xlabel("‖g‖₁, log scale")
        right.set_xlabel("share of zeros in g (%)")
        right.set_xlim(-2, 102)
        for ax in (left, right):
            _row_axis(ax, [label for label, _, _ in rows], shown=narrow or ax is left)
    return figure


def energy_ratio(results: Results, narrow: bool = False) -> Figure:
    """Return the adversarial-to-random ratio, measured and predicted, beside its bounds 3 and 3‖g‖₀.

    A row for each model and rule: the pale bar runs from 3 to the median of 3‖g‖₀, the upright line is the median of
    the prediction 3‖g‖₁²/‖g‖₂² with its middle half, the circles are the measured ratio, the larger the budget.

    Raises:
        RobustSNNError: if no gradients carry a ratio.
    """
    results = checked(results)
    rows = _need([row for row in _gradient_rows(results) if row[1]["ratio"]], "adversarial-to-random ratios")
    every = sorted({float(ratio["eps"]) for _, gradients, _ in rows for ratio in gradients["ratio"]})
    sizes = dict(zip(every, np.linspace(14, 60, len(every)) if len(every) > 1 else [30]))
    with styled():
        figure = new_figure((1.2 if narrow else 0.9) + (0.36 if narrow else 0.3) * len(rows), narrow)
        ax = figure.subplots()
        for y, (_, gradients, look) in enumerate(rows):
            first = gradients["ratio"][0]
            lower, upper = finite(first.get("lower_bound")) or 3.0, _middle(first.get("upper_bound"))
            if upper is not None and upper > lower:
                ax.barh(y, upper - lower, left=lower, height=0.62, color=GRID, zorder=1.5)
            predicted = first.get("predicted")
            middle = _middle(predicted)
            if middle is not None and middle > 0:
                if isinstance(predicted, dict) and predicted["q25"] > 0:
                    ax.hlines(y, predicted["q25"], predicted["q75"], color=INK, linewidth=1.2, zorder=2)
                ax.vlines(middle, y - 0.31, y + 0.31, color=INK, linewidth=1.8, zorder=2)
            for ratio in gradients["ratio"]:
                measured = _middle(ratio.get("measured"))
                if measured is not None and measured > 0:
                    ax.scatter(
                        measured,
                        y,
                        s=sizes[float(ratio["eps"])],
                        facecolor="none",
                        edgecolor=look.colour,
                        linewidth=1.5,
                        zorder=3,
                    )
        _log_axis(ax)
        ax.set_xlabel("adversarial-to-random ratio, log scale")
        _row_axis(ax, [label for label, _, _ in rows])
        handles: list[Any] = [
            Patch(color=GRID, label="bounds 3 to 3‖g‖₀"),
            Line2D([], [], color=INK, marker="|", markersize=9, markeredgewidth=1.8, label="predicted"),
        ]
        handles += [
            Line2D(
                [],
                [],
                linestyle="none",
                marker="o",
                markerfacecolor="none",
                markeredgecolor=INK,
                markersize=np.sqrt(sizes[eps]),
                label=f"measured at {format_eps(eps)}",
            )
            for eps in every
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=2 if narrow else 6, columnspacing=1.4)
    return figure


def attack_comparison(results: Results, eps: float | None = None, narrow: bool = False) -> Figure:
    """Return a heat-map of accuracy, attack by gradient rule, one panel a model; the lowest values have a frame.

    Args:
        results: the contents of ``results.json``.
        eps: the budget; by default the one at which the attacks differ most.
        narrow: draw for a phone.

    Raises:
        RobustSNNError: if no adversarial attack was run at this budget.
    """
    results = checked(results)
    chosen = telling_budget(results) if eps is None else eps
    norm = primary_norm(results)
    entries = [(m, attacks_at(m, chosen, norm, "adversarial")) for m in results["models"]] if chosen else []
    entries = _need([(m, found) for m, found in entries if found], "adversarial attacks at this budget")
    rows = _unique(title_of(entry, "attack") for _, found in entries for entry in found)
    ruled = {title_of(entry, "attack") for _, found in entries for entry in found if entry["rule"]}
    rules = _unique(entry["rule"] for _, found in entries for entry in found if entry["rule"])
    # an attack without gradients spans the row: its accuracy belongs to no rule
    if not rules or any(not e["rule"] and title_of(e, "attack") in ruled for _, found in entries for e in found):
        rules.append(None)
    with styled():
        figure, panels = _panels(len(entries), narrow, per_row=1 if narrow else 4, height=0.55 + 0.27 * len(rows))
        for ax, (model, found) in zip(panels, entries):
            cells: dict[tuple[str, str | None], Entry] = {}
            for entry in sorted(found, key=lambda e: -e["accuracy"]["value"]):
                cells[title_of(entry, "attack"), entry["rule"]] = entry
            lowest = min(entry["accuracy"]["value"] for entry in cells.values())
            for (attack, rule), entry in cells.items():
                spans = not rule and attack not in ruled
                left, right = (0, len(rules) - 1) if spans else [rules.index(rule)] * 2
                _cell(
                    ax,
                    left,
                    right,
                    rows.index(attack),
                    entry["accuracy"]["value"],
                    frame=entry["accuracy"]["value"] == lowest,
                )
            ax.set_xlim(-0.5, len(rules) - 0.5)
            ax.set_ylim(len(rows) - 0.5, -0.5)
            ax.set_xticks(range(len(rules)), [shorten(rule or "no gradient", 12) for rule in rules])
            ax.set_yticks(range(len(rows)), [shorten(title, 18) for title in rows])
            if len(rules) > (5 if narrow else 3):
                ax.tick_params(axis="x", labelrotation=40)
            ax.grid(visible=False)
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
            _title(ax, title_of(model), 40 if narrow else 24)
    return figure


def conversion_over_time(results: Results, narrow: bool = False) -> Figure:
    """Return the accuracy of each conversion over its time steps, with the ANN and the quantised ANN as limits.

    Raises:
        RobustSNNError: if there are no conversions.
    """
    results = checked(results)
    conversions = _need(
        [c for c in results["conversions"] if any(p["accuracy"] for p in c["over_time"])], "conversions"
    )
    style = looks(results)
    spare = [Look(colour, "o") for colour in SERIES if all(look.colour != colour for look in style.values())] or [
        Look(SERIES[-1], "o")
    ]
    fallback = {name: spare[i % len(spare)] for i, name in enumerate(c["model"] for c in conversions)}
    lows = [p["accuracy"]["low"] for c in conversions for p in c["over_time"] if p["accuracy"]]
    with styled():
        figure, panels = _panels(len(conversions), narrow, per_row=1 if narrow else 3, height=2.4)
        for ax, c in zip(panels, conversions):
            points = sorted((p for p in c["over_time"] if p["accuracy"]), key=lambda p: p["time_steps"])
            look = style.get(c["model"]) or fallback[c["model"]]
            _band(ax, [p["time_steps"] for p in points], [p["accuracy"] for p in points], look=look)
            for key, dashes in (("ann", "solid"), ("quantised", (0, (4, 2)))):
                if c[key]:
                    ax.axhline(100 * c[key]["value"], color=INK, linewidth=1.0, linestyle=dashes, zorder=1.5)
            ax.set_xscale("log", base=2)
            steps = [p["time_steps"] for p in points]
            ax.set_xticks(steps, [f"{t:g}" for t in steps])
            ax.set_xlabel("time steps T")
            percent_axis(ax, low=0.0 if 100 * min(lows) < 60 else 50.0)
            _title(ax, f"{shorten(c['model'], 20)} ({shorten(c['method'], 14)})", 40)
        _y_label(panels, "clean accuracy (%)")
        handles = [
            Line2D([], [], color=INK, linewidth=1.0, label="ANN"),
            Line2D([], [], color=INK, linewidth=1.0, linestyle=(0, (4, 2)), label="quantised ANN"),
            Line2D([], [], color=MUTED, marker="o", label="SNN with interval"),
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=3, columnspacing=1.4)
    return figure


def example_images(
    examples: Examples,
    model: str,
    title: str | None = None,
    class_names: Sequence[object] | None = None,
) -> Figure:
    """Return up to six of a model's example images, narrow enough for a phone.

    A column an image: clean, with noise, attacked, and the difference that the attack made.

    Above each image stands what the model says, with a cross if that is wrong. Perturbations are drawn around mid-grey,
    from -ε (black) to ε (white).

    Args:
        examples: the arrays of ``examples.npz``; images [K, C, H, W] in [0, 1].
        model: the model's name in ``examples``.
        title: what to call it (its name by default).
        class_names: names by label (numbers by default).

    Raises:
        RobustSNNError: if the model has no examples or their shapes do not fit together.
    """
    kinds = ("clean", "noise", "adversarial")
    images = {kind: _images(examples, model, kind) for kind in kinds if f"{model}/{kind}" in examples}
    if "clean" not in images:
        raise RobustSNNError(f"there are no example images of {model!r}.")
    count = min(len(array) for array in images.values())
    if count == 0 or any(array.shape[1:] != images["clean"].shape[1:] for array in images.values()):
        raise RobustSNNError(f"the example images of {model!r} are empty or differ in shape.")
    count = min(count, 6)
    eps = float(examples["eps"]) if "eps" in examples else float(_largest_change(images))
    rows = [(kind, images[kind]) for kind in images]
    if "adversarial" in images:
        change = (images["adversarial"][:count] - images["clean"][:count]) / (2 * eps or 1.0) + 0.5
        rows.append(("perturbation", change))
    labels = examples.get(f"{model}/labels")
    names = {"clean": "clean", "noise": "noise", "adversarial": "attacked", "perturbation": "difference"}
    side = 3.9 / 6
    with styled():
        figure = new_figure((side + 0.17) * len(rows) + 0.3, narrow=True)
        grid = figure.subplots(len(rows), 6, squeeze=False)
        for axes, (kind, array) in zip(grid, rows):
            predicted = examples.get(f"{model}/predicted_{kind}")
            for k, ax in enumerate(axes):
                ax.set_axis_off()
                if k >= count:
                    continue
                _image(ax, array[k])
                if predicted is not None and labels is not None and k < min(len(predicted), len(labels)):
                    right = int(predicted[k]) == int(labels[k])
                    said = _class_name(class_names, int(predicted[k]))
                    ax.set_title(
                        said if right else f"✗ {said}",
                        fontsize=7.5,
                        loc="center",
                        pad=2,
                        color=INK if right else SERIES[1],
                        fontweight="normal" if right else "bold",
                    )
            axes[0].text(
                -0.12, 0.5, names[kind], transform=axes[0].transAxes, rotation=90, ha="right", va="center", fontsize=8.5
            )
        figure.suptitle(
            f"{shorten(title or model, 34)}, ε = {format_eps(eps)}",
            x=0.0,
            ha="left",
            fontsize=9.5,
            fontweight="bold",
        )
    return figure


def figures(results: Results, examples: Examples | None = None, narrow: bool = False) -> Iterator[tuple[str, Figure]]:
    """Yield the name and figure of every plot that the results have the data for, in reading order."""
    results = checked(results)
    for name, draw in PLOTS.items():
        try:
            figure = draw(results, narrow=narrow)
        except NothingToDrawError:
            continue
        yield name, figure
    for model, name in example_names(results, examples).items():
        entry = next(m for m in results["models"] if m["name"] == model)
        names = results["dataset"].get("class_names")
        classes = names if isinstance(names, list) else None
        yield name, example_images(examples or {}, model, title_of(entry), classes)


def example_names(results: Results, examples: Examples | None) -> dict[str, str]:
    """Return the plot name (safe in file names and ids) of every model that has example images."""
    found: dict[str, str] = {}
    for model in results["models"]:
        if examples and f"{model['name']}/clean" in examples:
            stem = re.sub(r"[^a-z0-9]+", "-", model["name"].lower()).strip("-")[:40].strip("-") or "model"
            name, number = f"examples-{stem}", 2
            while name in found.values():
                name, number = f"examples-{stem}-{number}", number + 1
            found[model["name"]] = name
    return found


def save_plots(results: Results, folder: str | os.PathLike[str], examples: Examples | None = None) -> list[Path]:
    """Write every plot that the results have the data for as ``<name>.png`` and ``<name>.svg``.

    Args:
        results: the contents of ``results.json``.
        folder: where to; made if missing.
        examples: the arrays of ``examples.npz``, if there are any.

    Returns:
        The paths that were written.

    Raises:
        RobustSNNError: if the results or examples are malformed, or the folder cannot be written.
    """
    written: list[Path] = []
    for name, figure in figures(results, examples):
        for suffix, data in ((".png", png(figure)), (".svg", svg(figure, name))):
            path = Path(folder) / f"{name}{suffix}"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(path, data)
            except OSError as error:
                raise RobustSNNError(f"cannot write {str(path)!r}: {error.strerror}.") from error
            written.append(path)
    return written


class NothingToDrawError(RobustSNNError):
    """The results hold no data for this plot."""


PLOTS: dict[str, Callable[..., Figure]] = {
    "accuracy": accuracy_against_eps,
    "gap": gap_against_eps,
    "attacks": attack_comparison,
    "gradient-norms": gradient_norms,
    "energy-ratio": energy_ratio,
    "conversion": conversion_over_time,
}


def _need(found: list[Any], what: str) -> list[Any]:
    if not found:
        raise NothingToDrawError(f"these results hold no {what} to draw.")
    return found


def _unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _panels(count: int, narrow: bool, per_row: int, height: float, share: bool = False) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``count`` panels in rows, all on one y scale; narrow figures are not stretched."""
    columns = min(count, per_row)
    rows = -(-count // columns)
    figure = new_figure(0.45 + height * rows, narrow)
    grid = figure.subplots(rows, columns if narrow else max(columns, min(per_row, 2)), sharey=True, squeeze=False)
    flat = list(grid.ravel())
    for ax in flat[count:]:
        ax.set_axis_off()
    for ax in flat[:count]:
        ax.tick_params(labelleft=_is_first(ax), labelbottom=True)
    return figure, flat[:count]


def _curve(model: Entry, family: str, norm: str, every: list[float]) -> list[tuple[float, Entry]]:
    """Return (eps, rate) of one family, from the clean accuracy at zero."""
    points = [(0.0, model["clean"])] if model["clean"] else []
    key = "random" if family == "noise" else "adversarial"
    for eps in every:
        gap = gap_at(model, eps, norm)
        single = strongest(attacks_at(model, eps, norm, family))
        rate = gap[key] if gap and gap[key] else single["accuracy"] if single else None
        if rate:
            points.append((eps, rate))
    return points if len(points) > bool(model["clean"]) else []


def _band(ax: Axes, x: Sequence[float], rates: Sequence[Entry], look: Look, hollow: bool = False) -> None:
    """Draw rates in percent with their intervals as a band."""
    value, low, high = (100 * np.array([rate[key] for rate in rates]) for key in ("value", "low", "high"))
    ax.fill_between(x, low, high, color=look.colour, alpha=0.16, linewidth=0, zorder=2)
    ax.plot(
        x,
        value,
        color=look.colour,
        marker=look.marker,
        markerfacecolor=PAPER if hollow else look.colour,
        linestyle=(0, (4, 2)) if hollow else "solid",
        zorder=3,
    )


def _eps_axis(ax: Axes, every: Sequence[float], norm: str, start: float | None = None) -> None:
    """Label the budgets on the x axis, in 1/255 where they are multiples of it; crowded labels are left out."""
    ticks = ([] if start is None else [start]) + list(every)
    in_levels = all(format_eps(eps).endswith("/255") for eps in every)
    labels, last = [], -np.inf
    room = (max(ticks) - min(ticks)) * 0.075
    for tick in ticks:
        label = format_eps(tick).removesuffix("/255") if in_levels else format_eps(tick)
        labels.append(label if tick - last >= room else "")
        last = tick if tick - last >= room else last
    ax.set_xticks(ticks, labels)
    ax.set_xlabel(f"ε ({format_norm(norm)}{', in 1/255' if in_levels else ''})")


def _is_first(ax: Axes) -> bool:
    place = ax.get_subplotspec()
    return place is None or place.is_first_col()


def _y_label(panels: Sequence[Axes], text: str) -> None:
    for ax in panels:
        if _is_first(ax):
            ax.set_ylabel(text)


def _title(ax: Axes, text: str, length: int) -> None:
    ax.set_title(shorten(text, length))


def _gradient_rows(results: Results) -> Iterator[tuple[str, Entry, Look]]:
    style = looks(results)
    for model in results["models"]:
        for gradients in model["gradients"]:
            yield f"{shorten(title_of(model), 22)}, {shorten(gradients['rule'], 10)}", gradients, style[model["name"]]


def _row_axis(ax: Axes, labels: list[str], shown: bool = True) -> None:
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.45, -0.55)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0, labelsize=8, labelleft=shown)


def _log_axis(ax: Axes) -> None:
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())


def _distribution(
    ax: Axes, y: int, gradients: Entry, key: str, look: Look, scale: float = 1.0, positive: bool = False
) -> None:
    """Draw one distribution as a row: dots if there are values, else extremes; middle half; median."""
    numbers = [finite(value) for value in gradients["values"].get(key, [])]
    values = scale * np.array([value for value in numbers if value is not None and (value > 0 or not positive)])
    if values.size:
        jitter = np.random.default_rng(0).uniform(-0.27, 0.27, values.size)
        ax.plot(values, y + jitter, "o", markersize=2.2, color=look.colour, alpha=0.3, markeredgewidth=0, zorder=2)
        q25, median, q75 = np.quantile(values, [0.25, 0.5, 0.75])
    elif gradients[key]:
        q25, median, q75, low, high = (
            scale * gradients[key][part] for part in ("q25", "median", "q75", "minimum", "maximum")
        )
        if positive and median <= 0:
            return
        low, q25 = (max(low, q25 if q25 > 0 else median), max(q25, median / 10)) if positive else (low, q25)
        ax.hlines(y, low, high, color=look.colour, linewidth=1.2, zorder=2)
    else:
        return
    ax.barh(y, q75 - q25, left=q25, height=0.34, color=look.colour, alpha=0.55, zorder=3)
    ax.vlines(median, y - 0.27, y + 0.27, color=INK, linewidth=1.8, zorder=4)


def _middle(figure: Any) -> float | None:
    return finite(figure.get("median")) if isinstance(figure, dict) else finite(figure)


def _cell(ax: Axes, left: int, right: int, y: int, share: float, frame: bool) -> None:
    """Draw one value of the heat-map over columns left to right: the higher the accuracy, the deeper the blue."""
    corner, width = (left - 0.47, y - 0.44), right - left + 0.94
    ax.add_patch(Rectangle(corner, width, 0.88, color=SERIES[0], alpha=0.06 + 0.92 * share, linewidth=0))
    if frame:
        ax.add_patch(Rectangle(corner, width, 0.88, fill=False, edgecolor=SERIES[1], linewidth=1.8))
    colour = "#fefefe" if share > 0.8 else INK
    ax.text((left + right) / 2, y, format_percent(share), ha="center", va="center", fontsize=8, color=colour)


def _images(examples: Examples, model: str, kind: str) -> Array:
    array = np.asarray(examples[f"{model}/{kind}"])
    if array.ndim != 4 or not np.issubdtype(array.dtype, np.number):
        raise RobustSNNError(f"example images {model}/{kind} must have shape [K, C, H, W], got {list(array.shape)}.")
    return array.astype(np.float64)


def _largest_change(images: dict[str, Array]) -> float:
    if "adversarial" not in images:
        return 0.0
    count = min(len(images["clean"]), len(images["adversarial"]))
    return float(np.abs(images["adversarial"][:count] - images["clean"][:count]).max())


def _image(ax: Axes, image: Array) -> None:
    """Show an image [C, H, W] in [0, 1]: colour for three channels, else the channels' mean in grey."""
    shown = image.transpose(1, 2, 0) if image.shape[0] == 3 else image.mean(axis=0)
    ax.imshow(np.clip(shown, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="none")


def _class_name(names: Sequence[object] | None, label: int) -> str:
    return shorten(names[label], 9) if names and 0 <= label < len(names) else (str(label) if label >= 0 else MISSING)
