"""Calibration of a converted network: biases and initial potentials that make its mean outputs those of its ANN."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Literal, get_args

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.conversion.assemble import bare_network
from robustsnn.conversion.calibration import RELUS, checked_batches, explained
from robustsnn.conversion.call_sites import separate_call_sites
from robustsnn.conversion.clip_floor import convert_clip_floor
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.neurons.activations import QCFS
from robustsnn.neurons.execution import own_step
from robustsnn.neurons.scaled import ScaledIF
from robustsnn.pixels import Normalize

Parts = Literal["bias", "potential", "both"]
_FRAMES = 4096
"""Frames, images times steps, that are simulated together."""


def convert_calibrated(
    ann: nn.Module,
    calibration: Tensor | Iterable[Tensor],
    time_steps: int,
    v_init: float = 0.5,
    parts: Parts = "both",
    simulated: int = 128,
    batch_size: int = 100,
    normalize: Normalize | None = None,
) -> SpikingClassifier:
    """`convert_clip_floor` and then `with_calibration`: a conversion without training, for a given T.

    Args:
        ann: as for `convert_clip_floor`.
        calibration: as there.
        time_steps: T >= 1, for which thresholds, biases and potentials are chosen; convert again for another.
        v_init: initial potential in thresholds before the calibration.
        parts: as for `with_calibration`.
        simulated: at most so many of the calibration images, the first, are also simulated over T steps.
        batch_size: images of a tensor that pass the ANN together.
        normalize: ``(mean, std)`` per channel of a bare network, or None.

    Raises:
        RobustSNNError: simulated < 1, and as `convert_clip_floor` and `with_calibration`.
    """
    _check_parts(parts)
    if simulated < 1:
        raise RobustSNNError(f"simulated must be at least 1 image, got {simulated}")
    kept: list[Tensor] = []
    batches = calibration.split(max(batch_size, 1)) if isinstance(calibration, Tensor) else calibration
    model = convert_clip_floor(
        ann, _keeping(batches, kept, simulated), time_steps, v_init, batch_size=batch_size, normalize=normalize
    )
    return with_calibration(model, ann, torch.cat(kept)[:simulated], parts)


def with_calibration(
    model: SpikingClassifier,
    ann: nn.Module,
    calibration: Tensor | Iterable[Tensor],
    parts: Parts = "both",
    batch_size: int | None = None,
) -> SpikingClassifier:
    """A converted network whose neurons get a bias, an initial potential or both, so that they send what the ANN does.

    Li et al., "A free lunch from ANN: towards efficient, accurate spiking neural networks calibration", ICML 2021. Layer
    after layer, on the spikes that the calibrated layers before it really send in the T steps of ``model``, with ``error``
    the activation of the ANN minus the mean output:

    * bias (their light pipeline): ``b += mean(error)`` over images and positions, one for each channel;
    * potential (of their advanced pipeline): ``v[0] += T * mean(error)`` over images, one for each neuron.

    It corrects any converted network, whatever its thresholds come from. Both are buffers of the neurons (`ScaledIF`), so a
    file keeps them, and every gradient rule, correction and report sees an ordinary network. They hold for this T, and a
    potential for images of this size.

    Deviations: a batch passes all layers once, each calibrated before it sends; further batches correct the result with the
    weight of their images among those so far, until the errors average out; the bias comes before the potential.

    Args:
        model: from `convert`, not yet corrected by SRP or COS; copied, not modified.
        ann: what it was converted from; not modified.
        calibration: images ``[N, C, H, W]`` in [0, 1], preprocessed as in evaluation, or batches of such images.
        parts: ``"bias"``, ``"potential"`` or ``"both"``.
        batch_size: images of a tensor that are simulated together; as many as give 4096 frames unless given, so that memory
            does not grow with T. It takes part in the result.

    Raises:
        UnknownNameError: no such part.
        RobustSNNError: not a converted network, an ANN with other activations, no calibration images or bad ones.
    """
    _check_parts(parts)
    result = copy.deepcopy(_checked(model))
    layers = {name: layer for name, layer in result.net.named_modules() if isinstance(layer, ScaledIF)}
    net, recorders = _recording(ann, list(layers))
    like = next(iter(layers.values())).threshold
    net = net.to(like.device)
    calibrators = {
        layer.neuron: _Calibrator(layer, recorders[name], parts in ("bias", "both"), parts in ("potential", "both"))
        for name, layer in layers.items()
    }

    def step(node: neuron.BaseNode, x_seq: Tensor, time_steps: int) -> Tensor:
        return calibrators[node].step(x_seq, time_steps)

    size = max(8, _FRAMES // model.time_steps) if batch_size is None else batch_size
    with torch.no_grad():
        for images in checked_batches(calibration, size, like):
            with explained(images):
                frames = result.encode(images)
                net(frames)
                result.run(frames, step)
    return result


class _Recorder(nn.Module):
    """An activation that remembers what it gave last."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation
        self.last = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.activation(x)
        return self.last


