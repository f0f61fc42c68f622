"""Plots of conversions: accuracy over T, accuracy against energy, and the errors of layers by cause."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from robustsnn.conversion.layer_errors import CAUSES, LayerError
from robustsnn.energy import COSTS
from robustsnn.errors import RobustSNNError
from robustsnn.report.formatting import finite, shorten
from robustsnn.report.style import INK, MARKERS, MUTED, SERIES, Look, new_figure, percent_axis, styled

Conversion = Mapping[str, Any]
"""A converted network as in ``conversion.json``: method, limits of the ANN, and points over time."""

_DASHED = (0, (4, 2))
_PREFIXES = ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"), (1e-9, "nJ"), (1e-12, "pJ"))


def accuracy_over_time_figure(conversions: Sequence[Conversion], narrow: bool = False) -> Figure:
    """Return the accuracy of every conversion over its steps, in one axes, with the ANN and the quantised ANN as limits.

    Steps are those that papers report: T and, of corrected networks, the probing steps.

    Args:
        conversions: each with ``method``, ``ann`` and ``quantised`` (rates or None) and ``over_time``, a list of points
            with ``time_steps`` or ``steps``, and the rate ``accuracy`` (``value``, ``low`` and ``high`` in [0, 1]).
        narrow: for a phone.

    Raises:
        RobustSNNError: no conversion has an accuracy.
    """
    shown = _with_looks(
        [c for c in conversions if any(p.get("accuracy") for p in c["over_time"])], "accuracies over time"
    )
    with styled():
        figure = new_figure(3.9 if narrow else 3.6, narrow)
        ax = figure.subplots()
        every: set[int] = set()
        lowest = 100.0
        for name, conversion, look in shown:
            points = sorted((p for p in conversion["over_time"] if p.get("accuracy")), key=_steps)
            x = [_steps(point) for point in points]
            value, low, high = _percentages(points)
            ax.fill_between(x, low, high, color=look.colour, alpha=0.1, linewidth=0, zorder=2)
            ax.plot(x, value, color=look.colour, marker=look.marker, label=name, zorder=3)
            every.update(x)
            lowest = min(lowest, float(value.min()))
        for limit, dashes, name in _limits(conversions):
            ax.axhline(100 * limit, color=INK, linewidth=1.0, linestyle=dashes, label=name, zorder=1.5)
            lowest = min(lowest, 100 * limit)
        _steps_axis(ax, sorted(every))
        percent_axis(ax, low=next(bound for bound in (80.0, 50.0, 0.0) if lowest >= bound))
        ax.set_ylabel("accuracy (%)")
        _legend(figure, ax, narrow)
    return figure


def energy_figure(
    conversions: Sequence[Conversion], ann_energy: Mapping[str, Any] | None = None, narrow: bool = False
) -> Figure:
    """Return accuracy against energy per image, a panel for each cost model, and the ANN as a star.

    The number beside the first point of a curve is that of its steps. Titles give the price of a MAC, and that of what a
    spike does to one output.

    Args:
        conversions: as of `accuracy_over_time_figure`; a point over time with its own ``energy`` (with ``joules`` by the
            names of `COSTS`) is drawn, or the one point of the steps that the ``energy`` of the conversion is of.
        ann_energy: of the ANN, with ``joules``; None for no star.
        narrow: for a phone.

    Raises:
        RobustSNNError: no conversion has both energy and accuracy.
    """
    shown = _with_looks([c for c in conversions if list(_measured(c))], "energies")
    with styled():
        figure = new_figure(6.0 if narrow else 3.6, narrow)
        panels = figure.subplots(len(COSTS) if narrow else 1, 1 if narrow else len(COSTS), sharey=True)
        lowest = min(
            min(float(_percentages(list(_measured(c)))[0].min()) for _, c, _ in shown), *_of_limits(conversions)
        )
        for ax, (model, costs) in zip(panels, COSTS.items()):
            joules = [p["energy"]["joules"][model] for _, c, _ in shown for p in _measured(c)]
            of_ann = finite(ann_energy["joules"][model]) if ann_energy else None
            unit, symbol = next((u, s) for u, s in _PREFIXES if max([*joules, of_ann or 0.0]) >= u or u == 1e-12)
            for name, conversion, look in shown:
                points = sorted(_measured(conversion), key=_steps)
                x = np.array([point["energy"]["joules"][model] for point in points]) / unit
                value, low, high = _percentages(points)
                errors = np.maximum(0, [value - low, high - value])
                ax.errorbar(
                    x, value, yerr=errors, color=look.colour, marker=look.marker, elinewidth=0.9, label=name, zorder=3
                )
                ax.annotate(
                    f"{_steps(points[0])}",
                    (x[0], value[0]),
                    xytext=(5, -8),
                    textcoords="offset points",
                    fontsize=7.5,
                    color=look.colour,
                )
            if of_ann:
                limit = next(iter(_limits(conversions, best_known_first=True)), None)
                ax.axvline(of_ann / unit, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
                if limit:
                    ax.plot(
                        of_ann / unit,
                        100 * limit[0],
                        "*",
                        color=INK,
                        markersize=9,
                        linestyle="none",
                        label="ANN",
                        zorder=4,
                    )
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_xlabel(f"energy per image ({symbol}, log scale)")
            ax.set_title(f"{model}: MAC {costs.mac * 1e12:g} pJ, spike {costs.accumulation * 1e12:g} pJ")
            percent_axis(ax, low=next(bound for bound in (80.0, 50.0, 0.0) if lowest >= bound))
        for ax in panels if narrow else panels[:1]:
            ax.set_ylabel("accuracy (%)")
        _legend(figure, panels[0], narrow)
    return figure


def layer_errors_figure(errors: Mapping[str, Sequence[LayerError]], narrow: bool = False) -> Figure:
    """Return the errors of layers by cause, as shares of the activations' root mean square, a panel for each network.

    Root mean squares of causes do not add up to that of the whole error, for causes may cancel.

    Args:
        errors: from `layer_errors`, by the name of the converted network.
        narrow: for a phone.

    Raises:
        RobustSNNError: there are no errors.
    """
    if not any(errors.values()):
        raise RobustSNNError("there are no layer errors to draw.")
    columns = 1 if narrow else min(len(errors), 3)
    rows = -(-len(errors) // columns)
    with styled():
        figure = new_figure(0.5 + 2.5 * rows, narrow)
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        panels = list(grid.ravel())
        for ax in panels[len(errors) :]:
            ax.set_axis_off()
        for ax, (name, layers) in zip(panels, errors.items()):
            x = np.arange(1, len(layers) + 1)
            whole = np.array([max(layer.rms_activation, 1e-30) for layer in layers])
            ax.bar(
                x,
                100 * np.array([layer.total.rms for layer in layers]) / whole,
                width=0.8,
                color=MUTED,
                alpha=0.25,
                label="whole error",
            )
            for cause, colour, marker in zip(CAUSES, SERIES, MARKERS):
                values = [getattr(layer, cause).rms for layer in layers]
                ax.plot(x, 100 * np.array(values) / whole, color=colour, marker=marker, markersize=3.5, label=cause)
            ax.set_xlim(0.4, len(layers) + 0.6)
            ax.set_xticks(x[:: max(1, len(layers) // 8)])
            ax.set_xlabel("layer of neurons")
            ax.set_title(shorten(name, 44))
        for ax in panels[: len(errors) : columns]:
            ax.set_ylabel("error (% of activation, RMS)")
        panels[0].set_ylim(bottom=0)
        _legend(figure, panels[0], narrow)
    return figure


def _with_looks(conversions: Sequence[Conversion], what: str) -> list[tuple[str, Conversion, Look]]:
    """Each with its name in legends, its method where that is its alone, and its look."""
    if not conversions:
        raise RobustSNNError(f"the conversions hold no {what} to draw.")
    methods = [str(c["method"]) for c in conversions]
    found = []
    for i, conversion in enumerate(conversions):
        name = methods[i] if methods.count(methods[i]) == 1 else f"{conversion.get('model', i + 1)} ({methods[i]})"
        look = Look(SERIES[i % len(SERIES)], MARKERS[(i % len(SERIES) + i // len(SERIES)) % len(MARKERS)])
        found.append((shorten(name, 32), conversion, look))
    return found


def _steps(point: Mapping[str, Any]) -> int:
    return int(point["steps"]["published"] if point.get("steps") else point["time_steps"])


def _percentages(points: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    value, low, high = (100 * np.array([p["accuracy"][key] for p in points]) for key in ("value", "low", "high"))
    return value, low, high


def _limits(conversions: Sequence[Conversion], best_known_first: bool = False) -> Iterator[tuple[float, Any, str]]:
    """Accuracies of the ANN and of its quantised form, with line style and name, each once."""
    kinds = [("ann", "solid", "ANN"), ("quantised", _DASHED, "quantised ANN")]
    for key, dashes, name in reversed(kinds) if best_known_first else kinds:
        for value in dict.fromkeys(c[key]["value"] for c in conversions if c.get(key)):
            yield value, dashes, name


def _of_limits(conversions: Sequence[Conversion]) -> list[float]:
    return [100 * value for value, _, _ in _limits(conversions)] or [100.0]


def _measured(conversion: Conversion) -> Iterator[Mapping[str, Any]]:
    """Points over time with accuracy and energy."""
    whole = conversion.get("energy")
    for point in conversion["over_time"]:
        energy = point.get("energy")
        if not energy and whole:
            computed = point["steps"]["computed"] if point.get("steps") else point["time_steps"]
            energy = whole if computed == whole["time_steps"] else None
        if energy and point.get("accuracy"):
            yield {**point, "energy": energy}


def _steps_axis(ax: Axes, steps: Sequence[int]) -> None:
    """Label the steps on a log scale; labels that would touch their neighbours are left out."""
    ax.set_xscale("log", base=2)
    labels, last = [], 0.0
    for step in steps:
        labels.append(f"{step:g}" if step >= 1.3 * last else "")
        last = step if labels[-1] else last
    ax.set_xticks(list(steps), labels)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("time steps, probing included")


def _legend(figure: Figure, ax: Axes, narrow: bool) -> None:
    handles, labels = ax.get_legend_handles_labels()
    unique: dict[str, Any] = {}
    for handle, label in zip(handles, labels):
        unique.setdefault(label, handle)
    figure.legend(unique.values(), unique.keys(), loc="outside upper left", ncols=2 if narrow else 6, columnspacing=1.4)
