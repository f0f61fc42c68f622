"""The plots of a suite of conversions: what withstands what, accuracy over T, accuracy against energy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from matplotlib.figure import Figure

from robustsnn.report.conversion_plots import accuracy_over_time_figure, energy_figure
from robustsnn.report.conversions import Entry, Suite, figures_at, measured_rows
from robustsnn.report.dots import dot, handle, label_rows
from robustsnn.report.formatting import format_eps, format_norm, shorten
from robustsnn.report.style import GRID, INK, SERIES, new_figure, styled

_LOOKS = (
    ("clean", INK, "|", False),
    ("noise", SERIES[0], "s", True),
    ("transfer", SERIES[2], "^", True),
    ("worst", SERIES[1], "o", False),
)
_NAMES = {"noise": "noise", "transfer": "examples of the ANN", "worst": "worst case over all", "clean": "clean"}


def conversion_suite_figures(suite: Suite, narrow: bool = False) -> Iterator[tuple[str, Figure]]:
    """Name and figure of every plot that the suite has the data for, in reading order.

    Args:
        suite: the contents of ``conversions.json``.
        narrow: for a narrow page.
    """
    rows = measured_rows(suite)
    if not rows:
        return
    for eps in suite["eps"]:
        yield f"conversions-{format_eps(eps).replace('/', '-')}", accuracies(suite, eps, narrow)
    limits = {"ann": _clean(rows, suite["reference"]), "quantised": None}
    spiking = [row for row in rows if row["over_time"]]
    if spiking:
        shown = [{"method": row["title"], "over_time": row["over_time"]} | limits for row in spiking]
        yield "over-time", accuracy_over_time_figure(shown, narrow)
        ann = next((row for row in rows if row["name"] == suite["reference"]), None)
        spent = [_spent(row) | limits for row in spiking]
        yield "energy", energy_figure(spent, _energy(ann) if ann else None, narrow)


def accuracies(suite: Suite, eps: float, narrow: bool = False) -> Figure:
    """A row for each network: clean, noise, transferred examples and worst case with their intervals."""
    rows = measured_rows(suite)
    with styled():
        figure = new_figure(1.1 + 0.42 * len(rows), narrow)
        ax = figure.subplots()
        for y, row in enumerate(rows):
            here = figures_at(row, eps) | {"clean": row["clean"]}
            ax.axhline(y + 0.5, color=GRID, linewidth=0.5, zorder=1)
            for i, (name, colour, marker, hollow) in enumerate(_LOOKS):
                if here[name]:
                    dot(ax, here[name], y - 0.3 + 0.2 * i, colour, marker, hollow)
        label_rows(ax, [shorten(row["title"], 22 if narrow else 34) for row in rows])
        ax.set_xlim(-2, 102)
        ax.set_xlabel(f"accuracy (%), ε = {format_eps(eps)}, {format_norm(suite['norm'])}")
        handles = [handle(_NAMES[name], colour, marker, hollow) for name, colour, marker, hollow in reversed(_LOOKS)]
        figure.legend(handles=handles, loc="outside upper left", ncols=2 if narrow else 4, columnspacing=1.4)
    return figure


def _clean(rows: list[Entry], name: str) -> Entry | None:
    return next((row["clean"] for row in rows if row["name"] == name), None)


def _energy(row: Entry) -> dict[str, Any]:
    return {"joules": {name: figure["mean"] for name, figure in row["energy"]["joules"].items()}}


def _spent(row: Entry) -> dict[str, Any]:
    """One point: clean accuracy and energy at the model's own T."""
    point = {
        "time_steps": row["steps"]["counted"],
        "steps": row["steps"],
        "accuracy": row["clean"],
        "energy": _energy(row),
    }
    return {"method": row["title"], "over_time": [point]}
