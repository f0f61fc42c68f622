"""An ANN converted by one method, or by all that fit it: accuracy over T, latency and energy beside the ANN's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import robustsnn
from robustsnn.attacks.inputs import check_logits
from robustsnn.checkpoint import load_checkpoint, save_checkpoint
from robustsnn.classifier import SpikingClassifier
from robustsnn.conversion import METHODS, to_spec
from robustsnn.conversion.layer_errors import layer_errors
from robustsnn.datasets import ImageDataset, load
from robustsnn.errors import RobustSNNError
from robustsnn.evaluation.benchmark import check_device
from robustsnn.evaluation.config import ConversionConfig, ModelConfig, parse_config
from robustsnn.evaluation.conversion_curve import conversion_curve, energy, lasting
from robustsnn.evaluation.factory import ann_made_by, is_factory
from robustsnn.evaluation.preparation import check_conversion, convert_ann
from robustsnn.evaluation.progress import Progress
from robustsnn.evaluation.record import now
from robustsnn.evaluation.single import check_file
from robustsnn.files import writable_folder
from robustsnn.models import ActivationSpec, AnnClassifier, ModelSpec
from robustsnn.neurons import QCFS
from robustsnn.runtime import environment

SCHEMA_VERSION = 1
ALL = "all"
"""Stands for every method that fits the ANN."""

_BATCH = 100
_ENERGY_IMAGES = 64


@dataclass(frozen=True)
class Source:
    """An ANN to convert.

    Attributes:
        name: how it was given.
        ann: in eval mode on its device.
        spec: how it is built; None where anybody's function made it.
        record: how it was trained, as far as is known.
    """

    name: str
    ann: AnnClassifier
    spec: ModelSpec | None
    record: dict[str, Any]

    @property
    def methods(self) -> tuple[str, ...]:
        """The conversion methods that fit its activations."""
        quantised = any(isinstance(module, QCFS) for module in self.ann.modules())
        return tuple(name for name, method in METHODS.items() if method.calibrated != quantised)

    @property
    def usual(self) -> str:
        """The method where none is given."""
        return "opi" if "opi" in self.methods else self.methods[0]


def source_of(text: str, device: str) -> Source:
    """The ANN of a file of `save_checkpoint`, or the one that a function makes (``FILE.py:FUNCTION``).

    Raises:
        RobustSNNError: neither, no ANN, or a device that cannot be used.
    """
    check_device(device)
    if is_factory(text):
        return Source(text, ann_made_by(text).to(device), None, {})
    if text.endswith(".py"):
        raise RobustSNNError(f"{text} names no function; give {text}:FUNCTION, a function that returns the ANN")
    found = load_checkpoint(text, device)
    if not isinstance(found.spec.neuron, ActivationSpec):
        raise RobustSNNError(f"{text} is an SNN already; convert takes an ANN (robustsnn train --neuron qcfs)")
    assert isinstance(found.model, AnnClassifier)
    return Source(text, found.model, found.spec, found.record)


def conversions_of(source: Source, method: str | None, **conversion: Any) -> list[ConversionConfig]:
    """What to do with an ANN: the method of that name, its usual one, or all that fit; with the same keys otherwise.

    Raises:
        RobustSNNError: keys that make no sense; options beside `ALL`, as methods have different ones.
    """
    names = list(source.methods) if method == ALL else [method or source.usual]
    if method == ALL and conversion.get("options"):
        raise RobustSNNError("options belong to one method; give --method NAME with --option, or leave --option out")
    entries = [{"name": "converted", "conversion": conversion | {"method": name}} for name in names]
    parsed = [parse_config({"models": [entry]}, "convert").models[0].conversion for entry in entries]
    return [found for found in parsed if found is not None]


def run_conversions(
    source: Source,
    conversions: Sequence[ConversionConfig],
    time_steps: int,
    out: Path | None = None,
    dataset: str | None = None,
    root: str | None = None,
    n_test: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Convert an ANN and measure every converted network: the contents of ``conversion.json``.

    Args:
        source: the ANN.
        conversions: how.
        time_steps: T of the converted models, at which energy is measured.
        out: file of the converted model, where there is one conversion and the ANN has a spec; None for none.
        dataset: name; that of training, or digits, unless given.
        root: its folder or file.
        n_test: first n test images.
        device: where to run.
        progress: told about every step.

    Raises:
        RobustSNNError: a conversion that does not fit the ANN, a network that does not take the images, a file that cannot
            keep the model, bad numbers, or as the parts that are called.
    """
    progress = progress or Progress()
    if time_steps < 1:
        raise RobustSNNError(f"time_steps must be at least 1, got {time_steps}")
    if out is not None:
        _check_out(out, source, conversions)
    data = _data_of(source.record, dataset, root)
    entries = [_entry(conversion, time_steps, len(conversions) > 1) for conversion in conversions]
    for entry in entries:
        check_conversion(entry.name, entry.conversion, source.ann)
    test = data.test.take(min(n_test or len(data.test), len(data.test)))
    images, labels = (tensor.to(device) for tensor in test.batch(slice(None)))
    _check_images(source, images, labels)
    if out is not None:
        writable_folder(out.parent)
    progress.start("convert", 3 * len(entries))
    found = []
    for entry in entries:
        assert entry.conversion is not None
        label = entry.conversion.label
        progress.advance(0, f"{label}: conversion")
        started = time.perf_counter()
        snn = convert_ann(entry, source.ann, data, device)
        seconds = time.perf_counter() - started
        if out is not None:
            _save(out, snn, source, entry)
        progress.advance(1, f"{label}: accuracy and latency")
        curve = conversion_curve(entry, snn, source.ann, images, labels, _BATCH)
        progress.advance(1, f"{label}: energy and errors")
        few = images[:_ENERGY_IMAGES]
        for point in curve["over_time"]:
            point["energy"] = energy(lasting(snn, point["time_steps"]), few, _BATCH)
        found.append(
            curve
            | {
                "config": entry.conversion.model_dump(mode="json"),
                "seconds": seconds,
                "energy": next(p["energy"] for p in curve["over_time"] if p["time_steps"] == time_steps),
                "layers": [asdict(layer) for layer in layer_errors(source.ann, snn, few, _BATCH)],
            }
        )
        progress.advance(1, label)
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "robustsnn", "version": robustsnn.__version__},
        "written": now(),
        "environment": environment(device),
        "source": source.name,
        "dataset": {"name": data.name, "n_evaluated": len(test), "n_train": len(data.train)},
        "time_steps": time_steps,
        "ann_energy": energy(source.ann, images[:_ENERGY_IMAGES], _BATCH),
        "conversions": found,
    }


