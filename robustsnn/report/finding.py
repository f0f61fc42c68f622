"""The two or three plain sentences that a report leads with, computed from its numbers."""

from __future__ import annotations

from typing import Any

from robustsnn.report.formatting import (
    format_count,
    format_eps,
    format_interval,
    format_norm,
    format_percent,
    plain,
    title_of,
)
from robustsnn.report.loading import Results
from robustsnn.report.selection import (
    MainBlock,
    MainRow,
    attacks_at,
    main_blocks,
    strongest,
    successes,
)


def finding(results: Results) -> list[str]:
    """Return one to three sentences: the gap of the first model, the models compared, and how far to trust it."""
    blocks = main_blocks(results)
    sentences = [_gap(results, blocks), _comparison(blocks) or _conversion(results), _trust(results)]
    found = [sentence for sentence in sentences if sentence]
    return found or ["This run holds no attack results yet."]


def _percent(rate: dict[str, Any]) -> str:
    return f"{format_percent(rate['value'])} %"


def _with_interval(rate: dict[str, Any]) -> str:
    return f"{_percent(rate)} {format_interval(rate)}"


def _gap(results: Results, blocks: list[MainBlock]) -> str:
    for block in blocks:
        for model, row in zip(results["models"], block.rows):
            if not (row.random and row.worst and row.gap):
                continue
            low, high = row.gap["low"], row.gap["high"]
            size = f"{format_percent(row.gap['value'])} points {format_interval(row.gap)}"
            verdict = (
                f"a gap of {size}"
                if low > 0 or high < 0
                else f"no gap that this many images can tell from zero, {size}"
            )
            return (
                f"At ε = {format_eps(block.eps)} ({format_norm(block.norm)}, n = {format_count(row.gap['n'])}) the "
                f"strongest random noise ({row.random_title}) leaves {row.title} at {_percent(row.random)}, "
                f"but {_attacker(model, row, block)} takes it to {_percent(row.worst)}: {verdict}."
            )
    return ""


def _attacker(model: dict[str, Any], row: MainRow, block: MainBlock) -> str:
    single = strongest(attacks_at(model, block.eps, block.norm, "adversarial"))
    if single and row.worst and single["accuracy"]["count"] == row.worst["count"]:
        rule = f" through {plain(single['rule'])}" if single["rule"] else ""
        return f"{title_of(single, 'attack')}{rule}"
    return "the worst case over all attacks"


def _comparison(blocks: list[MainBlock]) -> str:
    def spread(block: MainBlock) -> float:
        values = [row.worst["value"] for row in block.rows if row.worst]
        return max(values) - min(values) if len(values) > 1 else -1.0

    block = max(blocks, key=spread, default=None)
    if block is None or spread(block) < 0:
        return ""
    where = f"ε = {format_eps(block.eps)}"
    rows = [(row.worst["value"], row.worst, row.title) for row in block.rows if row.worst]
    (_, best, top), (_, worst, bottom) = max(rows, key=lambda r: r[0]), min(rows, key=lambda r: r[0])
    if best["value"] == worst["value"]:
        return f"In the worst case at {where} all models keep {_with_interval(best)}."
    sentence = f"In the worst case at {where}, {top} keeps {_with_interval(best)} and {bottom} {_with_interval(worst)}"
    if best["low"] <= worst["high"]:
        sentence += "; the intervals overlap, so this run does not tell them apart"
    return sentence + "."


def _conversion(results: Results) -> str:
    for conversion in results["conversions"]:
        points = [point for point in conversion["over_time"] if point["accuracy"]]
        if points and conversion["ann"]:
            last = max(points, key=lambda point: point["time_steps"])
            return (
                f"Converted by {plain(conversion['method'])}, {plain(conversion['model'])} reaches "
                f"{_with_interval(last['accuracy'])} in {last['time_steps']} steps; its ANN has "
                f"{_with_interval(conversion['ann'])}."
            )
    return ""


def _trust(results: Results) -> str:
    claimed, verified = successes(results)
    count = len(results["warnings"])
    remark = "" if not count else f" {count} warning{'s' if count > 1 else ''} below should be read first."
    if not claimed:
        return remark.strip()
    if claimed == verified:
        return (
            f"All {format_count(claimed)} claimed successes, over all attacks and budgets, were confirmed on the untouched "
            f"model.{remark}"
        )
    return (
        f"Only {format_count(verified)} of {format_count(claimed)} claimed successes, over all attacks and budgets, were "
        f"confirmed on the untouched model; only confirmed ones count.{remark}"
    )
