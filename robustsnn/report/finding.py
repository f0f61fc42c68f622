"""The two or three plain sentences that a report leads with, computed from its numbers."""

from __future__ import annotations

from typing import Any

from robustsnn.report.formatting import (
    format_count,
    format_eps,
    format_interval,
    format_norm,
    format_percent,
    shorten,
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
from robustsnn.report.trust import comparison_of, format_p, trust_sentence


def finding(results: Results) -> list[str]:
    """Return one to three sentences: the gap of the first model, the models compared, and how far to trust it."""
    blocks = main_blocks(results)
    sentences = [_gap(results, blocks), _comparison(results, blocks) or _conversion(results), _trust(results)]
    return [sentence for sentence in sentences if sentence] or ["This run holds no attack results yet."]


def _at(eps: float) -> str:
    return f"ε\u00a0=\u00a0{format_eps(eps)}"


def _where(block: MainBlock, n: int) -> str:
    return f"{_at(block.eps)} ({format_norm(block.norm)}, n\u00a0=\u00a0{format_count(n)})"


def _percent(rate: dict[str, Any]) -> str:
    return f"{format_percent(rate['value'])}\u00a0%"


def _with_interval(rate: dict[str, Any]) -> str:
    return f"{_percent(rate)} {format_interval(rate)}"


def _gap(results: Results, blocks: list[MainBlock]) -> str:
    for block in blocks:
        for model, row in zip(results["models"], block.rows):
            if not (row.random and row.worst and row.gap):
                continue
            low, high = row.gap["low"], row.gap["high"]
            size = f"{format_percent(row.gap['value'])}\u00a0points {format_interval(row.gap)}"
            verdict = (
                f"a gap of {size}"
                if low > 0 or high < 0
                else f"no gap that this many images can tell from zero, {size}"
            )
            where = _where(block, row.gap["n"])
            noise, title = shorten(row.random_title, 60), shorten(row.title, 60)
            attacker = _attacker(model, row, block)
            return (
                f"At {where} the strongest random noise ({noise}) leaves {title} at {_percent(row.random)}, "
                f"but {attacker} takes it to {_percent(row.worst)}: {verdict}."
            )
    return _strongest_so_far(results, blocks)


def _strongest_so_far(results: Results, blocks: list[MainBlock]) -> str:
    for block in blocks:
        for model, row in zip(results["models"], block.rows):
            if row.worst:
                return (
                    f"At {_where(block, row.worst['n'])} {shorten(row.title, 60)} keeps {_with_interval(row.worst)} under "
                    f"{_attacker(model, row, block)}; no random noise was measured to compare it with."
                )
            single = strongest(attacks_at(model, block.eps, block.norm, "adversarial"))
            if single:
                where = _where(block, single["accuracy"]["n"])
                return (
                    f"At {where} {shorten(title_of(model), 60)} keeps {_with_interval(single['accuracy'])} under "
                    f"{_through(single)}, the strongest single attack of this run; it has no worst case yet."
                )
    return ""


def _through(attack: dict[str, Any]) -> str:
    rule = f" through {shorten(attack['rule'], 30)}" if attack["rule"] else ""
    return f"{shorten(title_of(attack, 'attack'), 60)}{rule}"


def _attacker(model: dict[str, Any], row: MainRow, block: MainBlock) -> str:
    single = strongest(attacks_at(model, block.eps, block.norm, "adversarial"))
    if single and row.worst and single["accuracy"]["count"] == row.worst["count"]:
        return _through(single)
    return "the worst case over all attacks"


def _comparison(results: Results, blocks: list[MainBlock]) -> str:
    def spread(block: MainBlock) -> float:
        values = [row.worst["value"] for row in block.rows if row.worst]
        return max(values) - min(values) if len(values) > 1 else -1.0

    block = max(blocks, key=spread, default=None)
    if block is None or spread(block) < 0:
        return ""
    where = _at(block.eps)
    rows = [(row.worst["value"], row.worst, row) for row in block.rows if row.worst]
    (_, best, first), (_, worst, last) = max(rows, key=lambda r: r[0]), min(rows, key=lambda r: r[0])
    top, bottom = shorten(first.title, 60), shorten(last.title, 60)
    if best["value"] == worst["value"]:
        return f"In the worst case at {where} all models keep {_with_interval(best)}."
    sentence = f"In the worst case at {where}, {top} keeps {_with_interval(best)} and {bottom} {_with_interval(worst)}"
    paired = comparison_of(results, block.eps, first.model, last.model)
    if paired:
        sentence += f" (paired difference {_difference(paired, first.model)}, p {_p(paired)})"
        if paired["difference"]["low"] <= 0 <= paired["difference"]["high"]:
            sentence += ", which this run does not tell apart"
    elif best["low"] <= worst["high"]:
        sentence += "; the intervals overlap, so this run does not tell them apart"
    return sentence + "."


def _difference(entry: dict[str, Any], first: str) -> str:
    found = entry["difference"]
    if entry["a"] != first:
        found = {"value": -found["value"], "low": -found["high"], "high": -found["low"]}
    return f"{format_percent(found['value'])}\u00a0points {format_interval(found)}"


def _p(entry: dict[str, Any]) -> str:
    text = format_p(entry["p_value"])
    return text if text.startswith("<") else f"= {text}"


def _conversion(results: Results) -> str:
    for conversion in results["conversions"]:
        points = [point for point in conversion["over_time"] if point["accuracy"]]
        if points and conversion["ann"]:
            last = max(points, key=lambda point: point["time_steps"])
            return (
                f"The converted network {shorten(conversion['model'], 60)} ({shorten(conversion['method'], 30)}) "
                f"reaches {_with_interval(last['accuracy'])} in {last['time_steps']} steps; its ANN has "
                f"{_with_interval(conversion['ann'])}."
            )
    return ""


def _trust(results: Results) -> str:
    return f"{_confirmed(results)} {trust_sentence(results)}".strip()


def _confirmed(results: Results) -> str:
    claimed, verified = successes(results)
    count = len(results["warnings"])
    remark = "" if not count else f" {count} warning{'s' if count > 1 else ''} below should be read first."
    if not claimed:
        return remark.strip()
    where = "over all attacks and budgets"
    if claimed == verified:
        return f"All {format_count(claimed)} claimed successes, {where}, were confirmed on the untouched model.{remark}"
    return (
        f"Only {format_count(verified)} of {format_count(claimed)} claimed successes, {where}, were confirmed on the "
        f"untouched model; only confirmed ones count.{remark}"
    )
