"""The table of conversions: read, printed in the terminal, written as Markdown, as a page and as plots."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from robustsnn.files import write_atomic
from robustsnn.report.conversion_report import ABOUT_COSTS, COSTS
from robustsnn.report.formatting import (
    MISSING,
    format_count,
    format_eps,
    format_interval,
    format_norm,
    format_number,
    format_percent,
    format_significant,
    plain,
    shorten,
)
from robustsnn.report.grids import grid, load_document, markdown_grid

Suite = dict[str, Any]
Entry = dict[str, Any]
FILE = "conversions.json"
SCHEMA_VERSION = 1
COST_HEADERS = ("T", "published", "ms", "SynOps", *(header for _, header in COSTS))


def is_conversion_suite(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds the results of a suite of conversions."""
    return (Path(folder) / FILE).is_file()


def load_conversion_suite(folder: str | os.PathLike[str]) -> Suite:
    """The contents of ``conversions.json``.

    Raises:
        RobustSNNError: it cannot be read, is of a newer version, or was not written by a suite of conversions.
    """
    return load_document(Path(folder) / FILE, SCHEMA_VERSION, lambda found: found.get("suite") == "conversions")


def measured_rows(suite: Suite) -> list[Entry]:
    """The rows that have at least one finished run."""
    return [row for row in suite["conversions"] if row["seeds"]]


def figures_at(row: Entry, eps: float) -> Entry:
    """A row's figures at one radius."""
    found: Entry = next(entry for entry in row["at"] if abs(entry["eps"] - eps) < 1e-12)
    return found


def rate_headers(suite: Suite) -> list[str]:
    """Headers of the accuracies of the table, in its order."""
    return ["clean", "noise", *suite["attacks"], "transfer", "worst"]


def rates_of(suite: Suite, row: Entry, eps: float) -> list[Entry | None]:
    """The accuracies under `rate_headers`."""
    here = figures_at(row, eps)
    attacks = (here["attacks"][name] for name in suite["attacks"])
    return [row["clean"], here["noise"], *attacks, here["transfer"], here["worst"]]


def costs_of(row: Entry) -> list[str]:
    """What a row takes, under `COST_HEADERS`."""
    steps, used = row["steps"], row["energy"]
    joules = [format_significant(1e9 * used["joules"][name]["mean"]) for name, _ in COSTS]
    if row["kind"] == "ann":
        steps = {"counted": MISSING, "published": MISSING}
    return [
        str(steps["counted"]),
        str(steps["published"]),
        format_number(row["ms_per_image"]["mean"], 2),
        format_count(used["synaptic_operations"]["mean"]),
        *joules,
    ]


def print_conversion_suite(suite: Suite, console: Console) -> None:
    """Print a table for every radius, what all takes, what failed and what is missing."""
    if not suite["complete"]:
        console.print(Text("This suite is not complete: run it again to go on.", style="bold yellow"))
    for eps in suite["eps"]:
        title = f"Conversions, accuracy (%) at ε = {format_eps(eps)}, {format_norm(suite['norm'])}"
        headers = ["network", *rate_headers(suite), "worst: 95 %"]
        rows = []
        for row in measured_rows(suite):
            cells = [format_percent(rate["value"]) if rate else MISSING for rate in rates_of(suite, row, eps)]
            rows.append([shorten(row["title"], 30), *cells, format_interval(figures_at(row, eps)["worst"])])
        console.print()
        console.print(grid(title, headers, rows))
    console.print()
    taken = [[shorten(row["title"], 30), *costs_of(row)] for row in measured_rows(suite)]
    console.print(grid("Per image: steps, milliseconds, operations and energy", ["network", *COST_HEADERS], taken))
    console.print(Text(ABOUT_COSTS, style="dim"))
    for line in conversion_problems(suite):
        console.print(Text(line, style="yellow"))


