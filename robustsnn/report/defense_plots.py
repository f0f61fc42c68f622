"""The plots of a suite of defenses: what robustness costs, how far noise and attack lie apart, SR's sweep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from robustsnn.report.defenses import Entry, Suite, at, l1_of, measured
from robustsnn.report.dots import dot, errors_of, handle, label_rows
from robustsnn.report.formatting import format_eps, format_norm, shorten
from robustsnn.report.style import GRID, INK, MUTED, SERIES, new_figure, percent_axis, styled

_FAMILIES = (
    ("SR", SERIES[0], "o"),
    ("adversarial examples in training", SERIES[1], "s"),
    ("both", SERIES[2], "D"),
    ("other", SERIES[3], "^"),
)
_CRAFTING = ("AT(", "RAT(", "MART(", "TRADES(", "HIRE(", "DLIF(")


def suite_figures(suite: Suite, narrow: bool = False) -> Iterator[tuple[str, Figure]]:
    """Name and figure of every plot that the suite has the data for, in reading order.

    Args:
        suite: the contents of ``defenses.json``.
        narrow: for a narrow page.
    """
    if not measured(suite) or not suite["attacks"]:
        return
    for eps in suite["eps"]:
        name = format_eps(eps).replace("/", "-")
        yield f"defenses-{name}", accuracies(suite, eps, narrow)
        yield f"tradeoff-{name}", tradeoff(suite, eps, narrow)
    if len(swept(suite)) > 1:
        yield "sweep", sweep(suite, narrow)


def swept(suite: Suite) -> list[Entry]:
    """The defenses of SR's sweep in order of their weight."""
    return sorted((d for d in measured(suite) if d["sweep"]), key=lambda d: float(d["sweep"]))


def accuracies(suite: Suite, eps: float, narrow: bool = False) -> Figure:
    """A row for each defense: clean, noise and worst case with their intervals."""
    defenses = measured(suite)
    with styled():
        figure = new_figure(1.1 + 0.34 * len(defenses), narrow)
        ax = figure.subplots()
        for y, defense in enumerate(defenses):
            here = at(defense, eps)
            ax.axhline(y + 0.5, color=GRID, linewidth=0.5, zorder=1)
            for offset, rate, colour, marker, hollow in (
                (-0.24, defense["clean"], INK, "|", False),
                (0.0, here["noise"], SERIES[0], "s", True),
                (0.24, here["worst"], SERIES[1], "o", False),
            ):
                if rate:
                    dot(ax, rate, y + offset, colour, marker, hollow)
        label_rows(ax, [shorten(defense["title"], 22 if narrow else 34) for defense in defenses])
        ax.set_xlim(-2, 102)
        ax.set_xlabel(f"accuracy (%), ε = {format_eps(eps)}, {format_norm(suite['norm'])}")
        handles = [
            handle("worst case over all attacks", SERIES[1], "o"),
            handle("noise", SERIES[0], "s", hollow=True),
            handle("clean", INK, "|"),
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=1 if narrow else 3, columnspacing=1.4)
    return figure


