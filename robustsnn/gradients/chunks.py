"""T steps without a graph in a fixed amount of memory: a few steps at a time, neurons carried from one to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.gradients.affine import before_the_first_neuron, is_certainly_affine
from robustsnn.gradients.unvalued import unvalued_convolutions
from robustsnn.neurons.dynamics import Dynamics, dynamics_of
from robustsnn.neurons.slopes import Slope
from robustsnn.neurons.tally import Tally

_STEPS = 2
_FRAMES = 32
"""Fewest frames of one piece. From 16 rows on torch's CPU layers gave bit for bit what they give on all rows at once;
below, and in rare large linear layers, the last bit differs."""


def lengths(time_steps: int, batch: int) -> list[int]:
    """Steps of each piece that ``time_steps`` are cut into for a batch of this size, as even as can be.

    A piece has a single step only where ``time_steps`` is 1.
    """
    shortest = max(_STEPS, -(-_FRAMES // max(batch, 1)))
    pieces = max(1, time_steps // shortest)
    short, longer = divmod(time_steps, pieces)
    return [short + 1] * longer + [short] * (pieces - longer)


def watch(
    model: SpikingClassifier, frames: Tensor, slope: Callable[[Dynamics], Slope | None], current: bool = True
) -> tuple[Tensor, list[tuple[nn.Module, Tally]]]:
    """Run a network in evaluation mode and note what each of its neurons does.

    Args:
        model: the network.
        frames: from ``model.encode``.
        slope: the slope whose mean is wanted at neurons of these dynamics, or None.
        current: whether mean currents are wanted.

    Returns:
        logits ``[N, K]``, the model's own values, and for each call of a neuron, in order, the neuron and its means.

    Raises:
        RobustSNNError: neurons or layers whose steps cannot be taken over.
    """
    calls: list[tuple[nn.Module, Tally]] = []
    waiting: Iterator[tuple[nn.Module, Tally]] = iter(())

    def first(node: neuron.BaseNode, x_seq: Tensor, time_steps: int) -> Tensor:
        dynamics = dynamics_of(node)
        calls.append((node, Tally(dynamics, model.time_steps, slope(dynamics), current)))
        return calls[-1][1].advance(x_seq, time_steps)

    def further(node: neuron.BaseNode, x_seq: Tensor, time_steps: int) -> Tensor:
        _, tally = next(waiting)
        return tally.advance(x_seq, time_steps)

    static, outputs, start = model.encoder.static, [], 0
    batch = len(frames) if static else frames.shape[1]
    chain = static and is_certainly_affine(model.net)
    with torch.no_grad():
        for count in lengths(model.time_steps, batch):
            piece = frames if static else frames[start : start + count]
            waiting = iter(calls)
            known = before_the_first_neuron(model.net) if start and calls and calls[0][1].static and chain else []
            with unvalued_convolutions(known):
                step = further if start else first
                outputs.append(model.run(piece, step, time_steps=count, first_step=start))
            start += count
        return model.readout(torch.cat(outputs)), calls
