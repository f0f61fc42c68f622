"""The input gradients of the true-class probability and of the margin: norms, zeros, and how much worse than random."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustsnn.attacks.context import attacked
from robustsnn.attacks.inputs import Model, check_logits, usable_gradient
from robustsnn.attacks.randomness import per_image
from robustsnn.draws import reseed


def study_gradients(
    model: Model, images: Tensor, labels: Tensor, eps: Sequence[float], draws: int = 8, seed: int = 0
) -> dict[str, list[float]]:
    """Per image: norms of ``g``, the gradient of ``f = p_y`` at the image, and squared changes of ``f``.

    The adversarial change is ``(f(x + eps sgn g) - f(x))^2``, the random one the mean of ``(f(x + d) - f(x))^2`` over
    ``draws`` uniform draws ``d`` from the cube of side ``2 eps``; neither is clipped to [0, 1], as in the theory (Liu et
    al., ICML 2024): for linear ``f`` their ratio is ``3 ||g||_1^2 / ||g||_2^2``, which lies in ``[3, 3 ||g||_0]``.
    A stochastic encoder draws the same numbers for every ``f``: differences of independent draws would be mostly noise.

    Args:
        model: or its view through a gradient rule, which then gives ``g``.
        images: ``[N, ...]`` in [0, 1].
        labels: ``[N]``.
        eps: radii.
        draws: random draws an image and radius.
        seed: of the draws, and of a stochastic encoder.

    Returns:
        columns of length N: ``probability``, ``l1``, ``l2``, ``nonzero`` (entries), ``entries``; ``margin_l1``, the norm for
        the margin ``z_y - max_{j != y} z_j``, which unlike the probability does not saturate in a confident model; and
        for every radius ``adversarial_<i>``, ``random_<i>`` with i its place in ``eps``.

    Raises:
        RobustSNNError: logits or gradients that are missing or not finite.
    """
    with attacked(model):
        x = images.detach().requires_grad_()
        with torch.enable_grad():
            logits = _logits(model, x, labels, seed)
            f = _true_class_probability(logits, labels)
            g, margin_g = _gradient(f, x), _gradient(_margin(logits, labels), x)
        flat, f = g.flatten(1), f.detach()
        columns = {
            "probability": f,
            "l1": flat.abs().sum(1),
            "l2": torch.linalg.vector_norm(flat, dim=1),
            "nonzero": (flat != 0).sum(1).to(f.dtype),
            "entries": torch.full_like(f, flat.shape[1]),
            "margin_l1": margin_g.flatten(1).abs().sum(1),
        }
        with torch.no_grad():
            for i, radius in enumerate(eps):
                moved = _true_class_probability(_logits(model, images + radius * g.sign(), labels, seed), labels)
                columns[f"adversarial_{i}"] = (moved - f) ** 2
                changes = torch.zeros_like(f)
                for draw in range(draws):
                    noise = radius * (2 * per_image(images, seed, 1000 + draw) - 1)
                    drawn = _true_class_probability(_logits(model, images + noise, labels, seed), labels)
                    changes += (drawn - f) ** 2
                columns[f"random_{i}"] = changes / draws
    return {name: values.double().cpu().tolist() for name, values in columns.items()}


def _logits(model: Model, x: Tensor, labels: Tensor, seed: int) -> Tensor:
    if isinstance(model, nn.Module):
        reseed(model, seed)
    logits = model(x)
    check_logits(logits, labels)
    return logits


def _true_class_probability(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.softmax(1).gather(1, labels[:, None])[:, 0]


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    true = logits.gather(1, labels[:, None])
    rivals = logits.scatter(1, labels[:, None], -torch.inf)
    return true[:, 0] - rivals.amax(1)


def _gradient(values: Tensor, x: Tensor) -> Tensor:
    if not values.requires_grad:
        return usable_gradient(None)[0]
    return usable_gradient(torch.autograd.grad(values.sum(), x, retain_graph=True, allow_unused=True)[0])[0]
