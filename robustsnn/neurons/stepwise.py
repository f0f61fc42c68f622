"""The multi-step neuron as a plain loop of tensor operations: any device and precision, and the twin of `compiled`."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsnn.neurons.dynamics import IF, LEAKS, LIF, Dynamics
from robustsnn.neurons.slopes import Slope


def charge(v: Tensor, x: Tensor, dynamics: Dynamics) -> Tensor:
    """Potential before reset, with SpikingJelly's operations in SpikingJelly's order (see `Dynamics`).

    Args:
        v: potential after the last step, ``[N, ...]``.
        x: current, ``[N, ...]``.
        dynamics: of this step (`Dynamics.at`).
    """
    if dynamics.kind == IF:
        return v + x
    towards_rest = v - dynamics.rest
    if dynamics.kind == LEAKS:
        return dynamics.leak * towards_rest + dynamics.rest + x
    if dynamics.kind == LIF:
        return v + (x - towards_rest) / dynamics.tau if dynamics.decay_input else v - towards_rest / dynamics.tau + x
    rate = dynamics.rate
    return v + (x - towards_rest) * rate if dynamics.decay_input else v - towards_rest * rate + x


def forward(x_seq: Tensor, time_steps: int, v: Tensor, dynamics: Dynamics, keep: bool) -> tuple[Tensor, Tensor | None]:
    """Run one layer of neurons for ``time_steps`` steps, without a graph.

    Args:
        x_seq: currents ``[T, N, ...]``, or ``[1, N, ...]`` for a current that is constant in time.
        time_steps: number of steps T.
        v: potential before the first step, ``[N, ...]``; advanced in place to the one after the last.
        dynamics: what the neurons compute.
        keep: whether the backward pass will need the potentials.

    Returns:
        spikes ``[T, N, ...]`` and, if ``keep``, the potentials before reset (same shape).
    """
    s = x_seq.new_empty(time_steps, *x_seq.shape[1:])
    m = torch.empty_like(s) if keep else None
    threshold = dynamics.v_threshold
    for t in range(time_steps):
        p = charge(v, x_seq[t if len(x_seq) > 1 else 0], dynamics.at(t))
        fires = p >= threshold
        s[t] = fires
        if m is not None:
            m[t] = p
        v.copy_(torch.where(fires, p - threshold if dynamics.v_reset is None else dynamics.rest, p))
    return s, m


def tally(
    x_seq: Tensor,
    time_steps: int,
    v: Tensor,
    dynamics: Dynamics,
    sums: list[Tensor],
    slope: Slope | None,
    fresh: bool,
    divisor: int,
) -> Tensor:
    """As `forward`, and add to ``sums`` what each step gives.

    Args:
        x_seq: as in `forward`.
        time_steps: as in `forward`.
        v: as in `forward`.
        dynamics: as in `forward`.
        sums: of the currents (empty where they are not wanted), of the spikes, and of the slopes where there is one.
        slope: whose values are added up, or None.
        fresh: whether to start from ``dynamics.v_init`` and 0, whatever ``v`` and ``sums`` hold.
        divisor: of the sums at the end; 0 to leave them.

    Returns:
        spikes ``[T, N, ...]``.
    """
    current, spikes, slopes = sums
    if fresh:
        v.fill_(dynamics.v_init)
        for total in sums:
            total.zero_()
    s = x_seq.new_empty(time_steps, *x_seq.shape[1:])
    for t in range(time_steps):
        x = x_seq[t if len(x_seq) > 1 else 0]
        p = charge(v, x, dynamics.at(t))
        fires = p >= dynamics.v_threshold
        s[t] = fires
        spikes += s[t]
        if current.numel():
            current += x
        if slope is not None:
            slopes += slope((p - dynamics.v_threshold)[None])[0]
        v.copy_(torch.where(fires, p - dynamics.v_threshold if dynamics.v_reset is None else dynamics.rest, p))
    if divisor:
        for total in sums:
            total /= divisor
    return s


def backward(
    grad_s: Tensor, m: Tensor, adjoint: Tensor, dynamics: Dynamics, slope: Slope, through_reset: bool, static: bool
) -> Tensor:
    """Back-propagation through time of one layer (`gradients.md`'s recursion, section 4, with reset potential r).

    ``d[t] = (ds[t] + through_reset * dv/ds * a[t]) * psi(u[t]) + keep * a[t]``; ``dx[t] = gain d[t]``;
    ``a[t-1] = leak d[t]``, with ``dv/ds = r - m[t]``, ``keep = 1 - s[t]`` (hard reset) or ``-v_threshold``, ``1`` (soft).

    Args:
        grad_s: gradient of the loss at the spikes, ``[T, N, ...]``.
        m: potentials before reset, same shape.
        adjoint: gradient at the potential after the last step, ``[N, ...]``; ends as that at the initial potential.
        dynamics: what the neurons compute.
        slope: stand-in for the derivative of the spike.
        through_reset: whether the gradient passes through the reset (``not detach_reset``).
        static: whether the current was constant in time; its gradient is then the sum over steps.

    Returns:
        gradient at the currents, ``[T, N, ...]`` or ``[1, N, ...]`` where ``static``.
    """
    dx = torch.zeros_like(m[:1]) if static else torch.empty_like(m)
    psi = slope(m - dynamics.v_threshold)
    gain, threshold = dynamics.input_gain, dynamics.v_threshold
    constant_leak = dynamics.leak if dynamics.leaks is None else None
    for t in range(len(m) - 1, -1, -1):
        ds, keep = grad_s[t], adjoint
        if dynamics.v_reset is None:
            if through_reset:
                ds = ds - threshold * adjoint
        else:
            if through_reset:
                ds = ds + (dynamics.rest - m[t]) * adjoint
            keep = torch.where(m[t] >= threshold, torch.zeros_like(adjoint), adjoint)
        d = ds * psi[t] + keep
        if static:
            dx[0] += gain * d
        else:
            dx[t] = gain * d
        leak = dynamics.at(t).leak if constant_leak is None else constant_leak
        adjoint.copy_(leak * d)
    return dx
