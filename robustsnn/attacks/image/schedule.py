"""When attacks without a step-size parameter look back on their progress."""

from __future__ import annotations


def checkpoints(steps: int) -> list[int]:
    """After which steps, counted from 1, to look back, up to ``steps``: Auto-PGD's intervals (Croce & Hein, ICML 2020).

    The first interval is 22 % of the steps; each next one is 3 % shorter, down to 6 %; rounded down, at least 1. For 100
    steps: 22, 41, 57, 70, 80, 87, 93, 99.
    """
    interval, shrink, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    points = [interval]
    while points[-1] < steps:
        interval = max(interval - shrink, least)
        points.append(points[-1] + interval)
    return [point for point in points if point <= steps]
