"""Rows of one model, one for each image and measurement, as yes-or-no arrays that checks compare."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from robustsnn.errors import RobustSNNError
from robustsnn.evaluation.checks.check import shown
from robustsnn.evaluation.checks.kinds import Kind, ends_without_gradients, kind_of

CLEAN = "clean"
NEEDED = ("image", "attack", "rule", "eps", "correct", "claimed", "legal")


@dataclass(frozen=True)
class Outcome:
    """One measurement on the images that all complete measurements share.

    Attributes:
        attack: label in the results.
        rule: label of the gradient rule, ``""`` for none.
        eps: radius.
        kind: of the attack.
        fooled: correct without the attack and wrong, on a legal example, with it; ``[n]`` bool.
        claimed: correct without the attack, and the attack says that it fooled the model; ``[n]`` bool.
        illegal: examples outside the ball or the bounds, ``[n]`` bool.
        last_resort: fooled by the member of an ensemble that takes no gradient and comes after those that do, ``[n]``
            bool; None where the attack has no such member.
    """

    attack: str
    rule: str
    eps: float
    kind: Kind
    fooled: np.ndarray
    claimed: np.ndarray
    illegal: np.ndarray
    last_resort: np.ndarray | None


@dataclass(frozen=True)
class Outcomes:
    """All complete measurements of one model.

    Attributes:
        images: numbers of the images, ``[n]``, rising.
        right: correct without an attack, ``[n]`` bool.
        measured: everything measured on all images.
        incomplete: descriptions of measurements that lack images.
    """

    images: np.ndarray
    right: np.ndarray
    measured: tuple[Outcome, ...]
    incomplete: tuple[str, ...]

    def of(self, *kinds: Kind) -> list[Outcome]:
        """Measurements of some kinds."""
        return [outcome for outcome in self.measured if outcome.kind in kinds]

    def radii(self, *kinds: Kind) -> list[float]:
        """Radii at which something of these kinds was measured, rising."""
        return sorted({outcome.eps for outcome in self.of(*kinds)})

    def fooled_by(self, which: Callable[[Outcome], bool]) -> np.ndarray:
        """Images ``[n]`` that some chosen measurement fools; none where nothing is chosen."""
        chosen = [outcome.fooled for outcome in self.measured if which(outcome)]
        return np.logical_or.reduce(chosen) if chosen else np.zeros(len(self.images), bool)

    def worst_case(self, eps: float) -> np.ndarray:
        """Images ``[n]`` that stay correct under everything at ``eps`` but noise."""
        return self.right & ~self.fooled_by(lambda o: o.eps == eps and o.kind != "noise")


def outcomes_of(rows: Mapping[str, np.ndarray], names: Mapping[str, str] | None = None) -> Outcomes:
    """Read the rows of one model.

    Args:
        rows: columns as `robustsnn.evaluation.measurement.measure` writes them.
        names: name in the registry for each label of an attack; a label that is missing is taken for a name.

    Raises:
        RobustSNNError: a column is missing, or there are no rows without an attack.
    """
    lacking = [name for name in NEEDED if name not in rows]
    if lacking:
        raise RobustSNNError(f"rows lack the column {lacking[0]!r}; checks need {', '.join(NEEDED)}")
    groups = list(_groups(rows))
    clean = next((own for (attack, _, _), own in groups if attack == CLEAN), None)
    if clean is None:
        raise RobustSNNError("rows hold no measurement without an attack ('clean'); checks compare with it")
    images, right = clean["image"], clean["correct"].astype(bool)
    measured, incomplete = [], []
    for (attack, rule, eps), own in groups:
        if attack == CLEAN:
            continue
        if not np.array_equal(own["image"], images):
            through = f" through {rule}" if rule else ""
            incomplete.append(f"{attack}{through} at eps {shown(eps)} ({len(own['image'])} of {len(images)} images)")
            continue
        correct, claimed, legal = (own[name].astype(bool) for name in ("correct", "claimed", "legal"))
        name = (names or {}).get(attack, attack)
        fooled = right & ~correct
        last = fooled & _by_black_box(own["by"]) if "by" in own and ends_without_gradients(name) else None
        measured.append(Outcome(attack, rule, eps, kind_of(name), fooled, right & claimed, ~legal, last))
    return Outcomes(images, right, tuple(measured), tuple(incomplete))


def _by_black_box(by: np.ndarray) -> np.ndarray:
    """Where the member of an ensemble, named ``"SQUARE-1000"`` or ``"APGD-50 through RGA"``, takes no gradient."""
    found = {name: bool(name) and kind_of(name.split()[0]) == "black-box" for name in set(by.tolist())}
    return np.array([found[name] for name in by.tolist()], bool)


def _groups(rows: Mapping[str, np.ndarray]) -> Iterator[tuple[tuple[str, str, float], dict[str, np.ndarray]]]:
    attacks, attack = np.unique(np.asarray(rows["attack"]).astype(str), return_inverse=True)
    rules, rule = np.unique(np.asarray(rows["rule"]).astype(str), return_inverse=True)
    radii, radius = np.unique(np.asarray(rows["eps"], float), return_inverse=True)
    code = (attack * len(rules) + rule) * len(radii) + radius
    order = np.lexsort((np.asarray(rows["image"]), code))
    _, firsts = np.unique(code[order], return_index=True)
    for own in np.split(order, firsts[1:]):
        if len(own):
            key = str(attacks[attack[own[0]]]), str(rules[rule[own[0]]]), float(radii[radius[own[0]]])
            wanted = (*NEEDED, "by") if "by" in rows else NEEDED
            yield key, {name: np.asarray(rows[name])[own] for name in wanted if name not in ("attack", "rule", "eps")}