def conversion_markdown(suite: Suite) -> str:
    """The tables as Markdown, with their intervals and what they mean."""
    lines = [f"# Conversions on {plain(suite['dataset']['name'])}", "", explain(suite)]
    for eps in suite["eps"]:
        rows = []
        for row in measured_rows(suite):
            cells = [plain(row["title"]), *(_with_interval(rate) for rate in rates_of(suite, row, eps))]
            rows.append([*cells, *costs_of(row), str(len(row["seeds"]))])
        headers = ["network", *rate_headers(suite), *COST_HEADERS, "seeds"]
        lines += ["", f"## ε = {format_eps(eps)} ({format_norm(suite['norm'])})", "", *markdown_grid(headers, rows)]
    steps = sorted({point["time_steps"] for row in measured_rows(suite) for point in row["over_time"]})
    rows = []
    for row in measured_rows(suite):
        at = {point["time_steps"]: point["accuracy"] for point in row["over_time"]}
        if at:
            rows.append([plain(row["title"]), *(_with_interval(at.get(t)) for t in steps)])
    headers = ["network", *(f"T = {t}" for t in steps)]
    lines += ["", "## Clean accuracy over T (mean and range of seeds)", "", *markdown_grid(headers, rows)]
    lines += ["", f"{ABOUT_COSTS}.", "", *(f"* {line}" for line in conversion_problems(suite))]
    return "\n".join(lines).rstrip() + "\n"


def explain(suite: Suite) -> str:
    """What the figures are, in a few sentences."""
    data, runs, model = suite["dataset"], suite["config"]["seeds"], suite["config"]["model"]
    reference = next(row["title"] for row in suite["conversions"] if row["name"] == suite["reference"])
    return (
        f"All networks are the same {plain(model.get('architecture', 'cnn'))}, trained for the same number of epochs on the same "
        f"{format_count(data['n_train'])} images of {plain(data['name'])} with {len(runs)} seed{'s' if len(runs) > 1 else ''}; "
        f"conversions take the ANNs of these trainings. Attacks on the first {format_count(data['n_evaluated'])} test images. "
        "Accuracies in percent, means over seeds and images with 95 % intervals that count both. Noise: the most harmful kind. "
        "An attack's accuracy is that of the images that withstand it through every gradient rule; ANNs have their own gradient "
        f"only. Transfer: {plain(suite['transfer'])} on the ANN that was converted (for the others on {plain(reference)}), its "
        "examples shown to the network. Worst: images that withstand everything. T: steps that reach the readout; published "
        "adds the probing steps of a correction. ms: wall clock per image in a batch of up to 64. Energy counts probing steps."
    )


def conversion_problems(suite: Suite) -> list[str]:
    """Trainings that failed, rows without a run, and evaluations that the checks do not trust."""
    found = []
    for row in suite["conversions"]:
        title = plain(row["title"])
        found += [f"{title}, seed {entry['seed']}: {plain(entry['error'])}" for entry in row["failed"]]
        if not row["seeds"]:
            found.append(f"{title}: no finished run")
            continue
        bad = [c["verdict"] for c in row["checks"] if c["verdict"] in ("doubtful", "unreliable")]
        if bad:
            kinds = " and ".join(sorted(set(bad)))
            found.append(f"{title}: the checks call {len(bad)} of {len(row['checks'])} evaluations {kinds}")
    return found


def write_conversion_suite(folder: str | os.PathLike[str]) -> Path:
    """Write ``conversions.md``, ``conversions.html`` and the plots of a suite's folder.

    Returns:
        the path of the page.

    Raises:
        RobustSNNError: as `load_conversion_suite`, or the folder cannot be written.
    """
    from robustsnn.report.conversion_page import render_conversion_suite
    from robustsnn.report.conversion_suite_plots import conversion_suite_figures
    from robustsnn.report.style import png, svg

    folder, suite = Path(folder), load_conversion_suite(folder)
    write_atomic(folder / "conversions.md", conversion_markdown(suite))
    (folder / "plots").mkdir(exist_ok=True)
    for name, figure in conversion_suite_figures(suite):
        write_atomic(folder / "plots" / f"{name}.png", png(figure))
        write_atomic(folder / "plots" / f"{name}.svg", svg(figure, name))
    page = folder / "conversions.html"
    write_atomic(page, render_conversion_suite(suite))
    return page


def _with_interval(rate: Entry | None) -> str:
    return f"{format_percent(rate['value'])} {format_interval(rate)}" if rate else MISSING