def tradeoff(suite: Suite, eps: float, narrow: bool = False) -> Figure:
    """Worst-case accuracy against clean accuracy, a point for each defense with its intervals, numbered as in the legend."""
    defenses = measured(suite)
    with styled():
        figure = new_figure(3.6 + 0.24 * len(defenses) if narrow else 4.6, narrow)
        ax, legend = (
            figure.subplots(2, 1, height_ratios=[3.2, 0.24 * len(defenses) + 0.2])
            if narrow
            else figure.subplots(1, 2, width_ratios=[3, 1.5])
        )
        for number, defense in enumerate(defenses, 1):
            clean, worst = defense["clean"], at(defense, eps)["worst"]
            _, colour, marker = family(defense)
            x, y = 100 * clean["value"], 100 * worst["value"]
            ax.errorbar(
                x, y, xerr=errors_of(clean), yerr=errors_of(worst), color=colour, elinewidth=0.7, alpha=0.4, zorder=2
            )
            ax.plot(x, y, color=colour, marker=marker, markersize=5, zorder=3)
            ax.annotate(str(number), (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8, color=INK, zorder=4)
        ax.set_xlabel("clean accuracy (%)")
        ax.set_ylabel("worst-case accuracy (%)")
        ax.set_title(f"ε = {format_eps(eps)}, {format_norm(suite['norm'])}")
        _numbers(legend, defenses)
        shown = [entry for entry in _FAMILIES if any(family(d) == entry for d in defenses)]
        handles = [handle(name, colour, marker) for name, colour, marker in shown]
        figure.legend(handles=handles, loc="outside upper left", ncols=1 if narrow else 4, columnspacing=1.4)
    return figure


def sweep(suite: Suite, narrow: bool = False) -> Figure:
    """Accuracies and the gradient's norm against the weight of SR; the reference as horizontal lines."""
    entries = swept(suite)
    reference = next((d for d in measured(suite) if d["name"] == suite["reference"]), None)
    weights = [float(entry["sweep"]) for entry in entries]
    with styled():
        figure = new_figure(5.6 if narrow else 3.4, narrow)
        left, right = figure.subplots(2, 1) if narrow else figure.subplots(1, 2)
        curves: list[tuple[str, Any, str]] = [("clean", lambda d: d["clean"], INK)]
        for i, eps in enumerate(suite["eps"]):
            label = f"worst case, ε = {format_eps(eps)}"
            curves.append((label, lambda d, eps=eps: at(d, eps)["worst"], SERIES[(1 + i) % len(SERIES)]))
        for label, of, colour in curves:
            _curve(left, weights, [of(entry) for entry in entries], colour, label, 100.0)
            if reference:
                left.axhline(100 * of(reference)["value"], color=colour, linewidth=0.9, linestyle=(0, (1, 2)))
        percent_axis(left)
        left.set_ylabel("accuracy (%)")
        norms = [l1_of(entry) for entry in entries]
        if all(norms):
            _curve(right, weights, [norm for norm in norms if norm], SERIES[0], "‖g‖₁", 1.0)
        if reference and (norm := l1_of(reference)):
            right.axhline(norm["value"], color=SERIES[0], linewidth=0.9, linestyle=(0, (1, 2)))
        right.set_ylim(bottom=0)
        right.set_ylabel("‖g‖₁")
        for ax in (left, right):
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(FixedLocator(weights))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_xticklabels([f"{weight:g}" for weight in weights], rotation=35, ha="right")
            ax.set_xlabel("λ of SR, log scale")
        handles = [handle(label, colour, "o") for label, _, colour in curves]
        handles.append(Line2D([], [], color=MUTED, linestyle=(0, (1, 2)), linewidth=0.9, label=suite["reference"]))
        figure.legend(handles=handles, loc="outside upper left", ncols=1 if narrow else 4, columnspacing=1.4)
    return figure


def family(defense: Entry) -> tuple[str, str, str]:
    """Name, colour and marker of the kind of a defense, by its objective."""
    text = str(defense.get("objective") or "")
    parts = [part.strip() for part in text.split(" + ")]
    sparse = any(part.startswith("SR(") for part in parts)
    crafted = any(part.startswith(_CRAFTING) for part in parts)
    return _FAMILIES[2 if sparse and crafted else 0 if sparse else 1 if crafted else 3]


def _curve(ax: Axes, x: Sequence[float], figures: Sequence[Entry], colour: str, label: str, scale: float) -> None:
    value, low, high = ([scale * figure[key] for figure in figures] for key in ("value", "low", "high"))
    ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    ax.plot(x, value, color=colour, marker="o", label=label)


def _numbers(ax: Axes, defenses: list[Entry]) -> None:
    """The names behind the numbers, in place of an axes."""
    ax.set_axis_off()
    ax.set_ylim(len(defenses), 0)
    ax.set_xlim(0, 1)
    for number, defense in enumerate(defenses, 1):
        ax.text(0.08, number - 0.5, str(number), ha="right", va="center", fontsize=8, color=MUTED)
        ax.text(0.12, number - 0.5, shorten(defense["title"], 34), va="center", fontsize=8, color=INK)