def _entry(conversion: ConversionConfig, time_steps: int, one_of_many: bool) -> ModelConfig:
    steps = tuple(sorted({*conversion.time_steps, time_steps}))
    name = conversion.method if one_of_many else "converted"
    return ModelConfig(name=name, time_steps=time_steps, conversion=conversion.model_copy(update={"time_steps": steps}))


def _check_out(out: Path, source: Source, conversions: Sequence[ConversionConfig]) -> None:
    check_file(out)
    if source.spec is None:
        raise RobustSNNError(
            f"{source.name} is a network of your own, which no file of robustsnn can describe; leave --out out and take the "
            "tables and plots in --report"
        )
    if len(conversions) > 1:
        raise RobustSNNError("--out holds one converted model; give one --method, or leave --out out")
    if out.resolve() == Path(source.name).resolve():
        raise RobustSNNError(f"{out} is the ANN itself, which would be lost; give another --out")


def _save(out: Path, snn: SpikingClassifier, source: Source, entry: ModelConfig) -> None:
    assert source.spec is not None
    assert entry.conversion is not None
    spec = to_spec(source.spec, entry.time_steps, entry.conversion.start, entry.conversion.correction)
    record = source.record | {"conversion": entry.conversion.model_dump(mode="json", exclude={"time_steps"})}
    try:
        save_checkpoint(out, snn, spec, record)
    except RobustSNNError as error:
        raise RobustSNNError(
            f"{out} cannot hold this SNN: {error}; tables and plots alone are made for FILE.py:FUNCTION, a function that "
            "returns the ANN"
        ) from None


def _check_images(source: Source, images: torch.Tensor, labels: torch.Tensor) -> None:
    try:
        with torch.no_grad():
            check_logits(source.ann(images[:2]), labels[:2])
    except (RobustSNNError, RuntimeError) as error:
        raise RobustSNNError(
            f"{source.name} does not take these images {list(images.shape[1:])}: {str(error).splitlines()[0]}; give --dataset"
        ) from None


def _data_of(record: dict[str, Any], dataset: str | None, root: str | None) -> ImageDataset:
    name = dataset or str(record.get("dataset", "digits"))
    return load("npz" if name.endswith(".npz") else name, root)
