"""Plain training: cross entropy and nothing else."""

from __future__ import annotations

from robustsnn.defenses.objective import Objective


class CrossEntropy(Objective):
    """Cross entropy of the logits on the images as they are.

    Every objective contains it, so in a sum this one changes nothing.
    """
