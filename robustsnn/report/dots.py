"""Rows of dots with intervals: how suites draw their accuracies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from robustsnn.report.style import PAPER

Entry = Mapping[str, Any]


def dot(ax: Axes, rate: Entry, y: float, colour: str, marker: str, hollow: bool) -> None:
    """Draw a rate at a height, with its interval; ``hollow`` leaves the marker's inside white."""
    ax.errorbar(
        100 * rate["value"],
        y,
        xerr=errors_of(rate),
        color=colour,
        marker=marker,
        markersize=6 if marker == "|" else 4.0,
        markeredgewidth=1.6 if marker == "|" else 1.0,
        markerfacecolor=PAPER if hollow else colour,
        elinewidth=0.9,
        linestyle="none",
        zorder=3,
    )


def errors_of(rate: Entry) -> list[list[float]]:
    """What error bars take for a rate, in percent."""
    return [[max(0.0, 100 * (rate["value"] - rate["low"]))], [max(0.0, 100 * (rate["high"] - rate["value"]))]]


def label_rows(ax: Axes, labels: list[str]) -> None:
    """One line a label on the y axis, from the top."""
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)


def handle(label: str, colour: str, marker: str, hollow: bool = False) -> Line2D:
    """The entry of a legend for `dot`."""
    return Line2D(
        [],
        [],
        linestyle="none",
        color=colour,
        marker=marker,
        markersize=8 if marker == "|" else 4.5,
        markeredgewidth=1.6 if marker == "|" else 1.0,
        markerfacecolor=PAPER if hollow else colour,
        label=label,
    )
