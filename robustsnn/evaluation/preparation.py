"""From the configuration of a model to the model: load it, or train it (going on where training stopped) and convert it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustsnn.attacks.inputs import check_logits
from robustsnn.checkpoint import load_checkpoint, save_checkpoint
from robustsnn.classifier import SpikingClassifier
from robustsnn.conversion import METHODS, convert, to_spec
from robustsnn.conversion.assemble import bare_network
from robustsnn.conversion.call_sites import separate_call_sites
from robustsnn.datasets import ImageDataset
from robustsnn.defenses import build_model, train
from robustsnn.defenses.training_checks import check_training
from robustsnn.errors import RobustSNNError
from robustsnn.evaluation.config import ConversionConfig, ModelConfig
from robustsnn.evaluation.factory import made_by
from robustsnn.evaluation.objectives import objective_of
from robustsnn.evaluation.progress import Progress
from robustsnn.evaluation.record import training_record
from robustsnn.models import AnnClassifier, ModelSpec
from robustsnn.neurons import QCFS
from robustsnn.selftest import self_test


@dataclass
class Prepared:
    """A model ready to be attacked.

    Attributes:
        model: in eval mode on its device.
        spec: what it is; None for a factory's.
        record: how it came to be: recipe, accuracy, seconds.
        ann: the ANN it was converted from, where it was.
    """

    model: SpikingClassifier
    spec: ModelSpec | None
    record: dict[str, Any] = field(default_factory=dict)
    ann: nn.Module | None = None


def spec_of(config: ModelConfig, dataset: ImageDataset) -> ModelSpec:
    """The specification of the network that is trained for this entry."""
    return ModelSpec(
        architecture=config.architecture,
        options=config.options,
        neuron=config.neuron,
        time_steps=config.time_steps,
        encoder=config.encoder,
        readout=config.readout,
        normalize=config.normalize,
        image_shape=dataset.image_shape,
        num_classes=dataset.num_classes,
    )


def check_model(config: ModelConfig, dataset: ImageDataset) -> None:
    """Find out before any long work whether this entry can be prepared.

    Raises:
        RobustSNNError: it cannot; says why.
    """
    if config.factory is not None:
        made = made_by(config.factory)
        _check_one_pass(config.name, made, dataset)
        try:
            self_test(made, *dataset.train.batch(slice(8))).raise_on_error()
        except RobustSNNError as error:
            raise RobustSNNError(f"model {config.name}: {error}") from None
        return
    if config.checkpoint is not None:
        loaded = load_checkpoint(config.checkpoint)
        model, spec = loaded.model, loaded.spec
        if loaded.spec.image_shape != dataset.image_shape or loaded.spec.num_classes != dataset.num_classes:
            raise RobustSNNError(
                f"{config.checkpoint} takes images {loaded.spec.image_shape} of {loaded.spec.num_classes} classes, the "
                f"data set {dataset.name} has {dataset.image_shape} of {dataset.num_classes}"
            )
    else:
        objective = objective_of(config)
        spec = spec_of(config, dataset)
        model = _build(config.name, spec)
    needs_conversion = not spec.spiking
    if config.as_ann and spec.spiking:
        raise RobustSNNError(f"model {config.name} is spiking; remove `as_ann:` from its entry")
    if needs_conversion and config.conversion is None and not config.as_ann:
        raise RobustSNNError(
            f"model {config.name} is an ANN; add `conversion:` to its entry to measure the SNN it converts to, or give it "
            "a spiking neuron"
        )
    if config.conversion is not None and not needs_conversion:
        raise RobustSNNError(f"model {config.name} is spiking already; remove `conversion:` from its entry")
    if config.conversion is not None:
        check_conversion(config.name, config.conversion, model)
        if METHODS[config.conversion.method].calibrated:  # no pool may move: the spec of the SNN has the same layers
            separate_call_sites(bare_network(model, None)[0], (nn.ReLU, nn.ReLU6))
    _check_one_pass(config.name, model, dataset)
    if config.checkpoint is None:
        try:
            check_training(model, dataset.train, objective, config.training, torch.device("cpu"))
        except RobustSNNError as error:
            raise RobustSNNError(f"model {config.name}: {error}") from None


def _build(name: str, spec: ModelSpec) -> nn.Module:
    try:
        with torch.random.fork_rng(devices=[]):
            return spec.build()
    except RobustSNNError:
        raise
    except Exception as error:  # options of an architecture can be anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RobustSNNError(f"model {name} cannot be built as described: {reason}") from None


def check_conversion(name: str, conversion: ConversionConfig | None, ann: nn.Module) -> None:
    """Find out, without a calibration, whether an ANN can be converted in this way.

    Raises:
        RobustSNNError: other activations than the method converts, a layer that it cannot take over, bad options.
    """
    assert conversion is not None
    calibrated = METHODS[conversion.method].calibrated
    found, fitting = "qcfs" if _is_quantised(ann) else "relu", "relu" if calibrated else "qcfs"
    if found != fitting:
        raise RobustSNNError(
            f"model {name} is an ANN of {found} activations; {conversion.method} converts {fitting} ones"
        )
    try:
        _convert(ann, conversion, 1, _stopping() if calibrated else None)
    except _CalibrationBeginsError:
        return
    except RobustSNNError as error:
        raise RobustSNNError(f"model {name}: {error}") from None


def _is_quantised(ann: nn.Module) -> bool:
    return any(isinstance(module, QCFS) for module in ann.modules())


class _CalibrationBeginsError(Exception):
    """A conversion has passed all checks and asks for its first image."""


def _stopping() -> Iterator[torch.Tensor]:
    raise _CalibrationBeginsError
    yield


def _check_one_pass(name: str, model: nn.Module, dataset: ImageDataset) -> None:
    """Two images through the model."""
    images, labels = dataset.train.batch(slice(2))
    try:
        with torch.no_grad():
            check_logits(model.eval()(images), labels)
    except (RobustSNNError, RuntimeError) as error:
        raise RobustSNNError(f"model {name}: {str(error).splitlines()[0]}") from None


def prepare(config: ModelConfig, dataset: ImageDataset, folder: Path, device: str, progress: Progress) -> Prepared:
    """The model of one entry, trained in (or loaded from) ``folder`` as far as earlier runs have not done so.

    Args:
        config: the entry.
        dataset: trained on its training split; the test split is not looked at.
        folder: ``models/`` and ``training/`` inside it are used.
        device: where to train and run.
        progress: told about epochs.
    """
    if config.factory is not None:
        return Prepared(made_by(config.factory).to(device).eval(), None, {"factory": config.factory})
    file = Path(config.checkpoint) if config.checkpoint else folder / "models" / f"{config.name}.safetensors"
    if config.checkpoint is None and not file.exists():
        model, record = train_model(config, dataset, folder / "training" / config.name, device, progress)
        save_checkpoint(file, model, spec_of(config, dataset), record)
    loaded = load_checkpoint(file, device)
    if config.as_ann:
        return Prepared(in_one_pass(loaded.model), loaded.spec, loaded.record)
    if config.conversion is None:
        assert isinstance(loaded.model, SpikingClassifier)
        return Prepared(loaded.model.eval(), loaded.spec, loaded.record)
    converted = convert_ann(config, loaded.model, dataset, device)
    spec = to_spec(loaded.spec, config.time_steps, config.conversion.start, config.conversion.correction)
    return Prepared(converted, spec, loaded.record, loaded.model.eval())


def in_one_pass(ann: nn.Module) -> SpikingClassifier:
    """An ANN as everything that attacks and measures takes it: a network that reads out itself, with its own gradient."""
    assert isinstance(ann, AnnClassifier)
    return SpikingClassifier(ann.net, 1, normalize=ann.normalize, layout="image").eval().to(ann.mean.device)


def train_model(
    config: ModelConfig,
    dataset: ImageDataset,
    folder: Path,
    device: str,
    progress: Progress,
    tensorboard: bool = False,
) -> tuple[nn.Module, dict[str, Any]]:
    """Train the network of an entry on the training split, going on with what ``folder`` holds.

    Returns:
        the model in eval mode with the weights of its best epoch, and the record of its training.
    """
    model = build_model(spec_of(config, dataset), config.training.seed)
    objective = objective_of(config)
    progress.start(f"train {config.name}", config.training.epochs)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* input gradients ", RuntimeWarning)  # of attacks inside training
        epochs = _Epochs(progress)
        result = train(model, dataset.train, objective, config.training, folder, device, epochs, tensorboard)
    return model.eval(), training_record(config, dataset, objective, result, device)


def convert_ann(config: ModelConfig, ann: nn.Module, dataset: ImageDataset, device: str) -> SpikingClassifier:
    """The SNN of an ANN by the entry's conversion, on ``device`` and in eval mode; training images calibrate it."""
    assert config.conversion is not None
    calibration: torch.Tensor | None = None
    if METHODS[config.conversion.method].calibrated:
        calibration = dataset.train.batch(slice(config.conversion.n_calibration))[0].to(device)
    return _convert(ann.eval(), config.conversion, config.time_steps, calibration).to(device).eval()


def _convert(
    ann: nn.Module, by: ConversionConfig, time_steps: int, calibration: torch.Tensor | Iterator[torch.Tensor] | None
) -> SpikingClassifier:
    return convert(
        ann, by.method, time_steps, calibration, correction=by.correction, **{"v_init": by.start} | by.options
    )


class _Epochs:
    """Passes the trainer's reports on as parts of epochs."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_batch(self, epoch: int, batch: int, batches: int, loss: float) -> None:
        self._progress.advance(1 / batches, f"epoch {epoch}, loss {loss:.3f}")

    def on_epoch(self, *args: Any, **kwargs: Any) -> None:
        pass
