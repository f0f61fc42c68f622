"""A search without gradients among the images that gradient attacks could not fool."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsnn.attacks.losses import margin
from robustsnn.attacks.randomness import per_image
from robustsnn.evaluation.checks.check import Check, Verdict, first_images, plural
from robustsnn.evaluation.checks.probe import Probe

_FIRST_SHARE = 0.5
GRAVE = 0.05


def random_search(probe: Probe, standing: Tensor, draws: int = 40, climbs: int = 80) -> Check:
    """Random points of the ball, then a climb from the best that keeps every change which lowers the margin.

    A change redraws a share of the entries that shrinks from a half, so it is a poor man's Square attack.

    Args:
        probe: what to attack.
        standing: images ``[m]`` that neither the evaluation nor another run of its attacks could fool.
        draws: random points for each image.
        climbs: changes tried on each image after that.
    """
    found = _search(probe, standing, draws, climbs) if len(standing) else torch.zeros(0, dtype=torch.bool)
    count, n = int(found.sum()), probe.n
    verdict: Verdict = "pass" if not count else "fail" if count > max(1, GRAVE * n) else "warn"
    return Check(
        "random-search",
        "Random search finds nothing that gradients miss",
        verdict,
        f"Of {plural(len(standing), 'probed image')} that no gradient attack fools, {count} of n = {n} fall to {draws} random "
        f"points and {climbs} random changes.",
        {"n": n, "standing": len(standing), "found": count, "queries": draws + climbs},
        first_images(probe.named(standing.cpu()[found].tolist())),
        "" if verdict == "pass" else "The gradients mislead: add `--attack square` and rules of another family.",
    )


def _search(probe: Probe, rows: Tensor, draws: int, climbs: int) -> Tensor:
    x, y, ball = probe.images[rows], probe.labels[rows], probe.ball
    best, height = x.clone(), torch.full((len(x),), -torch.inf, device=x.device)
    for query in range(draws + climbs):
        noise = per_image(x, probe.seed, 2000 + query, torch.randn)
        corner = ball.project(x + ball.eps * ball.direction(noise), x)
        if query >= draws:
            share = _FIRST_SHARE * (1 - (query - draws) / climbs) + 0.02
            fresh = per_image(x, probe.seed, 4000 + query) < share
            corner = ball.project(torch.where(fresh, corner, best), x)
        now = margin(probe.logits(corner), y).to(height.dtype)
        higher = now > height
        best[higher], height = corner[higher], torch.where(higher, now, height)
    return probe.falls(rows, best)
