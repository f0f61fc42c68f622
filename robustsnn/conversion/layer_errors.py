"""Where a converted network loses its accuracy: the error of every layer, split by cause."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.conversion.assemble import bare_network
from robustsnn.conversion.call_sites import separate_call_sites
from robustsnn.errors import RobustSNNError
from robustsnn.gradients.chunks import watch
from robustsnn.models.ann import AnnClassifier
from robustsnn.neurons.activations import QCFS
from robustsnn.neurons.execution import current
from robustsnn.neurons.scaled import ScaledIF

CAUSES = ("propagated", "clipping", "quantisation", "unevenness")
"""The parts of an error; see `split_error`."""
_TIE = 1e-6
"""By how many spikes rounding may keep a current below the one that gives a whole number of spikes, and still gives it."""


@dataclass(frozen=True)
class ErrorPart:
    """One part of the error of a layer, over all its neurons and all images, in units of its activations."""

    mean: float
    mean_absolute: float
    rms: float


@dataclass(frozen=True)
class LayerError:
    """The error of one layer of a converted network: what its neurons send on average, minus what the ANN computes.

    The means of the four causes add up to that of ``total``; so do the errors of every single neuron, but not their
    absolute values or squares.

    Attributes:
        name: of the activation in the ANN and of the neuron in the SNN.
        rms_activation: of the ANN, what the other numbers are to be compared with.
    """

    name: str
    rms_activation: float
    total: ErrorPart
    propagated: ErrorPart
    clipping: ErrorPart
    quantisation: ErrorPart
    unevenness: ErrorPart


def split_error(
    activation: Tensor,
    own_activation: Tensor,
    current: Tensor,
    output: Tensor,
    threshold: Tensor,
    time_steps: int,
    v_init: float | Tensor = 0.5,
) -> dict[str, Tensor]:
    """The error ``output - activation`` of single neurons, by cause (Bu et al., ICLR 2022, section 3).

    With the function h of the ANN's activation, the mean current z of the neuron and its threshold theta:

    * ``propagated``: ``h(z) - activation``, what earlier layers passed on;
    * ``clipping``: ``clip(h(z), 0, theta) - h(z)``;
    * ``quantisation``: ``theta / T * clip(floor(z T / theta + v_init), 0, T) - clip(h(z), 0, theta)``, for what the
      neuron would send if its current were the same in every step;
    * ``unevenness``: the rest; spikes that a current which varies in time adds or takes away.

    Args:
        activation: of the ANN, ``[N, ...]``.
        own_activation: h(z).
        current: z, mean over T steps.
        output: mean of what the neuron sends.
        threshold: that broadcasts against one sample, at least 0.
        time_steps: T.
        v_init: initial potential in thresholds.

    Returns:
        the four parts by name, ``[N, ...]``; they add up to the error.
    """
    unit = torch.where(threshold > 0, threshold, 1.0)
    count = (current / unit * time_steps + v_init + _TIE).floor().clamp(0, time_steps)
    even = threshold * count / time_steps
    clipped = torch.minimum(own_activation.clamp_min(0), threshold)
    parts = (own_activation - activation, clipped - own_activation, even - clipped, output - even)
    return dict(zip(CAUSES, parts))


def layer_errors(ann: nn.Module, snn: SpikingClassifier, images: Tensor, batch_size: int = 64) -> list[LayerError]:
    """The error of every layer of a converted network, by cause.

    Max-pooling that a conversion does on currents is done there in the ANN as well; what it makes of currents that vary in
    time counts as propagated. A bias of the neurons (`ScaledIF.calibrate`) is part of their current and a charge of their
    initial potential. Of networks with SRP or COS the counted steps are looked at. Memory does not grow with T.

    Args:
        ann: what was converted, an `AnnClassifier` or the bare network; in evaluation as it was then.
        snn: from `convert`, possibly corrected by `with_srp` or `with_cos`; in evaluation mode.
        images: ``[N, C, H, W]`` in [0, 1], N >= 1, on the device of both.
        batch_size: images that run together.

    Returns:
        one entry for each neuron layer, in the order of the ANN's activations.

    Raises:
        RobustSNNError: an SNN that was not converted from this ANN, or is in training mode; no images, batch_size < 1.
    """
    _check(snn, images, batch_size)
    bare, normalize = bare_network(ann, snn.normalize if not isinstance(ann, AnnClassifier) else None)
    kinds = (QCFS,) if any(isinstance(module, QCFS) for module in bare.modules()) else (nn.ReLU, nn.ReLU6)
    net, names = separate_call_sites(bare, kinds, pools_first=True)
    neurons = {name: module for name, module in snn.net.named_modules() if isinstance(module, ScaledIF)}
    if set(names) != set(neurons):
        raise RobustSNNError(
            f"the SNN was not converted from this ANN: its neurons are {', '.join(neurons) or 'none of a converted network'}, "
            f"the ANN's activations {', '.join(names)}"
        )
    source = AnnClassifier(net, normalize).to(images.device).eval()
    sums = {name: _Sums() for name in names}
    with torch.no_grad():
        for batch in images.split(batch_size):
            with _noted_outputs(net, names) as activations:
                source(batch)
            with _summed_over_time(neurons) as means:
                watch(snn, snn.encode(batch), lambda dynamics: None, current=False)
            for name in names:
                node = neurons[name]
                z, out = (total / snn.time_steps for total in means[name])
                z = z if node.bias is None else z + node.bias
                start = node.neuron.v_init if node.charge is None else node.neuron.v_init + node.charge / node.unit
                activation = activations[name].double()
                own = net.get_submodule(name)(z.to(activations[name].dtype)).double()
                parts = split_error(activation, own, z, out, node.threshold.double(), snn.time_steps, start)
                sums[name].add(activation, out, parts)
    return [sums[name].result(name) for name in names]


@contextmanager
def _noted_outputs(net: nn.Module, names: list[str]) -> Iterator[dict[str, Tensor]]:
    outputs: dict[str, Tensor] = {}

    def note(name: str) -> Any:
        return lambda module, inputs, output: outputs.update({name: output.clone()})

    hooks = [net.get_submodule(name).register_forward_hook(note(name)) for name in names]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _summed_over_time(neurons: dict[str, ScaledIF]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Sums over time of the currents and of the outputs of neurons, of the last run that began with the first step."""
    sums: dict[str, tuple[Tensor, Tensor]] = {}

    def note(name: str) -> Any:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            execution = current()
            assert execution is not None
            new = [_over_time(x, execution.time_steps) for x in (inputs[0], output)]
            if execution.first_step:
                new = [before + more for before, more in zip(sums[name], new)]
            sums[name] = new[0], new[1]

        return add

    hooks = [module.register_forward_hook(note(name)) for name, module in neurons.items()]
    try:
        yield sums
    finally:
        for hook in hooks:
            hook.remove()


