"""What converting an ANN gave: accuracy over T, latency and energy, in the terminal, as Markdown and as plots."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.text import Text

from robustsnn.conversion.layer_errors import CAUSES, ErrorPart, LayerError
from robustsnn.files import write_atomic
from robustsnn.report.conversion_plots import accuracy_over_time_figure, energy_figure, layer_errors_figure
from robustsnn.report.formatting import (
    MISSING,
    format_count,
    format_interval,
    format_number,
    format_percent,
    format_seconds,
    format_significant,
    plain,
)
from robustsnn.report.grids import grid, load_document, markdown_grid
from robustsnn.report.style import png, svg

Study = dict[str, Any]
Entry = dict[str, Any]
FILE = "conversion.json"
SCHEMA_VERSION = 1
_WIDE = 120
_ONLY_WIDE = ("in step", "computed", "MACs", "conversion")
COSTS = (("neuromorphic", "nJ, A"), ("cmos-45nm", "nJ, B"))
"""Cost models and the headers of their columns."""
ABOUT_COSTS = (
    "A: 12.5 pJ a multiply-accumulate, 77 fJ a synaptic operation (hardware made for each); "
    "B: 4.6 pJ a multiply-accumulate, 0.9 pJ an accumulation (45 nm CMOS)"
)


def is_study(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds the results of `robustsnn convert`."""
    return (Path(folder) / FILE).is_file()


def load_study(folder: str | os.PathLike[str]) -> Study:
    """The contents of ``conversion.json``.

    Raises:
        RobustSNNError: it cannot be read, is of a newer version, or was not written by robustsnn.
    """
    wanted = {"conversions", "ann_energy", "source"}
    return load_document(Path(folder) / FILE, SCHEMA_VERSION, lambda document: wanted <= document.keys())


def save_study(folder: Path, study: Study) -> None:
    """Write ``conversion.json``."""
    write_atomic(folder / FILE, json.dumps(study, indent=2, allow_nan=False))


def print_study(study: Study, console: Console) -> None:
    """Print accuracy over T, what each conversion takes, and of a single one the errors of its layers."""
    title, headers, rows = accuracies(study)
    console.print(grid(title, headers, [[cell.partition(" [")[0] for cell in row] for row in rows]))
    console.print()
    title, headers, rows = costs(study)
    shown = [i for i, header in enumerate(headers) if console.width >= _WIDE or header not in _ONLY_WIDE]
    console.print(grid(title, [headers[i] for i in shown], [[row[i] for i in shown] for row in rows]))
    console.print(Text(ABOUT_COSTS, style="dim"))
    if len(study["conversions"]) == 1:
        console.print()
        console.print(grid(*errors(study)))


def markdown(study: Study) -> str:
    """All tables as Markdown; accuracies with their intervals."""
    lines = [f"# {plain(study['source'])}, converted", "", explanation(study)]
    for title, headers, rows in (accuracies(study), costs(study), errors(study)):
        lines += ["", f"## {title}", "", *markdown_grid(headers, rows)]
    return "\n".join([*lines, "", f"{ABOUT_COSTS}.", ""])


def explanation(study: Study) -> str:
    """What the figures are, in a few sentences."""
    data = study["dataset"]
    return (
        f"Measured on the first {format_count(data['n_evaluated'])} test images of {plain(data['name'])}; 95 % Wilson intervals. "
        "ANN: what accuracy tends to for large T; of a QCFS network this is the network with unquantised, clipped activations, "
        "and quantised is the network as it was trained. T counts the steps that reach the readout; published adds the probing "
        "steps of a correction, in step is the delay on a device that runs all layers in step, computed is what every neuron is "
        f"simulated for, and what the energy of T = {study['time_steps']} counts."
    )


def write_study(folder: str | os.PathLike[str]) -> Path:
    """Write ``conversion.md`` and the plots of a folder of `robustsnn convert`.

    Returns:
        the path of the Markdown file.

    Raises:
        RobustSNNError: as `load_study`, or the folder cannot be written.
    """
    folder, study = Path(folder), load_study(folder)
    (folder / "plots").mkdir(exist_ok=True)
    for name, figure in figures(study):
        write_atomic(folder / "plots" / f"{name}.png", png(figure))
        write_atomic(folder / "plots" / f"{name}.svg", svg(figure, name))
    write_atomic(folder / "conversion.md", markdown(study))
    return folder / "conversion.md"


def accuracies(study: Study) -> tuple[str, list[str], list[list[str]]]:
    """Title, headers and rows: accuracy of every conversion over T, its limits first."""
    found = study["conversions"]
    steps = sorted({int(point["time_steps"]) for entry in found for point in entry["over_time"]})
    rows = []
    for entry in found:
        at = {int(point["time_steps"]): point["accuracy"] for point in entry["over_time"]}
        rates = [entry["ann"], entry["quantised"], *(at.get(t) for t in steps)]
        rows.append([plain(entry["method"]), *map(_rate, rates), format_count(entry["ann"]["n"])])
    headers = ["method", "ANN", "quantised", *(f"T={t}" for t in steps), "n"]
    return "Accuracy (%) over time steps T", headers, rows


def costs(study: Study) -> tuple[str, list[str], list[list[str]]]:
    """Title, headers and rows: what the ANN and every conversion take at the model's T."""
    headers = ["network", "T", "published", "in step", "computed", "ms", "SynOps", "MACs"]
    headers += [header for _, header in COSTS] + ["conversion"]
    rows = [["ANN", *[MISSING] * 5, *_used(study["ann_energy"]), MISSING]]
    for entry in study["conversions"]:
        steps = entry["steps"]
        here = next(p for p in entry["over_time"] if p["time_steps"] == steps["counted"])
        latency = [str(steps[name]) for name in ("counted", "published", "pipelined", "computed")]
        wall = format_number(here["ms_per_image"], 2)
        rows.append([plain(entry["method"]), *latency, wall, *_used(entry["energy"]), format_seconds(entry["seconds"])])
    return "Per image: steps, time, operations and energy", headers, rows


def errors(study: Study) -> tuple[str, list[str], list[list[str]]]:
    """Title, headers and rows: root mean square errors of layers by cause, in percent of the activations'."""
    rows = []
    for entry in study["conversions"]:
        for layer in entry["layers"]:
            whole = max(layer["rms_activation"], 1e-30)
            shares = (format_percent(layer[cause]["rms"] / whole) for cause in ("total", *CAUSES))
            rows.append([plain(entry["method"]), plain(layer["name"]), *shares])
    headers = ["method", "layer", "whole", *CAUSES]
    return f"Error of layers at T = {study['time_steps']} (RMS, % of the activations')", headers, rows


def figures(study: Study) -> Iterator[tuple[str, Figure]]:
    """Name and figure of every plot."""
    found = study["conversions"]
    yield "accuracy", accuracy_over_time_figure(found)
    yield "energy", energy_figure(found, study["ann_energy"])
    layers = {plain(entry["method"]): [_layer(layer) for layer in entry["layers"]] for entry in found}
    yield "layer-errors", layer_errors_figure(layers)


def _layer(layer: Entry) -> LayerError:
    parts = {name: ErrorPart(**layer[name]) for name in ("total", *CAUSES)}
    return LayerError(layer["name"], layer["rms_activation"], **parts)


def _used(energy: Entry) -> list[str]:
    joules = [format_significant(1e9 * energy["joules"][name]) for name, _ in COSTS]
    return [format_count(energy["synaptic_operations"]), format_count(energy["macs"]), *joules]


def _rate(rate: Entry | None) -> str:
    return f"{format_percent(rate['value'])} {format_interval(rate)}" if rate else MISSING
