"""The table of defenses: read, printed in the terminal, written as Markdown, as a page and as plots."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from robustsnn.files import write_atomic
from robustsnn.report.formatting import (
    MISSING,
    format_eps,
    format_interval,
    format_norm,
    format_number,
    format_percent,
    format_significant,
    plain,
    shorten,
)
from robustsnn.report.grids import load_document, markdown_row

Suite = dict[str, Any]
Entry = dict[str, Any]
FILE = "defenses.json"
SCHEMA_VERSION = 1
_HEADERS = ("gap", "‖g‖₁", "time")


def is_suite(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds the results of a suite of defenses."""
    return (Path(folder) / FILE).is_file()


def load_suite(folder: str | os.PathLike[str]) -> Suite:
    """The contents of ``defenses.json``.

    Raises:
        RobustSNNError: it cannot be read, is of a newer version, or lacks what a report needs.
    """
    return load_document(Path(folder) / FILE, SCHEMA_VERSION, lambda found: found.get("suite") == "defenses")


def measured(suite: Suite) -> list[Entry]:
    """The defenses that have at least one finished run."""
    return [defense for defense in suite["defenses"] if defense["seeds"]]


def at(defense: Entry, eps: float) -> Entry:
    """A defense's figures at one radius."""
    return next(entry for entry in defense["at"] if abs(entry["eps"] - eps) < 1e-12)


def l1_of(defense: Entry) -> Entry | None:
    """The norm of the input gradient through the first rule; None where it was not measured."""
    return defense["gradients"][0]["l1"] if defense["gradients"] else None


def columns(suite: Suite) -> list[str]:
    """Headers of the accuracies of the table, in its order."""
    return ["clean", "noise", *suite["attacks"], *(["worst"] if len(suite["attacks"]) > 1 else [])]


def rates(suite: Suite, defense: Entry, eps: float) -> list[Entry | None]:
    """The accuracies under `columns`."""
    here = at(defense, eps)
    found = [defense["clean"], here["noise"], *(here["attacks"][name] for name in suite["attacks"])]
    return [*found, here["worst"]] if len(suite["attacks"]) > 1 else found


def print_suite(suite: Suite, console: Console) -> None:
    """Print a table for every radius, what failed and what is missing."""
    if not suite["complete"]:
        console.print(Text("This suite is not complete: run it again to go on.", style="bold yellow"))
    for eps in suite["eps"]:
        console.print()
        console.print(_table(suite, eps, wide=console.width >= 105))
    for line in problems(suite):
        console.print(Text(line, style="yellow"))


def markdown(suite: Suite) -> str:
    """The tables as Markdown, with their intervals and what they mean."""
    lines = [f"Defenses on {plain(suite['dataset']['name'])}", ""]
    lines = [f"# {lines[0]}", "", explanation(suite)]
    for eps in suite["eps"]:
        headers = ["defense", *columns(suite), "gap", "‖g‖₁", "time", "seeds"]
        lines += ["", f"## ε = {format_eps(eps)} ({format_norm(suite['norm'])})", "", markdown_row(headers)]
        lines.append(markdown_row(["---"] * len(headers)))
        for defense in measured(suite):
            cells = [plain(defense["title"]), *(_with_interval(rate) for rate in rates(suite, defense, eps))]
            here, l1 = at(defense, eps), l1_of(defense)
            cells.append(_with_interval(here["gap"]))
            cells.append(f"{format_significant(l1['value'])} {_plain_interval(l1)}" if l1 else MISSING)
            cells += [_times(defense), str(len(defense["seeds"]))]
            lines.append(markdown_row(cells))
    lines += ["", *(f"* {line}" for line in problems(suite))]
    return "\n".join(lines).rstrip() + "\n"