def _over_time(x: Tensor, time_steps: int) -> Tensor:
    return x.view(time_steps, -1, *x.shape[1:]).sum(0, dtype=torch.float64)


class _Sums:
    """Sums of errors over batches."""

    def __init__(self) -> None:
        self.n = 0
        self.squared_activation = 0.0
        self.parts = {name: [0.0, 0.0, 0.0] for name in ("total", *CAUSES)}

    def add(self, activation: Tensor, output: Tensor, parts: dict[str, Tensor]) -> None:
        self.n += activation.numel()
        self.squared_activation += float(activation.square().sum())
        for name, error in {"total": output - activation, **parts}.items():
            for position, value in enumerate((error, error.abs(), error.square())):
                self.parts[name][position] += float(value.sum())

    def result(self, name: str) -> LayerError:
        means = {cause: [value / self.n for value in values] for cause, values in self.parts.items()}
        parts = {cause: ErrorPart(mean, absolute, squared**0.5) for cause, (mean, absolute, squared) in means.items()}
        return LayerError(name, (self.squared_activation / self.n) ** 0.5, **parts)


def _check(snn: object, images: Tensor, batch_size: int) -> None:
    if not isinstance(snn, SpikingClassifier) or snn.layout != "folded" or not snn.encoder.static:
        raise RobustSNNError(
            f"layer errors are those of a network that robustsnn.conversion.convert made, got a {type(snn).__name__}"
        )
    if any(module.training for module in snn.modules()):
        raise RobustSNNError(
            "the SNN is in training mode, where batch norm computes something else; call .eval() first"
        )
    if not len(images):
        raise RobustSNNError("there are no images to measure errors on; give at least one, [N, C, H, W]")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise RobustSNNError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
