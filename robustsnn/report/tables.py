"""A run in the terminal: the main table, the models compared, whether to trust it, conversions, gradients, warnings."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from robustsnn.report.finding import finding
from robustsnn.report.formatting import (
    MISSING,
    finite,
    format_eps,
    format_interval,
    format_norm,
    format_number,
    format_percent,
    format_significant,
    plain,
    shorten,
    title_of,
)
from robustsnn.report.loading import Results, checked
from robustsnn.report.selection import OTHERS, MainBlock, main_blocks, main_columns, other_attacks
from robustsnn.report.trust import SIGNS, STYLES, format_p, model_comparisons, model_titles, trusts


def print_summary(results: Results, console: Console) -> None:
    """Print the finding, the main table, the comparison of models, the checks, the other tables and the warnings.

    Args:
        results: the contents of ``results.json``; parts that are missing are left out.
        console: where to print; tables fit in 80 columns unless names are long.

    Raises:
        RobustSNNError: if the results are malformed.
    """
    results = checked(results)
    if not results["complete"]:
        console.print(Text("This run is not complete: figures may be missing.", style="bold yellow"))
    console.print(Text(" ".join(finding(results))))
    for block in main_blocks(results):
        console.print()
        console.print(main_table(results, block))
    _print_below(console, comparison_table(results))
    _print_below(console, trust_table(results))
    for trust in trusts(results):
        text = Text.assemble((f"{shorten(trust.title, 60)}: ", "bold"), trust.weakest)
        console.print(Padding(text, (0, 0, 0, 2)))
    for table in (conversion_table(results), gradient_table(results)):
        _print_below(console, table)
    for warning in results["warnings"]:
        console.print(Padding(Text(f"Warning: {plain(warning)}", style="yellow"), (1, 0, 0, 0)))


def main_table(results: Results, block: MainBlock) -> Table:
    """Return the main table at one budget: accuracies in percent, the gap in points with its interval."""
    table = _table(f"Accuracy (%) at ε = {format_eps(block.eps)}, {format_norm(block.norm)}")
    table.add_column("model", overflow="fold", min_width=10)
    columns = main_columns(results)
    for column in ("clean", "random", *columns, "worst"):
        table.add_column(column, justify="right", no_wrap=True)
    if len(columns) > 3:
        table.padding = (0, 1, 0, 0)  # one space between columns, so that 80 hold them
    table.add_column("gap (points)", justify="right", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    for row in block.rows:
        rates = [row.clean, row.random, *(row.attacks[c] for c in columns), row.worst]
        gap = f"{format_percent(row.gap['value'])} {format_interval(row.gap)}" if row.gap else MISSING
        sizes = {rate["n"] for rate in rates if rate}
        cells = [_percent(rate) for rate in rates] + [gap, "/".join(str(n) for n in sorted(sizes)) or MISSING]
        table.add_row(_name(row.title), *cells)
    table.caption = _legend(results, columns)
    return table


def _legend(results: Results, columns: list[str]) -> str:
    standard = [column for column in columns if column != OTHERS]
    parts = ["random: strongest noise"]
    if standard:
        parts.append(f"{', '.join(standard)}: worst rule")
    if OTHERS in columns:
        others = [shorten(title, 40) for title in other_attacks(results)]
        parts.append(f"{OTHERS}: {'the strongest of ' if len(others) > 1 else ''}{', '.join(others)}")
    return escape("; ".join([*parts, "worst: per image over all attacks"]))


def comparison_table(results: Results) -> Table | None:
    """Return the models compared in the worst case at the budget that says most, or None without comparisons."""
    compared = model_comparisons(results)
    if not compared:
        return None
    titles = model_titles(results)
    table = _table(f"Models compared at ε = {format_eps(compared[0]['eps'])} (worst case, points)")
    table.add_column("model", overflow="fold", min_width=10)
    table.add_column("minus", overflow="fold", min_width=10)
    for header in ("difference", "p", "p Holm", "n"):
        table.add_column(header, justify="right", no_wrap=True)
    for entry in compared:
        difference = entry["difference"]
        table.add_row(
            _name(titles.get(entry["a"], entry["a"])),
            _name(titles.get(entry["b"], entry["b"])),
            f"{format_percent(difference['value'])} {format_interval(difference)}",
            format_p(entry["p_value"]),
            format_p(entry["p_holm"]),
            str(difference["n"]),
        )
    table.caption = "p: exact McNemar test of paired verdicts; Holm: corrected for the number of comparisons"
    return table


def trust_table(results: Results) -> Table | None:
    """Return a row for each model: the verdict of its checks and how many passed; None without checks."""
    found = trusts(results)
    if not found:
        return None
    table = _table("Can these numbers be trusted?")
    table.add_column("model", overflow="fold", min_width=10)
    table.add_column("evaluation", no_wrap=True)
    for header in SIGNS:
        table.add_column(f"{SIGNS[header]} {header}", justify="right", no_wrap=True)
    for trust in found:
        verdict = Text(f"{trust.sign} {trust.verdict}", style=STYLES[trust.verdict])
        table.add_row(_name(trust.title), verdict, *(str(trust.counts.get(name, 0)) for name in SIGNS))
    return table


def conversion_table(results: Results) -> Table | None:
    """Return the accuracy of converted models over the number of time steps, or None without conversions."""
    conversions = [c for c in results["conversions"] if c["over_time"]]
    if not conversions:
        return None
    steps = sorted({int(point["time_steps"]) for c in conversions for point in c["over_time"]})
    table = _table("Conversion: accuracy (%) over time steps T")
    table.add_column("model (method)", overflow="fold", min_width=10)
    for header in ("ANN", "quantised", *(f"T={t}" for t in steps), "n"):
        table.add_column(header, justify="right", no_wrap=True)
    for c in conversions:
        at = {int(point["time_steps"]): point["accuracy"] for point in c["over_time"]}
        n = next((rate["n"] for rate in [c["ann"], *at.values()] if rate), None)
        table.add_row(
            _name(f"{plain(c['model'])} ({plain(c['method'])})"),
            *(_percent(rate) for rate in [c["ann"], c["quantised"], *(at.get(t) for t in steps)]),
            MISSING if n is None else str(n),
        )
    return table


def gradient_table(results: Results) -> Table | None:
    """Return the input gradients' size, sparsity and adversarial-to-random ratio, or None without gradients."""
    rows = [(model, gradients) for model in results["models"] for gradients in model["gradients"]]
    if not rows:
        return None
    table = _table("Input gradients (mean over images; ratio: median)")
    table.add_column("model", overflow="fold", min_width=10)
    table.add_column("rule", overflow="fold")
    for header in ("‖g‖₁", "margin", "slope", "zeros %", "ratio", "bounds", "n"):
        table.add_column(header, justify="right", no_wrap=True)
    for model, g in rows:
        first = g["ratio"][0] if g["ratio"] else {}
        lower, upper = first.get("lower_bound", 3.0), middle(first.get("upper_bound"))
        table.add_row(
            _name(title_of(model)),
            _name(g["rule"]),
            format_significant(g["l1"]["mean"]) if g["l1"] else MISSING,
            format_significant((g.get("margin_l1") or {}).get("mean")),
            format_significant(first.get("adversarial_slope")),
            format_percent(g["zero_share"]["mean"]) if g["zero_share"] else MISSING,
            format_number(middle(first.get("predicted")), 1),
            f"{format_number(lower, 0)} to {format_number(upper, 0)}" if upper is not None else MISSING,
            str(g.get("n", MISSING)),
        )
    table.caption = (
        "margin: ‖g‖₁ of the logit margin; slope: rms of Δf/ε along sgn g, measured at the smallest ε; "
        "ratio 3‖g‖₁²/‖g‖₂²: how much more an attacker than uniform noise moves the output, squared"
    )
    return table


def middle(figure: Any) -> float | None:
    """Return the median of a summary, or the number itself."""
    return finite(figure.get("median")) if isinstance(figure, dict) else finite(figure)


def _print_below(console: Console, table: Table | None) -> None:
    if table:
        console.print()
        console.print(table)


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", caption_justify="left", box=None, pad_edge=False
    )


def _percent(rate: dict[str, Any] | None) -> str:
    return format_percent(rate["value"]) if rate else MISSING


def _name(name: object) -> Text:
    return Text(shorten(name, 60))
