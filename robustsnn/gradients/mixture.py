"""Mixtures: several rules at once, each with its share of the gradient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from robustsnn.classifier import GradientRule, SpikingClassifier
from robustsnn.errors import RobustSNNError
from robustsnn.gradients.base import FrameRule
from robustsnn.gradients.bptt import BPTT
from robustsnn.gradients.hart import HART
from robustsnn.gradients.parameters import within

Shares = Mapping[GradientRule, float] | Iterable[tuple[GradientRule, float]]


class Mixture:
    """Weighted sum of the gradients that several rules give at the images.

    Each gradient is first divided by its mean absolute value in each sample, or the rule with the longer gradient would
    decide alone, the more so the deeper the network (published MIX, in the code of Hao et al., ICLR 2024, adds as it is).
    A gradient that is zero stays zero. Only the images get a gradient, not the weights of the network. The rules see one
    and the same draw of a random encoder (a rule that is no `FrameRule` draws its own).

    Args:
        rules: rules and their weights, as a dictionary or as pairs; weights are at least 0, not all 0. MIX unless given:
            half HART(0.5), half BPTT with a triangle of width 1 through the reset.
        normalised: False to add the gradients as they are, as published.

    Raises:
        RobustSNNError: no rule, a rule that is none, or a bad weight.
    """

    def __init__(self, rules: Shares | None = None, normalised: bool = True) -> None:
        if rules is None:
            rules = [(HART(0.5), 0.5), (BPTT("triangle", detach_reset=False), 0.5)]
        self.rules = _checked(rules)
        self.normalised = normalised

    def begin(self, n: int) -> None:
        """Pass it on to the rules that learn, see `AdaptiveRule`."""
        for rule, _ in self.rules:
            if hasattr(rule, "begin"):
                rule.begin(n)

    def select(self, rows: Tensor, update: bool) -> None:
        """Pass it on to the rules that learn, see `AdaptiveRule`."""
        for rule, _ in self.rules:
            if hasattr(rule, "select"):
                rule.select(rows, update)

    def logits(self, model: SpikingClassifier, images: Tensor) -> Tensor:
        """Logits ``[N, K]``, the model's values, whose gradient at the images is the mixture's."""
        leaf = images.detach().requires_grad_()
        terms = []
        with torch.enable_grad():
            frames = model.encode(leaf)
            for rule, weight in self.rules:
                if isinstance(rule, FrameRule):
                    terms.append((rule.differentiate(model, frames), weight))
                else:
                    terms.append((rule.logits(model, leaf), weight))
        return _Mixed.apply(images, leaf, terms, self.normalised)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        pairs = ", ".join(f"({rule!r}, {weight})" for rule, weight in self.rules)
        return f"Mixture([{pairs}], normalised={self.normalised})"


def _checked(rules: Shares) -> list[tuple[GradientRule, float]]:
    pairs: list[Any] = list(rules.items() if isinstance(rules, Mapping) else rules)
    if not all(isinstance(pair, tuple | list) and len(pair) == 2 and hasattr(pair[0], "logits") for pair in pairs):
        raise RobustSNNError(
            "Mixture: rules must be pairs of a gradient rule and a weight, e.g. [(HART(0.5), 0.5), ...]"
        )
    weights = [within("Mixture", f"weight of {rule!r}", weight, 0.0, 1e6, closed=True) for rule, weight in pairs]
    if not sum(weights):
        raise RobustSNNError("Mixture: at least one weight must be above 0")
    return [(rule, weight) for (rule, _), weight in zip(pairs, weights)]


class _Mixed(torch.autograd.Function):
    """Values of the first rule's logits; the gradients of all, mixed, at the images."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, leaf: Tensor, terms: list[tuple[Tensor, float]], normalised: bool) -> Tensor:
        ctx.leaf, ctx.terms, ctx.normalised = leaf, terms, normalised
        return terms[0][0].detach().clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        total = torch.zeros_like(ctx.leaf)
        for logits, weight in ctx.terms:
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(logits, ctx.leaf, grad, retain_graph=True)
            total += weight * (_normalised(gradient) if ctx.normalised else gradient)
        return total, None, None, None


def _normalised(gradient: Tensor) -> Tensor:
    size = gradient.abs().flatten(1).mean(1).view(-1, *[1] * (gradient.dim() - 1))
    return torch.where(size > 0, gradient / torch.where(size > 0, size, torch.ones_like(size)), gradient)
