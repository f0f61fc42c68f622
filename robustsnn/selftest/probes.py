"""The probes of a model that runs: shape, numbers, state, randomness, batch mates, gradient, the plain twin."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from robustsnn.classifier import GradientView, SpikingClassifier
from robustsnn.selftest.bench import Bench, differing
from robustsnn.selftest.modules import unwrapped_state
from robustsnn.selftest.report import ERROR, INFO, WARNING, Finding


def output(bench: Bench) -> Iterator[Finding]:
    """Logits ``[N, K]``, finite, K >= 2; nothing else can be probed where they are not."""
    logits, count = bench.run(), len(bench.images)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != count or not logits.is_floating_point():
        got = f"{logits.dtype} of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        fix = "return floating-point logits; wrap a network over time in SpikingClassifier(net, time_steps=T)"
        yield Finding("output-shape", ERROR, f"{count} images must give logits [{count}, K], got {got}", fix)
    elif logits.shape[1] < 2:
        yield Finding("output-shape", ERROR, "the model has 1 output", "a classifier needs at least 2 classes")
    elif not logits.isfinite().all():
        bad = int((~logits.isfinite().all(1)).sum())
        fix = "check weights, normalisation and divisions"
        yield Finding("nan-logits", ERROR, f"NaN or infinite logits for {bad} of {count} images", fix)


def probabilities(bench: Bench) -> Iterator[Finding]:
    """Outputs that have been through a softmax already."""
    logits = bench.first
    one = torch.ones_like(logits[:, 0])
    if (logits >= 0).all() and torch.allclose(logits.sum(1), one, atol=1e-4):
        yield Finding(
            "probabilities",
            ERROR,
            "the outputs are probabilities (each row sums to 1), so a cross-entropy on them has a flat gradient",
            "return the logits before the softmax",
        )
    elif (logits <= 0).all() and torch.allclose(logits.exp().sum(1), one, atol=1e-4):
        yield Finding(
            "log-probabilities", INFO, "the outputs are log-probabilities; losses of attacks take them as logits"
        )


def constant(bench: Bench) -> Iterator[Finding]:
    """Logits that do not depend on the image."""
    if not differing(bench.first, bench.first[:1].expand_as(bench.first)).any() and _images_differ(bench.images):
        yield Finding(
            "constant-logits",
            WARNING,
            f"all {len(bench.images)} images give the same logits",
            "look at firing rates (silent or always firing layers), the range of the images, and time_steps",
        )


def state(bench: Bench) -> Iterator[Finding]:
    """A second call on the same images: is it the first one again, and if not, why."""
    first, count = bench.first, len(bench.images)
    again = differing(first, bench.run())
    if again.any():
        yield Finding(
            "irreproducible",
            ERROR if again.sum() * 2 > count else WARNING,
            f"two calls from the same state and the same seeds differ for {int(again.sum())} of {count} images: state kept "
            "outside of the model's modules, randomness from a generator of its own, or arithmetic that varies",
            "keep state in modules and wrap them in SpikingClassifier; draw random numbers from seeded torch generators",
        )
        return
    bench.run()
    carried = differing(first, bench.run(fresh=False))
    if carried.any():
        keepers = unwrapped_state(bench.model)
        cause = f", kept by {keepers[0]}" if keepers else ""
        yield Finding(
            "missing-reset",
            ERROR,
            f"a second call on the same images gives other logits for {int(carried.sum())} of {count} of them: state is "
            f"carried over from call to call{cause}, and gradients are taken at stale potentials",
            "wrap the network in SpikingClassifier(net, time_steps=T), and give a module of your own a method "
            "reset_states() that it can call",
        )


def randomness(bench: Bench) -> Iterator[Finding]:
    """Logits that change with the seed."""
    first = bench.first
    if differing(first, bench.run()).any():
        return
    shared = differing(first, bench.run(seed=1))
    bench.run()
    held = differing(first, bench.run(generators=False))
    inner = bench.model.model if isinstance(bench.model, GradientView) else bench.model
    if getattr(inner, "stochastic", False):
        yield Finding(
            "stochastic",
            INFO,
            "the model's encoder or a layer is random, and says so: attacks should average over draws, and successes are "
            "judged on fresh ones",
        )
    elif shared.any() or held.any():
        source = "torch's, numpy's or Python's global generator" if shared.any() else "a generator that it holds"
        yield Finding(
            "hidden-randomness",
            ERROR,
            f"logits change with the seed for {int((shared | held).sum())} of {len(first)} images in evaluation mode: the "
            f"model draws from {source} (dropout that stays on, noise, a random encoder)",
            "switch it off in evaluation mode, or make it an Encoder with stochastic = True",
        )


def batch_mates(bench: Bench) -> Iterator[Finding]:
    """The logits of an image beside other images, in a batch of the same size."""
    first, half, dependent = bench.first, len(bench.images) // 2, 0
    for kept, changed in ((slice(None, half), slice(half, None)), (slice(half, None), slice(None, half))):
        images = bench.images.clone()
        images[changed] = images[changed].flip(0) * 0.5
        dependent += int(differing(first[kept], bench.run(images)[kept]).sum())
    if dependent:
        yield Finding(
            "batch-dependence",
            ERROR,
            f"the logits of {dependent} of {len(first)} images change with their batch mates",
            "use batch norm with running statistics and call model.eval(); check that no layer takes the batch for time "
            "(a multi-step network given [N, ...])",
        )


def one_image(bench: Bench) -> Iterator[Finding]:
    """A batch of one, as the last batch of a data set may be."""
    shape, expected = "", (1, bench.first.shape[1])
    try:
        found = bench.run(bench.images[:1])
        shape = "" if tuple(found.shape) == expected else f"gives shape {tuple(found.shape)} and not {expected}"
    except Exception as error:
        shape = f"fails ({_text(error)})"
    if shape:
        fix = "look for squeeze() without a dimension, view() with a fixed batch size, or batch norm in training mode"
        yield Finding("batch-of-one", ERROR, f"a batch of one image {shape}", fix)


def gradient(bench: Bench) -> Iterator[Finding]:
    """The gradient at the images in evaluation mode: there, finite, not zero, and of the same logits."""
    try:
        logits, grad = bench.run_with_gradient()
    except Exception as error:
        yield Finding("gradient-fails", ERROR, f"no gradient can be taken: {_text(error)}", "see the message")
        return
    count = len(bench.images)
    if not differing(bench.first, bench.run()).any():
        other = differing(bench.first, logits.detach())
        if other.any():
            yield Finding(
                "values-differ",
                ERROR,
                f"the logits of {int(other.sum())} of {count} images are others when a gradient is recorded",
                "compute the same forward pass with and without torch.no_grad()",
            )
    dead = grad is None or not grad.flatten(1).any(1).any()
    if dead and _alive_in_training(bench):
        yield Finding(
            "eval-hides-gradient",
            ERROR,
            "the gradient at the images is gone in evaluation mode and there in training mode: the surrogate depends on "
            "module.training, and every gradient attack finds a false robustness",
            "give the neuron its surrogate in both modes",
        )
    elif grad is None:
        yield Finding(
            "no-gradient",
            ERROR,
            "the logits do not depend on the images in a differentiable way",
            "look for .detach(), torch.no_grad(), argmax or a threshold without a surrogate; encoders need a "
            "straight-through gradient",
        )
    elif not grad.isfinite().all():
        bad = int((~grad.isfinite().flatten(1).all(1)).sum())
        fix = "check surrogates, roots and divisions"
        yield Finding("nan-gradient", ERROR, f"the gradient holds NaN or infinity for {bad} of {count} images", fix)
    elif not grad.flatten(1).any(1).all():
        zero = int((~grad.flatten(1).any(1)).sum())
        yield Finding(
            "zero-gradient",
            ERROR if dead else WARNING,
            f"the gradient is zero everywhere for {zero} of {count} images: a hard threshold without a surrogate, a "
            "surrogate too narrow, or silent layers; gradient attacks cannot move these images",
            "attack through a wider surrogate or a rate rule (model.through(...)), and with a black-box attack",
        )


def plain_twin(bench: Bench) -> Iterator[Finding]:
    """`SpikingClassifier.reference` judges every adversarial example and must agree with the model."""
    inner = bench.model.model if isinstance(bench.model, GradientView) else bench.model
    if not isinstance(inner, SpikingClassifier):
        return
    other = differing(bench.first, bench.run(call=inner.reference))
    if other.sum() * 2 > len(other):  # a spike or two may flip by rounding
        yield Finding(
            "reference-differs",
            ERROR,
            f"model.reference gives other logits for {int(other.sum())} of {len(other)} images",
            "check that the layers between neurons treat every frame alone, or pass another layout",
        )


def _alive_in_training(bench: Bench) -> bool:
    if not isinstance(bench.model, nn.Module):
        return False
    try:
        _, grad = bench.run_with_gradient(training=True)
    except Exception:  # batch norm and the like may refuse; then nothing is known
        return False
    return grad is not None and bool(grad.any())


def _images_differ(images: Tensor) -> bool:
    return bool((images != images[:1]).any())


def _text(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
