"""Whether there is a gradient to climb, and whether climbing it leads up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from robustsnn.attacks.losses import margin
from robustsnn.attacks.randomness import per_image
from robustsnn.attacks.work import Step
from robustsnn.errors import RobustSNNError
from robustsnn.evaluation.checks.check import Check, Verdict, first_images, not_run
from robustsnn.evaluation.checks.probe import OWN, Probe
from robustsnn.evaluation.statistics import rate

SHARE_OF_ZEROS = 0.05
"""Share of images without a usable gradient from which a result is not to be believed."""
BETTER_THAN_CHANCE = 0.6
"""Share of images on which a gradient step must beat a random step of the same size."""
_DRAWS = 4


@dataclass(frozen=True)
class Slope:
    """The gradient through one rule at every probed image: ``zero`` and ``bad`` (NaN) ``[n]``, and a step along it."""

    zero: Tensor
    bad: Tensor
    ahead: Tensor
    problem: str = ""


def slopes_of(probe: Probe, rows: Tensor) -> dict[str, Slope]:
    """One gradient step of size ``eps`` from each image through each rule of the evaluation."""
    found: dict[str, Slope] = {}
    for label, rule in probe.rules.items() if len(rows) else ():
        trace: list[Step] = []
        try:
            ahead = probe.attack(rows, rule, "fgsm", trace=trace, early_stop=False)
        except (RobustSNNError, RuntimeError) as error:
            dead = torch.ones(len(rows), dtype=torch.bool)
            found[label] = Slope(dead, ~dead, probe.images[rows], str(error).splitlines()[0])
        else:
            found[label] = Slope(trace[0].zero.cpu(), trace[0].bad.cpu(), ahead)
    return found


def gradients(probe: Probe, rows: Tensor, slopes: dict[str, Slope]) -> Check:
    """Whether gradients exist: not all zero, not NaN. Sign steps stand still on a zero gradient."""
    name, title = "gradients", "Every image has a gradient"
    if not len(rows):
        return not_run(name, title, "No probed image is classified correctly.")
    unusable = {label: slope.zero | slope.bad for label, slope in slopes.items()}
    everywhere = torch.stack(list(unusable.values())).all(0)
    n, count = len(rows), int(everywhere.sum())
    worst = max(unusable, key=lambda label: int(unusable[label].sum()))
    of_worst = int(unusable[worst].sum())
    bad = sum(int(slope.bad.sum()) for slope in slopes.values())
    verdict: Verdict = "pass"
    if count > SHARE_OF_ZEROS * n:
        verdict = "fail"
    elif count or of_worst > SHARE_OF_ZEROS * n or bad:
        verdict = "warn"
    saturated = int(_has_margin_gradient(probe, rows[everywhere.to(rows.device)]).sum()) if count else 0
    problem = next((f" ({slope.problem})" for slope in slopes.values() if slope.problem), "")
    evidence = (
        f"{count} of {n} correctly classified images have an all-zero or NaN gradient through every rule of the evaluation; "
        f"through {worst} alone {of_worst}{problem}."
    )
    if saturated:
        evidence += f" On {saturated} of them the margin loss does have a gradient: the cross entropy is saturated."
    advice = ""
    if verdict != "pass":
        advice = (
            "Add a wider slope or a rate rule (`--rule bptr`), and an attack without gradients (`--attack square`)."
        )
        if OWN in slopes:
            advice = (
                "Wrap the network in SpikingClassifier, so that rules can differentiate it, and add `--attack square`."
            )
        if saturated:
            advice = "Add an attack on a loss that does not saturate (`--attack apgd-dlr`)."
    return Check(
        name,
        title,
        verdict,
        evidence,
        {
            "n": n,
            "all_zero": rate(count, n).as_dict(),
            "zero": {label: int(slope.zero.sum()) for label, slope in slopes.items()},
            "nan": {label: int(slope.bad.sum()) for label, slope in slopes.items()},
            "saturated": saturated,
        },
        first_images(probe.named(rows[(everywhere if count else unusable[worst]).to(rows.device)].tolist())),
        advice,
    )


def direction(probe: Probe, rows: Tensor, slopes: dict[str, Slope]) -> Check:
    """Whether a step along the gradient does more harm than random steps of the same size, on the network itself."""
    name, title = "direction", "A gradient step does more harm than a random one"
    if not len(rows):
        return not_run(name, title, "No probed image is classified correctly.")
    x, y = probe.images[rows], probe.labels[rows]
    ball = probe.ball
    at_random = torch.stack(
        [
            margin(
                probe.logits(
                    ball.project(x + ball.eps * ball.direction(per_image(x, probe.seed, 900 + k, torch.randn)), x)
                ),
                y,
            )
            for k in range(_DRAWS)
        ]
    ).mean(0)
    better = {label: (margin(probe.logits(slope.ahead), y) > at_random).cpu() for label, slope in slopes.items()}
    best = max(better, key=lambda label: int(better[label].sum()))
    n, count = len(rows), int(better[best].sum())
    p = float(stats.binomtest(count, n, 0.5, alternative="greater").pvalue)
    verdict: Verdict = "fail" if p > 0.05 else "warn" if count < BETTER_THAN_CHANCE * n else "pass"
    shares = ", ".join(f"{label} {int(b.sum())}" for label, b in better.items())
    return Check(
        name,
        title,
        verdict,
        f"One step of size eps along the gradient lowers the margin by more than {_DRAWS} random steps do on average on "
        f"{count} of {n} images ({best}, the best rule; by rule: {shares}).",
        {"n": n, "better": {label: int(b.sum()) for label, b in better.items()}, "best": best, "p_value": p},
        first_images(probe.named(rows[~better[best].to(rows.device)].tolist())) if verdict != "pass" else (),
        ""
        if verdict == "pass"
        else "The gradients do not point where the network fails: attack through other rules (`robustsnn list rules`).",
    )


def _has_margin_gradient(probe: Probe, rows: Tensor) -> Tensor:
    alive = torch.zeros(len(rows), dtype=torch.bool)
    for rule in probe.rules.values():
        trace: list[Step] = []
        try:
            probe.attack(rows, rule, "fgsm", trace=trace, early_stop=False, loss="margin")
        except RobustSNNError:
            continue
        alive |= ~(trace[0].zero | trace[0].bad).cpu()
    return alive