def explanation(suite: Suite) -> str:
    """What the figures are, in a few sentences."""
    data, runs = suite["dataset"], suite["config"]["seeds"]
    model = suite["config"]["model"]
    network = f"{model.get('architecture', 'cnn')}, T = {model.get('time_steps', 8)}"
    return (
        f"Every defense trains the same network ({network}) on the same {data['n_train']} images of {plain(data['name'])} for "
        f"the same number of epochs, with {len(runs)} seed{'s' if len(runs) > 1 else ''}; attacks on the first "
        f"{data['n_evaluated']} test images. Accuracies in percent, "
        "means over seeds and images with 95 % intervals that count both. Noise: the most harmful kind. An attack's accuracy "
        "is that of the images that withstand it through every gradient rule; worst: those that withstand everything. Gap: "
        "noise minus worst, in points. ‖g‖₁: of the gradient of the true class's probability. Time: of training, relative to "
        f"{plain(suite['reference'])}."
    )


def problems(suite: Suite) -> list[str]:
    """Trainings that failed, and evaluations that the checks do not trust."""
    found = []
    for defense in suite["defenses"]:
        title = plain(defense["title"])
        found += [f"{title}, seed {entry['seed']}: {plain(entry['error'])}" for entry in defense["failed"]]
        if not defense["seeds"]:
            found.append(f"{title}: no finished run")
            continue
        verdicts = [check["verdict"] for check in defense["checks"]]
        bad = [verdict for verdict in verdicts if verdict in ("doubtful", "unreliable")]
        if bad:
            kinds = " and ".join(sorted(set(bad)))
            found.append(f"{title}: the checks call {len(bad)} of {len(verdicts)} evaluations {kinds}")
    return found


def write_suite(folder: str | os.PathLike[str]) -> Path:
    """Write ``defenses.md``, ``defenses.html`` and the plots of a suite's folder.

    Returns:
        the path of the page.

    Raises:
        RobustSNNError: as `load_suite`, or the folder cannot be written.
    """
    from robustsnn.report.defense_page import render_suite
    from robustsnn.report.defense_plots import suite_figures
    from robustsnn.report.style import png, svg

    folder, suite = Path(folder), load_suite(folder)
    write_atomic(folder / "defenses.md", markdown(suite))
    (folder / "plots").mkdir(exist_ok=True)
    for name, figure in suite_figures(suite):
        write_atomic(folder / "plots" / f"{name}.png", png(figure))
        write_atomic(folder / "plots" / f"{name}.svg", svg(figure, name))
    page = folder / "defenses.html"
    write_atomic(page, render_suite(suite))
    return page


def _table(suite: Suite, eps: float, wide: bool) -> Table:
    """One table; the interval of the worst case only where there is room."""
    table = Table(
        title=f"Defenses, accuracy (%) at ε = {format_eps(eps)}, {format_norm(suite['norm'])}",
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2 if wide else 1, 0, 0),
    )
    table.add_column("defense", overflow="fold", min_width=14)
    interval = ["worst: 95 %"] if wide else []
    for header in (*columns(suite), *interval, *_HEADERS, "seeds"):
        table.add_column(header, justify="right", no_wrap=True)
    for defense in measured(suite):
        here, l1 = at(defense, eps), l1_of(defense)
        gap = here["gap"]
        table.add_row(
            Text(shorten(defense["title"], 40)),
            *(format_percent(rate["value"]) if rate else MISSING for rate in rates(suite, defense, eps)),
            *([format_interval(here["worst"])] if wide else []),
            format_percent(gap["value"]) if gap else MISSING,
            format_significant(l1["value"]) if l1 else MISSING,
            _times(defense),
            str(len(defense["seeds"])),
        )
    table.caption = "worst: images that withstand every attack; gap: noise minus worst; time: of training, relative"
    return table


def _times(defense: Entry) -> str:
    found = defense["relative_time"]
    return f"{format_number(found['mean'], 2)}×" if found else MISSING


def _with_interval(rate: Entry | None) -> str:
    return f"{format_percent(rate['value'])} {format_interval(rate)}" if rate else MISSING


def _plain_interval(figure: Entry) -> str:
    return f"[{format_significant(figure['low'])}, {format_significant(figure['high'])}]"
