"""Stateless layers that treat time steps differently, and the first of them: a trained scale for each step."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from robustsnn.errors import RobustSNNError
from robustsnn.neurons.execution import Execution, current, own_step
from robustsnn.neurons.shapes import Shaped


class StepLayer(nn.Module):
    """A layer of a folded network that knows which time steps it sees and keeps nothing from one to the next.

    Inside a `SpikingClassifier` it gets the steps together. Called outside of one it takes one step a call and counts
    them in ``v``; `reset_state` starts the count again.
    """

    runs_folded = True

    def __init__(self) -> None:
        super().__init__()
        self.v: int | None = None

    @abstractmethod
    def over(self, x_seq: Tensor, execution: Execution) -> Tensor:
        """Output ``[T, N, ...]`` for the steps ``[T, N, ...]`` of this run."""

    def forward(self, x: Tensor) -> Tensor:
        """Output for folded frames ``[T*N, ...]``, or for one step ``[N, ...]`` outside of a classifier."""
        execution = current()
        if execution is None:
            step = self.v or 0
            self.v = step + 1
            return self.over(x[None], Execution(1, own_step, first_step=step))[0]
        if not execution.folded:
            raise RobustSNNError(
                f"{type(self).__name__} works in folded networks only, not in multi-step networks of SpikingJelly"
            )
        steps = execution.time_steps
        return self.over(x.view(steps, len(x) // steps, *x.shape[1:]), execution).flatten(0, 1)

    def reset_state(self) -> None:
        """Begin with the first step."""
        self.v = None


class StepScale(StepLayer, Shaped):
    """Multiplies the frames of step t by the trained number ``scale[t]``, 1 to begin with.

    Args:
        time_steps: number T of steps; from the model (`fix_shapes`) unless given.
    """

    scale: nn.Parameter | None

    def __init__(self, time_steps: int | None = None) -> None:
        super().__init__()
        self.register_parameter("scale", None)
        if time_steps is not None:
            self.scale = nn.Parameter(torch.ones(time_steps))

    @property
    def shaped(self) -> bool:
        """Whether T is known."""
        return self.scale is not None

    def fix_shape(self, frames: Tensor, time_steps: int) -> None:
        """One scale a step."""
        self.scale = nn.Parameter(frames.new_ones(time_steps))

    def over(self, x_seq: Tensor, execution: Execution) -> Tensor:
        """Frames times the scales of their steps."""
        self.check_shaped()
        assert self.scale is not None
        scale = execution.of_steps(self.scale)
        return x_seq * scale.view(-1, *[1] * (x_seq.dim() - 1)).to(x_seq.dtype)
