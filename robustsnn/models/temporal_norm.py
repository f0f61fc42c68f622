"""Temporal effective batch norm (TEBN): statistics over time and batch, and a trained scale for each step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsnn.errors import RobustSNNError
from robustsnn.neurons.execution import current


class TemporalBatchNorm2d(nn.Module):
    """``y[t] = p[t] (weight (x[t] - mean) / sqrt(variance + eps) + bias)``, mean and variance over all steps and images.

    Duan et al., "Temporal effective batch normalization in spiking neural networks", NeurIPS 2022: one trained number
    ``p[t]`` a step, 1 to begin with, common to all channels.

    Inside a `SpikingClassifier` it takes the folded ``[T*N, C, H, W]``. Called outside of one, it does one step a call
    and counts them in ``v`` until `reset_state`. Where a gradient rule runs the mean frame of all steps (CBA's artificial
    network), its scale is the mean of ``p``. It is another affine map at every step, so rate rules take T frames.

    Args:
        channels: C.
        time_steps: T, the number of scales.
    """

    runs_folded = True
    is_affine = False

    def __init__(self, channels: int, time_steps: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.scales = nn.Parameter(torch.ones(time_steps))
        self.v: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Normalised and scaled frames, of the shape of ``x``.

        Raises:
            RobustSNNError: a run of more steps than there are scales.
        """
        return self.norm(x) * self._scales_for(x)  # type: ignore[no-any-return]

    def reset_state(self) -> None:
        """Start from the first step."""
        self.v = None

    def _scales_for(self, x: Tensor) -> Tensor:
        execution = current()
        if execution is not None:
            scales = execution.of_steps(self.scales)
            return scales.repeat_interleave(len(x) // len(scales)).view(-1, 1, 1, 1)
        step = 0 if self.v is None else self.v
        if step == len(self.scales):
            raise RobustSNNError(
                f"TEBN has scales for {step} steps and was called for one more; call reset_state() before each image"
            )
        self.v = step + 1
        return self.scales[step]

    def extra_repr(self) -> str:
        """T."""
        return f"time_steps={len(self.scales)}"
