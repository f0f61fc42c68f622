"""The card of a trained model: what its file says about network, training, data, versions and measured robustness."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from torch import nn

from robustsnn.checkpoint import Checkpoint, load_checkpoint
from robustsnn.errors import RobustSNNError
from robustsnn.models import CorrectedClassifier, ModelSpec
from robustsnn.report.formatting import (
    MISSING,
    format_count,
    format_eps,
    format_interval,
    format_latency,
    format_norm,
    format_percent,
    format_seconds,
    format_time,
    plain,
    shorten,
)

_VERSIONS = ("python", "torch", "spikingjelly", "numpy", "numba")


def print_card(path: str | Path, console: Console) -> None:
    """Print what a file of a trained model holds, then every evaluation that was recorded in it.

    Args:
        path: of a file of `robustsnn.checkpoint.save_checkpoint`; reading it runs no code.
        console: where to print.

    Raises:
        RobustSNNError: as `load_checkpoint`, or the record is malformed.
    """
    found = load_checkpoint(path)
    try:
        _print(path, found, console)
    except (TypeError, KeyError, AttributeError, ValueError) as error:  # a record can come from anybody
        raise RobustSNNError(f"{path} holds a model, but what it says about it is malformed: {error!r}") from None


def _print(path: str | Path, found: Checkpoint, console: Console) -> None:
    record = found.record
    console.print(Text(str(path), style="bold"))
    console.print(_facts([*_network(found.spec, found.model), *_training(record)]))
    evaluations = [entry for entry in record.get("evaluations", []) if isinstance(entry, Mapping)]
    for evaluation in evaluations:
        console.print()
        _print_evaluation(evaluation, console)
    if not evaluations:
        console.print()
        console.print(
            Text(f"No robustness is recorded yet: robustsnn evaluate {path} --attack ensemble-standard --record"),
            soft_wrap=True,
        )


def _facts(rows: list[tuple[str, str]]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    return table


def _network(spec: ModelSpec, model: nn.Module) -> Iterator[tuple[str, str]]:
    parameters = sum(p.numel() for p in model.parameters())
    shape, options = "x".join(map(str, spec.image_shape)), _options(spec.options)
    yield "network", f"{spec.architecture}{options}, {format_count(parameters)} parameters"
    neuron = spec.neuron.model_dump(mode="json", exclude_defaults=True, exclude={"kind"})
    yield "neuron", f"{spec.neuron.kind}{_options(neuron)}"
    if spec.spiking:
        yield "time", f"T = {spec.time_steps}, {spec.encoder} coding, {spec.readout} over time"
    if isinstance(model, CorrectedClassifier):
        yield "correction", str(model.correction)
        yield "latency", format_latency(asdict(model.step_count))
    yield (
        "images",
        f"{shape} in [0, 1], {spec.num_classes} classes"
        + (
            f", normalised inside by mean {list(spec.normalize[0])}, std {list(spec.normalize[1])}"
            if spec.normalize
            else ""
        ),
    )


def _training(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    data, training = _mapping(record, "data"), _mapping(record, "training")
    objective = record.get("objective_text") or record.get("objective")
    yield "objective", plain(objective or MISSING)
    images = f", {format_count(data['n_train'])} training images" if "n_train" in data else ""
    yield "data", f"{plain(record.get('dataset', MISSING))}{images}"
    if training:
        names = ("epochs", "batch_size", "optimizer", "lr", "schedule", "augment", "seed")
        yield "training", ", ".join(f"{name} {_short(training[name])}" for name in names if name in training)
    if record.get("selected_epoch") is not None:
        took = f", {format_seconds(record['seconds'])} of training" if record.get("seconds") is not None else ""
        yield "epoch", f"{record['selected_epoch']} of {record.get('epochs', MISSING)}{took}"
    if record.get("validation_accuracy") is not None:
        yield "validation", f"{format_percent(record['validation_accuracy'])} %, by which the epoch was chosen"
    if _mapping(record, "test_accuracy"):
        yield "test", _rate(record["test_accuracy"])
    if record.get("trained"):
        yield "trained", format_time(record["trained"])
    versions = _mapping(record, "environment")
    named = [f"{name} {versions[name]}" for name in _VERSIONS if versions.get(name)]
    if record.get("robustsnn") or named:
        yield "versions", ", ".join([f"robustsnn {record.get('robustsnn', MISSING)}", *named])


def _print_evaluation(evaluation: Mapping[str, Any], console: Console) -> None:
    date = format_time(evaluation.get("date", MISSING))
    title = (
        f"Measured {date} on {format_count(evaluation.get('n'))} test images of {plain(evaluation.get('dataset', MISSING))}, "
        f"{format_norm(evaluation.get('norm', MISSING))}, robustsnn {plain(evaluation.get('robustsnn', MISSING))}"
    )
    console.print(Text(title, style="bold"), soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("attack", overflow="fold")
    table.add_column("rule", overflow="fold")
    for header in ("ε", "accuracy (%)", "n"):
        table.add_column(header, justify="right", no_wrap=True)
    _add(table, "clean", "", None, evaluation.get("clean"))
    for entry in evaluation.get("attacks", []):
        _add(table, entry.get("attack", MISSING), entry.get("rule") or "", entry.get("eps"), entry.get("accuracy"))
    for entry in evaluation.get("worst", []):
        _add(table, "worst case over all attacks", "", entry.get("eps"), entry.get("adversarial"))
    console.print(table)
    if evaluation.get("checks"):
        said = f"Checks call this evaluation {plain(evaluation['checks'])}. {plain(evaluation.get('weakest') or '')}"
        console.print(Padding(Text(said.strip()), (0, 0, 0, 2)))


def _add(table: Table, attack: str, rule: str, eps: float | None, rate: Mapping[str, Any] | None) -> None:
    accuracy = f"{format_percent(rate['value'])} {format_interval(rate)}" if rate else MISSING
    table.add_row(
        Text(shorten(attack, 60)),
        Text(shorten(rule, 30)),
        "" if eps is None else format_eps(eps),
        accuracy,
        format_count(rate["n"]) if rate else MISSING,
    )


def _mapping(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = record.get(key)
    return found if isinstance(found, Mapping) else {}


def _options(options: Mapping[str, Any]) -> str:
    return f" ({', '.join(f'{name} {_short(value)}' for name, value in options.items())})" if options else ""


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else plain(value)


def _rate(rate: Mapping[str, Any]) -> str:
    return f"{format_percent(rate['value'])} % {format_interval(rate)}, n = {format_count(rate['n'])}"
