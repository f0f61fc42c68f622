"""self_test: run every probe on a model, report, and hand the model back exactly as it came."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from robustsnn.errors import RobustSNNError
from robustsnn.selftest import modules, probes
from robustsnn.selftest.bench import Bench, Model
from robustsnn.selftest.report import ERROR, WARNING, Finding, SelfTestReport, sorted_findings
from robustsnn.selftest.snapshot import GlobalRandomness, Snapshot

_MOST_IMAGES = 8
_PROBES: tuple[Callable[[Bench], Iterator[Finding]], ...] = (
    probes.probabilities,
    probes.constant,
    probes.state,
    probes.randomness,
    probes.batch_mates,
    probes.one_image,
    probes.gradient,
    probes.plain_twin,
)


def self_test(model: Model, images: Tensor | None = None, labels: Tensor | None = None) -> SelfTestReport:
    """Look for what makes the robustness of a spiking network a wrong number, before it is measured.

    Without images: layers in training mode, and stateful neurons that nobody resets. With images, on the first eight of
    them and in evaluation mode as in an attack: wrong shapes, NaN, probabilities instead of logits, state carried over
    from call to call, randomness (told apart by runs from the same state with the same and with other seeds), dependence
    on batch mates, batches of one, missing, zero, non-finite or hidden gradients, and disagreement with
    `SpikingClassifier.reference`.

    The model comes back exactly as it was: training flags, buffers, states, gradients and flags of its parameters, the
    generators that it holds; and so do the global generators. The cost is some twelve forward passes.

    Args:
        model: anything that maps images ``[N, ...]`` to logits ``[N, K]``: a `SpikingClassifier`, a view of one, any
            ``nn.Module``, a function.
        images: ``[N, ...]`` in [0, 1]; more than two, if possible.
        labels: ``[N]``; checked against the number of classes.

    Raises:
        RobustSNNError: images that are not a non-empty, finite floating-point batch.
    """
    if images is not None:
        _check_images(images)
    findings: list[Finding] = [*modules.training_layers(model)]
    if images is None:
        return SelfTestReport(sorted_findings([*findings, *modules.unwrapped(model)]), ("training_layers", "unwrapped"))
    before, randomness = Snapshot(model), GlobalRandomness()
    try:
        bench = Bench(model, _a_few(images))
        found, ran = _probe(bench)
        if ran[1:] and labels is not None:
            found += _labels(labels, bench.first.shape[1])
    finally:
        before.restore()
        randomness.restore()
    findings += [*_range(images), *found]
    return SelfTestReport(sorted_findings(findings), ("training_layers", "range", *ran))


def _probe(bench: Bench) -> tuple[list[Finding], tuple[str, ...]]:
    try:
        findings = list(probes.output(bench))
        ran = ["output"]
        if not findings:
            for probe in _PROBES:
                findings += probe(bench)
                ran.append(probe.__name__)
    except RobustSNNError as error:
        return [Finding("fails", ERROR, str(error))], ("output",)
    except Exception as error:
        text = f"{type(error).__name__}: {str(error).strip()}"
        return [Finding("fails", ERROR, f"the model raises {text}", "see the message")], ("output",)
    return findings, tuple(ran)


def _a_few(images: Tensor) -> Tensor:
    few = images[:_MOST_IMAGES].detach()
    return few if len(few) > 1 else torch.cat([few, few * 0.5])


def _check_images(images: Tensor) -> None:
    good = isinstance(images, Tensor) and images.dim() > 1 and len(images) > 0 and images.is_floating_point()
    if not good:
        got = f"{images.dtype} of shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise RobustSNNError(f"images must be a non-empty floating-point batch [N, ...] in [0, 1], got {got}")
    if not images.isfinite().all():
        raise RobustSNNError("images hold NaN or infinity; a self-test needs finite ones")


def _range(images: Tensor) -> Iterator[Finding]:
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        yield Finding(
            "image-range",
            WARNING,
            f"images lie in [{low:.4g}, {high:.4g}] and attacks take [0, 1] unless told otherwise",
            "scale them and put the normalisation into the model, or pass bounds= to the attack",
        )


def _labels(labels: Tensor, classes: int) -> list[Finding]:
    whole = isinstance(labels, Tensor) and labels.dim() == 1 and not labels.is_floating_point()
    if whole and len(labels) and 0 <= int(labels.min()) <= int(labels.max()) < classes:
        return []
    got = f"{labels.dtype} of shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
    if whole and len(labels):
        got = f"labels from {int(labels.min())} to {int(labels.max())}"
    return [
        Finding(
            "labels", ERROR, f"labels must be whole numbers [N] from 0 to {classes - 1}, got {got}", "check the data"
        )
    ]
