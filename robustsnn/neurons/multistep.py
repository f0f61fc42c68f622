"""One layer of spiking neurons over all time steps: a single node of the autograd graph."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from robustsnn.errors import RobustSNNError
from robustsnn.neurons import compiled, stepwise
from robustsnn.neurons.dynamics import PLIF, Dynamics
from robustsnn.neurons.slopes import Slope


def multistep(
    x_seq: Tensor,
    dynamics: Dynamics,
    slope: Slope,
    *,
    time_steps: int | None = None,
    detach_reset: bool | None = None,
    v: Tensor | None = None,
    loops: ModuleType | None = None,
) -> tuple[Tensor, Tensor]:
    """Spikes of T steps and the potential after the last, differentiable once by back-propagation through time.

    Args:
        x_seq: floating-point currents ``[T, N, ...]``; ``[1, N, ...]`` with ``time_steps`` for a constant current.
        dynamics: what the neurons compute.
        slope: stand-in for the derivative of the spike.
        time_steps: number of steps; the length of ``x_seq`` unless given.
        detach_reset: whether the reset is cut from the graph; the neuron's own choice unless given.
        v: potential before the first step ``[N, ...]``; ``dynamics.v_init`` everywhere unless given.
        loops: `compiled` or `stepwise`; the fastest that takes the tensor unless given.

    Returns:
        spikes ``[T, N, ...]`` and potential ``[N, ...]``. One tensor of the size of the spikes is kept for backward.

    Raises:
        RobustSNNError: currents that are not floating-point, or shapes that do not fit together.
    """
    steps = len(x_seq) if time_steps is None else time_steps
    _check(x_seq, steps, v)
    cut = dynamics.detach_reset if detach_reset is None else detach_reset
    loops = loops or (compiled if compiled.take(x_seq, dynamics) else stepwise)
    dynamics = dynamics.during(0, steps, x_seq.shape[2:])
    w = dynamics.w if dynamics.leaks is None else dynamics.leaks
    if not torch.is_grad_enabled():  # autograd would still ask for the potentials
        x_seq, w, v = x_seq.detach(), None, None if v is None else v.detach()
    return _MultiStep.apply(x_seq, v, w, dynamics, slope, steps, not cut, loops)[:2]  # type: ignore[no-any-return]


def _check(x_seq: Tensor, steps: int, v: Tensor | None) -> None:
    if not x_seq.is_floating_point():
        raise RobustSNNError(f"currents must be floating-point, got {x_seq.dtype}; convert the input with .float()")
    if steps < 1 or len(x_seq) not in (1, steps):
        raise RobustSNNError(f"currents are given for {len(x_seq)} steps; expected time_steps={steps} of them, or 1")
    if v is not None and (v.shape != x_seq.shape[1:] or v.dtype != x_seq.dtype):
        raise RobustSNNError(
            f"the initial potential must be {tuple(x_seq.shape[1:])} of {x_seq.dtype} like the currents of one step, "
            f"got {tuple(v.shape)} of {v.dtype}"
        )


class _MultiStep(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_seq: Tensor,
        v: Tensor | None,
        w: Tensor | None,
        dynamics: Dynamics,
        slope: Slope,
        steps: int,
        through_reset: bool,
        loops: ModuleType,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        keep = any(ctx.needs_input_grad)
        order = _order_in_memory(x_seq, slope, dynamics)
        x_seq = x_seq.permute(order.inward).contiguous()
        start = torch.full_like(x_seq[0], dynamics.v_init)
        if v is not None:
            start.copy_(v.detach().permute(order.state_inward))
        initial = start.clone().permute(order.state_outward) if ctx.needs_input_grad[2] else None
        s, m = loops.forward(x_seq, steps, start, dynamics, keep)
        if m is not None:
            m = m.permute(order.outward)
        if keep:
            assert m is not None
            if slope.observe is not None:
                slope = slope.observe(m - dynamics.v_threshold)
            ctx.save_for_backward(m, *([initial] if initial is not None else []))
            ctx.dynamics, ctx.slope, ctx.through_reset, ctx.loops = dynamics, slope, through_reset, loops
            ctx.static, ctx.order = len(x_seq) == 1 and steps > 1, order
            ctx.set_materialize_grads(False)
        return s.permute(order.outward), start.permute(order.state_outward), m

    @staticmethod
    def backward(ctx: Any, grad_s: Tensor | None, grad_v: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            gradients = _MultiStep._gradients(ctx, grad_s, grad_v)
        if torch.is_grad_enabled():  # a graph of the gradient is asked for
            m = ctx.saved_tensors[0]
            gradients = tuple(g if g is None else _Final.apply(g, m) for g in gradients)
        return *gradients, None, None, None, None, None

    @staticmethod
    def _gradients(ctx: Any, grad_s: Tensor | None, grad_v: Tensor | None) -> tuple[Tensor | None, ...]:
        m, *initial = ctx.saved_tensors
        dynamics: Dynamics = ctx.dynamics
        order: _Order = ctx.order
        potentials = m.permute(order.inward)
        grad_s = torch.zeros_like(potentials) if grad_s is None else grad_s.permute(order.inward).contiguous()
        adjoint = torch.zeros_like(potentials[0])
        if grad_v is not None:
            adjoint.copy_(grad_v.permute(order.state_inward))
        static = ctx.static and not initial
        dx = ctx.loops.backward(grad_s, potentials, adjoint, dynamics, ctx.slope, ctx.through_reset, static)
        dx = dx.permute(order.outward)
        dw = None
        if initial:
            dw = _gradient_of_parameter(dx, m, initial[0], dynamics)
            if ctx.static:
                dx = dx.sum(0, keepdim=True)
        dv = adjoint.permute(order.state_outward) if ctx.needs_input_grad[1] else None
        return dx if ctx.needs_input_grad[0] else None, dv, dw


@dataclass(frozen=True)
class _Order:
    """The order of axes in which a sequence ``[T, N, ...]`` lies in memory, and back; time and batch stay in front."""

    inward: tuple[int, ...]

    @property
    def outward(self) -> tuple[int, ...]:
        return tuple(self.inward.index(axis) for axis in range(len(self.inward)))

    @property
    def state_inward(self) -> tuple[int, ...]:
        """The same for tensors without time, ``[N, ...]``."""
        return tuple(axis - 1 for axis in self.inward[1:])

    @property
    def state_outward(self) -> tuple[int, ...]:
        return tuple(axis - 1 for axis in self.outward[1:])


def _order_in_memory(x_seq: Tensor, slope: Slope, dynamics: Dynamics) -> _Order:
    """Neurons are independent, so channels-last tensors need no copy; slopes of one's own see the axes as they are.

    Neurons that differ keep their places.
    """
    axes = range(x_seq.dim())
    alike = dynamics.leaks is None
    if not alike or slope.compiled is None or slope.observe is not None or x_seq.is_contiguous():
        return _Order(tuple(axes))
    strides = x_seq.stride()
    return _Order((*axes[:2], *sorted(axes[2:], key=lambda axis: -strides[axis])))


class _Final(torch.autograd.Function):
    """A gradient that cannot be differentiated again, tied to the potentials: an error, never a missing term."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, m: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        raise RobustSNNError(
            "the backward pass of robustsnn's neurons cannot be differentiated again (no second derivatives); "
            "use finite differences of the gradient"
        )


def _gradient_of_parameter(dx: Tensor, m: Tensor, initial: Tensor, dynamics: Dynamics) -> Tensor:
    """Gradient at the trainable scalar of a parametric LIF, or at leaks: sums of dm times the derivative of the charge."""
    after = torch.where(
        m >= dynamics.v_threshold, m - dynamics.v_threshold if dynamics.soft_reset else dynamics.rest, m
    )
    old = torch.cat([initial[None], after[:-1]])
    if dynamics.leaks is not None:  # m = rest + leak (old - rest) + x, and dx = dm
        return (dx * (old - dynamics.rest)).sum(1)
    assert dynamics.kind == PLIF
    rate = dynamics.rate
    assert dynamics.w is not None
    assert isinstance(rate, Tensor)
    rate = rate.detach()
    if dynamics.decay_input:  # m = old + (x - (old - rest)) * rate, and dx = rate * dm
        total = (dx / rate * (m - old) / rate).sum()
    else:
        total = -(dx * (old - dynamics.rest)).sum()
    return (total * rate * (1 - rate)).reshape(dynamics.w.shape)
