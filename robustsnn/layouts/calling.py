"""Calling a network in its own layout of time, and its outputs as ``[T, N, K]``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from robustsnn.errors import RobustSNNError
from robustsnn.layouts.frameworks import is_squeezed, state_arguments


def call_over_time(net: nn.Module, layout: str, frames: Tensor) -> Tensor:
    """Outputs of ``net`` for ``frames`` ``[T, N, ...]``, the way ``layout`` says.

    Of a tuple that the network returns (spikes and potentials, output and state) the first element is the output.

    Returns:
        ``[T, N, K]``; ``[1, N, K]`` where the network reads out over time itself.

    Raises:
        RobustSNNError: the network returns another shape, or other than tensors.
    """
    if layout == "multi":
        return _output(net(frames))
    if layout == "single":
        return torch.stack([_one_step(net(frame), frame) for frame in frames.unbind(0)])
    if layout == "state":
        return _threading_state(net, frames)
    if layout == "batch_first":
        return _over_time(_output(net(frames.transpose(0, 1))), frames, batch_first=True)
    if layout == "batch_folded":
        with _unsqueezing(net, len(frames)):
            folded = _output(net(frames.transpose(0, 1).flatten(0, 1)))
        per_step = len(folded) == frames.shape[0] * frames.shape[1]
        outputs = folded.unflatten(0, (frames.shape[1], frames.shape[0])) if per_step else folded
        return _over_time(outputs, frames, batch_first=True)
    return _over_time(_output(net(frames[0] if layout == "image" else frames)), frames)


def _threading_state(net: nn.Module, frames: Tensor) -> Tensor:
    """``net(x, state) -> (out, state)``; with several states ``net(x, a, b) -> (out, a, b)``. None at the first step.

    Recurrent neurons of snnTorch take their spikes back, ``net(x, spk, mem) -> (spk, mem)``.
    """
    arguments = state_arguments(net)
    takes_output_back = bool(arguments) and arguments[0].name.startswith("spk")
    state: tuple[Any, ...] = (None,) * len(arguments)
    outputs = []
    for frame in frames.unbind(0):
        result = net(frame, **{argument.name: part for argument, part in zip(arguments, state)})
        values = tuple(result) if isinstance(result, tuple | list) else ()
        state = values if takes_output_back else values[1:]
        if len(state) != len(arguments) or not values:
            names = ", ".join(argument.name for argument in arguments)
            got = f"{len(values)} values" if values else type(result).__name__
            raise RobustSNNError(
                f"with layout='state' the network takes ({names}) and must return (output, "
                f"{'...' if takes_output_back else names}), got {got}; return the output first and then each state in that "
                "order"
            )
        outputs.append(_one_step(values, frame))
    return torch.stack(outputs)


def _one_step(result: object, frame: Tensor) -> Tensor:
    output = _output(result)
    if output.dim() != 2 or len(output) != len(frame):
        raise RobustSNNError(
            f"one step of {len(frame)} images must give outputs [N, K], got shape {tuple(output.shape)}; if the network "
            "loops over time itself, pass layout='sequence' (takes [T, N, ...]) or layout='image' (takes [N, ...])"
        )
    return output


def _over_time(outputs: Tensor, frames: Tensor, batch_first: bool = False) -> Tensor:
    steps, count = frames.shape[:2]
    if outputs.dim() == 2 and len(outputs) == count:
        return outputs.unsqueeze(0)
    leading = (count, steps) if batch_first else (steps, count)
    if outputs.dim() == 3 and outputs.shape[:2] == leading:
        return outputs.transpose(0, 1) if batch_first else outputs
    wanted = f"[N, T, K] = [{count}, {steps}, K]" if batch_first else f"[T, N, K] = [{steps}, {count}, K]"
    hint = "check time_steps and the layout"
    if outputs.dim() == 3 and not batch_first and outputs.shape[1] == count:
        hint = f"pass time_steps={outputs.shape[0]}"
    elif outputs.dim() == 3 and outputs.shape[:2] == leading[::-1]:
        hint = f"pass layout={'sequence' if batch_first else 'batch_first'!r}, or transpose the output"
    raise RobustSNNError(
        f"the network must return {wanted}, or [N, K] if it reads out over time itself, got {tuple(outputs.shape)}; {hint}"
    )


def _output(result: object) -> Tensor:
    while isinstance(result, tuple | list) and result:
        result = result[0]
    if not isinstance(result, Tensor):
        raise RobustSNNError(
            f"the network must return a tensor, or a tuple whose first element is one, got {type(result).__name__}"
        )
    return result


@contextmanager
def _unsqueezing(net: nn.Module, time_steps: int) -> Iterator[None]:
    """Let sinabs' Squeeze layers unfold T steps of any batch size; put their numbers back on leaving."""
    layers: list[Any] = [module for module in net.modules() if is_squeezed(module)]
    numbers = [(module.batch_size, module.num_timesteps) for module in layers]
    for module in layers:
        module.batch_size, module.num_timesteps = -1, time_steps
    try:
        yield
    finally:
        for module, (batch_size, num_timesteps) in zip(layers, numbers):
            module.batch_size, module.num_timesteps = batch_size, num_timesteps
