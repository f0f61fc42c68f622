"""What a layer of neurons did, averaged over time: all that a gradient rule needs that looks at means only."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from robustsnn.neurons import compiled, stepwise
from robustsnn.neurons.dynamics import Dynamics
from robustsnn.neurons.slopes import Slope


class Tally:
    """A layer of neurons that is run some steps at a time, without a graph, and keeps means instead of sequences.

    After the last step it has the ``rate`` (spikes per step, in [0, 1]) and, where asked for, the mean ``current`` and the
    mean ``slope`` of each neuron, ``[N, ...]``.

    Args:
        dynamics: what the neurons compute.
        time_steps: number of steps over all calls.
        slope: a slope whose time mean is wanted, or None.
        current: whether the mean current is wanted.
        loops: `compiled` or `stepwise`; the fastest that takes the tensor unless given.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        time_steps: int,
        slope: Slope | None = None,
        current: bool = True,
        loops: ModuleType | None = None,
    ) -> None:
        self.dynamics = dynamics
        self.time_steps = time_steps
        self.current = self.rate = self.slope = torch.empty(0)
        self._slope = slope
        self._loops = loops
        self._wants_current = current
        self._done = 0
        self.static = False
        self._constant = torch.empty(0)

    @torch.no_grad()
    def advance(self, x_seq: Tensor, time_steps: int) -> Tensor:
        """Run ``time_steps`` further steps, the first time from the initial potential.

        Args:
            x_seq: floating-point currents ``[time_steps, N, ...]``, or ``[1, N, ...]`` where they are constant in time,
                over all calls (later calls then do not read it).
            time_steps: number of steps of this call; in the first at least 2 unless there is one in all.

        Returns:
            spikes ``[time_steps, N, ...]``.
        """
        fresh = not self._done
        if fresh:
            self._inward = _order_in_memory(x_seq, self.dynamics)
            self._outward = tuple(self._inward.index(axis) for axis in range(x_seq.dim()))
            self.static = len(x_seq) == 1 and time_steps > 1
        if fresh or not self.static:
            x_seq = x_seq.permute(self._inward).contiguous()
        else:
            x_seq = self._constant
        if fresh:
            self._constant = x_seq if self.static else self._constant
            wanted = (self._wants_current and not self.static, True, self._slope is not None)
            self._v = torch.empty_like(x_seq[0])
            self._sums = [torch.empty_like(self._v) if want else x_seq.new_empty(0) for want in wanted]
        loops = self._loops or (compiled if compiled.take(x_seq, self.dynamics) else stepwise)
        dynamics = self.dynamics.during(self._done, time_steps, x_seq.shape[2:])
        self._done += time_steps
        divisor = self._done if self._done >= self.time_steps else 0
        spikes = loops.tally(x_seq, time_steps, self._v, dynamics, self._sums, self._slope, fresh, divisor)
        if divisor:
            means = [x_seq[0] if self.static else self._sums[0], *self._sums[1:]]
            self.current, self.rate, self.slope = (
                mean[None].permute(self._outward)[0] if mean.numel() else mean for mean in means
            )
            del self._v, self._sums
            self._constant = torch.empty(0)
        return spikes.permute(self._outward)


def _order_in_memory(x_seq: Tensor, dynamics: Dynamics) -> tuple[int, ...]:
    """Axes of ``[T, N, ...]`` as they lie in memory, time and batch in front: channels-last tensors need no copy.

    Neurons that differ keep their places.
    """
    axes = range(x_seq.dim())
    if dynamics.leaks is not None:
        return tuple(axes)
    return *axes[:2], *sorted(axes[2:], key=x_seq.stride().__getitem__, reverse=True)