class _Calibrator:
    """Calibrates one layer of neurons, batch after batch."""

    def __init__(self, layer: ScaledIF, wanted: _Recorder, bias: bool, potential: bool) -> None:
        self.layer = layer
        self.wanted = wanted
        self.bias = bias
        self.potential = potential
        self.images = 0

    def step(self, x_seq: Tensor, time_steps: int) -> Tensor:
        """Correct the layer by its errors on these currents ``[T or 1, N, ...]``, in thresholds; its spikes afterwards."""
        layer, node = self.layer, self.layer.neuron
        wanted = self.wanted.last / layer.unit
        x_seq = x_seq.expand(time_steps, *x_seq.shape[1:])
        self.images += len(wanted)
        weight = len(wanted) / self.images
        heard = (layer.threshold > 0).to(wanted)
        spikes = own_step(node, x_seq, time_steps)
        if self.bias:
            error = wanted - spikes.mean(0)
            change = error.mean((0, *range(2, error.dim()))).view(-1, *[1] * (error.dim() - 2)) * weight * heard
            layer.calibrate(bias=change * layer.unit + (0.0 if layer.bias is None else layer.bias))
            x_seq = x_seq + change
            spikes = own_step(node, x_seq, time_steps)
        if self.potential:
            change = time_steps * (wanted - spikes.mean(0)).mean(0) * weight * heard
            layer.calibrate(charge=change * layer.unit + (0.0 if layer.charge is None else layer.charge))
            spikes = own_step(node, torch.cat([x_seq[:1] + change, x_seq[1:]]), time_steps)
        return spikes


def _keeping(batches: Iterable[Tensor], kept: list[Tensor], enough: int) -> Iterator[Tensor]:
    """The batches, of which those that make up ``enough`` images are kept."""
    for images in batches:
        if sum(map(len, kept)) < enough and len(images):
            kept.append(images)
        yield images


def _recording(ann: nn.Module, names: list[str]) -> tuple[nn.Module, dict[str, _Recorder]]:
    """A copy of the ANN with a recorder at each of the activations that became the neurons of these names."""
    bare, _ = bare_network(ann, None)
    quantised = any(isinstance(module, QCFS) for module in bare.modules())
    net, found = separate_call_sites(bare, (QCFS,) if quantised else RELUS, pools_first=not quantised)
    if sorted(found) != sorted(names):
        other = next(name for name in (*found, *names) if name not in found or name not in names)
        raise RobustSNNError(
            f"the ANN is not the one this network was converted from: only one of them has the activation {other!r}"
        )
    recorders = {name: _Recorder(net.get_submodule(name)) for name in names}
    for name, recorder in recorders.items():
        net.set_submodule(name, recorder)
    return net, recorders


def _checked(model: object) -> SpikingClassifier:
    hint = "give a network that robustsnn.conversion.convert made"
    if type(model) is not SpikingClassifier:
        raise RobustSNNError(f"cannot calibrate a {type(model).__name__}; {hint}, and correct it (SRP, COS) afterwards")
    known = {layer.neuron for layer in model.modules() if isinstance(layer, ScaledIF)}
    found = {module for module in model.modules() if isinstance(module, neuron.BaseNode)}
    if not known or found != known or not model.encoder.static or model.layout != "folded":
        raise RobustSNNError(f"only folded networks of ScaledIF neurons with direct coding can be calibrated; {hint}")
    if any(module.training for module in model.modules()):
        raise RobustSNNError(
            "the network is in training mode, where batches change what it computes; call model.eval()"
        )
    return model


def _check_parts(parts: str) -> None:
    if parts not in get_args(Parts):
        raise UnknownNameError("part of a calibration", parts, get_args(Parts))
