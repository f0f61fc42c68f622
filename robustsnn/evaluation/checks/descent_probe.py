"""Whether the attack does its work: the loss rises, nothing withstands an unbounded attack, and more steps find no more."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustsnn.attacks.work import Step
from robustsnn.errors import RobustSNNError
from robustsnn.evaluation.checks.check import Check, Verdict, first_images, not_run, plural
from robustsnn.evaluation.checks.probe import Probe
from robustsnn.evaluation.statistics import paired_difference

FALLING = 0.2
"""Share of images whose loss may end below where it began."""
USEFUL = 0.05
"""Share of the probed images that more steps or another rule may find before it is worth a warning."""
_UNBOUNDED_STEPS = 20
_TRACED_STEPS = 20


def loss_rises(probe: Probe, rows: Tensor) -> Check:
    """Whether the loss rises along PGD, and whether an iterate fools the model that the last one no longer does."""
    name, title = "loss", "The loss rises along the attack"
    if not len(rows):
        return not_run(name, title, "No probed image is classified correctly.")
    steps = min(max(probe.steps, 2), _TRACED_STEPS)
    fallen: dict[str, Tensor] = {}
    silent: dict[str, Tensor] = {}
    for label, rule in probe.rules.items():
        trace: list[Step] = []
        examples = probe.attack(rows, rule, trace=trace, steps=steps, random_start=False, early_stop=False)
        losses = torch.stack([step.loss for step in trace]).cpu()
        before = torch.stack([step.fooled for step in trace]).cpu().any(0)
        fallen[label] = ~(losses[-1] > losses[0])
        silent[label] = before & ~probe.falls(rows, examples)
    n = len(rows)
    best = min(fallen, key=lambda label: int(fallen[label].sum()))
    everywhere = fallen[best]
    count, lost = int(everywhere.sum()), max(int(s.sum()) for s in silent.values())
    verdict: Verdict = "fail" if count > 0.5 * n else "warn" if count > FALLING * n else "pass"
    return Check(
        name,
        title,
        verdict,
        f"Along {steps} steps of PGD through {best}, the best rule here, the loss of {count} of {n} images ends no higher than "
        f"it began; {lost} of {n} were fooled on the way and not at the end (every iterate is judged, so these count).",
        {
            "n": n,
            "not_risen": {label: int(f.sum()) for label, f in fallen.items()},
            "silent_successes": {label: int(s.sum()) for label, s in silent.items()},
        },
        first_images(probe.named(rows[everywhere.to(rows.device)].tolist())) if verdict != "pass" else (),
        "" if verdict == "pass" else "Take smaller steps (`--attack apgd-ce --steps 100`) or another rule.",
    )


def unbounded(probe: Probe, rows: Tensor, classes: int) -> Check:
    """Whether an attack that may change every pixel at will fools the model on every image, starting at the image."""
    name, title = "unbounded", "Nothing withstands an unbounded attack"
    if not len(rows):
        return not_run(name, title, "No probed image is classified correctly.")
    radius = _whole_box(probe)
    fallen = probe.cascade(
        rows, probe.rules.values(), eps=radius, steps=_UNBOUNDED_STEPS, alpha=radius / 8, random_start=False
    )
    left, n = int((~fallen).sum()), probe.n
    verdict: Verdict = "pass" if not left else "warn" if left <= n / classes else "fail"
    return Check(
        name,
        title,
        verdict,
        f"At eps {radius:.4g}, where any image may become any other, {left} of {n} probed images survive "
        f"{_UNBOUNDED_STEPS} steps of PGD through every rule (chance would be {n / classes:.1f}).",
        {"n": n, "survivors": left, "eps": radius, "chance": 1 / classes},
        first_images(probe.named(rows[(~fallen).to(rows.device)].tolist())),
        ""
        if verdict == "pass"
        else "The attack fails, not the images: attack through other rules (`robustsnn list rules`).",
    )


def budget(probe: Probe, standing: Tensor, again: Tensor) -> tuple[Check, Tensor]:
    """Whether twice the steps, or a restart, still find images that the evaluation counts as robust.

    Args:
        probe: what to attack.
        standing: images that the evaluation counts as robust, ``[m]``.
        again: which of them another run of the same attack finds, ``[m]``.

    Returns:
        the check, and which images ``[m]`` either finds.
    """
    name, title = "budget", "More steps find nothing more"
    more = probe.cascade(standing, probe.rules.values(), steps=2 * probe.steps, seed=2)
    found = again | more
    n, gained = probe.n, int(found.sum())
    before = torch.zeros(n, dtype=torch.bool)
    before[standing.cpu()] = True
    after = before.clone()
    after[standing.cpu()[found]] = False
    difference = paired_difference(before.numpy(), after.numpy())
    verdict: Verdict = "fail" if difference.low > 0 else "warn" if gained > max(1, USEFUL * n) else "pass"
    check = Check(
        name,
        title,
        verdict,
        f"Of {plural(len(standing), 'probed image')} that the evaluation counts as robust, another PGD-{probe.steps} finds "
        f"{int(again.sum())}, PGD-{2 * probe.steps} {int(more.sum())}, both together {gained} (n = {n}: robust accuracy "
        f"{100 * before.float().mean():.1f} % becomes {100 * after.float().mean():.1f} %).",
        {
            "n": n,
            "standing": len(standing),
            "restart": int(again.sum()),
            "double": int(more.sum()),
            "gained": gained,
            "difference": difference.as_dict(),
        },
        first_images(probe.named(standing.cpu()[found].tolist())) if verdict != "pass" else (),
        ""
        if verdict == "pass"
        else f"Raise the steps until the accuracy stops falling (`--attack apgd-ce --steps {max(100, 4 * probe.steps)}`).",
    )
    return check, found


def _whole_box(probe: Probe) -> float:
    low, high = probe.bounds
    pixels = probe.images[0].numel()
    sizes = {"Linf": 1.0, "L2": math.sqrt(pixels), "L1": float(pixels)}
    if probe.norm not in sizes:
        raise RobustSNNError(f"an unbounded attack is not defined here in {probe.norm}")
    return sizes[probe.norm] * (high - low)
