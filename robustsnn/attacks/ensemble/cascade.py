"""The cascade: member after member on the samples that still stand."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from torch import Tensor

from robustsnn.attacks.ensemble.member import Member
from robustsnn.attacks.ensemble.presets import PRESETS
from robustsnn.attacks.image.base import GradientAttack, ImageAttack
from robustsnn.attacks.inputs import Model, check_count, is_stochastic
from robustsnn.attacks.losses import margin
from robustsnn.attacks.named import build_native
from robustsnn.attacks.work import Work
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.gradients import build_rule
from robustsnn.gradients.support import takes_rules

_EOT = 10
_OWN = "the model takes no gradient rules; run through its own gradient"
_REPEATS = "the model takes no gradient rules; through its own gradient this is an earlier member"


@dataclass
class MemberLog:
    """What one member did in a call.

    Attributes:
        member: which.
        tried: samples it was given.
        fooled: samples it fooled.
        seconds: time it took.
        work: passes through the model.
        note: why it was left out or run otherwise; empty where it ran as planned.
    """

    member: Member
    tried: int = 0
    fooled: int = 0
    seconds: float = 0.0
    work: Work = field(default_factory=Work)
    note: str = ""


class SpikingAutoAttack(ImageAttack):
    """An ensemble in the manner of AutoAttack (Croce & Hein, ICML 2020), made for spiking networks.

    SNNs look robust where one gradient fails, so the members differ in the gradient rule as well as in attack and loss,
    and Square needs no gradient. Only samples that no member has fooled go on to the next one, so the order changes the
    time and not the robust accuracy; the cheapest successes come first. A sample that no member fools is returned as
    the perturbation of the highest margin loss that was found.

    After a call ``log`` says what each member did and ``fooled_by`` which member fooled each sample (``"clean"`` where
    it was misclassified from the start, ``""`` where nothing did).

    Args:
        model: a `SpikingClassifier` (or a view of it, whose rule is then ignored). Any other model is attacked through
            its own gradient by the members' attacks.
        eps: radius of the ball.
        preset: ``"quick"``, ``"standard"`` or ``"full"``.
        members: an ensemble of one's own, instead of a preset.
        eot_iter: passes that each gradient averages over; 10 for stochastic models, else 1, unless given.
        kwargs: of `ImageAttack`. In L2, L1 and L0 the members that are not defined there are left out.

    Raises:
        UnknownNameError: no such preset; no such attack or rule of a member.
        RobustSNNError: as `ImageAttack`, or a member has parameters that make no sense, or none is defined in the norm.
    """

    def __init__(
        self,
        model: Model,
        eps: float = 8 / 255,
        *,
        preset: str = "standard",
        members: Sequence[Member] | None = None,
        eot_iter: int | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(model, eps, **kwargs)  # type: ignore[arg-type]
        if preset not in PRESETS:
            raise UnknownNameError("preset", preset, PRESETS)
        self.members = tuple(PRESETS[preset] if members is None else members)
        self.eot_iter = None if eot_iter is None else check_count("eot_iter", eot_iter)
        self.log: list[MemberLog] = []
        self.fooled_by: list[str] = []
        _check(self.members, model)
        plain = [self._attack(member, model, classes=10) for member in self.members]
        if all(isinstance(attack, str) for attack in plain):
            raise RobustSNNError(f"no member of the ensemble is defined in {self.ball.norm}: {plain[0]}")

    @property
    def steps(self) -> int:
        """Gradient steps and queries of a sample that nothing fools, roughly."""
        return sum(member.steps for member in self.members)

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """As `ImageAttack`."""
        self.log = [MemberLog(member) for member in self.members]
        self.fooled_by = []
        return super().__call__(images, labels)

    def perturb(self, x: Tensor, y: Tensor) -> Tensor:
        """The cascade on one batch."""
        z = self.logits(x, y)
        classes, ruled = z.shape[1], takes_rules(self.model)
        best, highest = x.clone(), self._height(z, y)
        standing = ~self.is_fooled(x, y)
        by = ["" if stands else "clean" for stands in standing.tolist()]
        left = standing.nonzero()[:, 0]
        for entry in self.log:
            if not len(left):
                break
            if entry.member.rule is not None and not ruled:
                self._note_own(entry)
                if entry.note == _REPEATS:
                    continue
            found = self._run(entry, x[left], y[left], classes, ruled)
            if found is None:
                continue
            height = self._height(self.logits(found, y[left]), y[left])
            fooled = self.is_fooled(found, y[left])
            better = fooled | (height > highest[left])
            best[left[better]], highest[left[better]] = found[better], height[better]
            entry.fooled += int(fooled.sum())
            for row in left[fooled].tolist():
                by[row] = str(entry.member)
            left = left[~fooled]
        self.fooled_by += by
        return best

    def _height(self, z: Tensor, y: Tensor) -> Tensor:
        return -margin(z, y) if self.targeted else margin(z, y)

    def _note_own(self, entry: MemberLog) -> None:
        """Through the model's own gradient two members that differ in the rule are one."""
        for earlier in self.log:
            if earlier is entry:
                entry.note = _OWN
                return
            same = (earlier.member.attack, earlier.member.steps, dict(earlier.member.attack_params))
            if same == (entry.member.attack, entry.member.steps, dict(entry.member.attack_params)):
                entry.note = _REPEATS
                return

    def _run(self, entry: MemberLog, x: Tensor, y: Tensor, classes: int, ruled: bool) -> Tensor | None:
        """What a member makes of the samples; None where it cannot run."""
        started = time.perf_counter()
        member, model = entry.member, self.model
        if member.rule is not None and ruled:
            model = self.model.through(build_rule(member.rule, **member.rule_params))  # type: ignore[attr-defined]
        attack = self._attack(member, model, classes)
        if isinstance(attack, str):
            entry.note = attack
            return None
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", RuntimeWarning
            )  # about gradients; the ensemble's own warning counts them all
            found = attack(x, y)
        entry.tried += len(x)
        entry.seconds += time.perf_counter() - started
        for one in fields(Work):
            for work in (entry.work, self.work):
                setattr(work, one.name, getattr(work, one.name) + getattr(attack.work, one.name))
        return found

    def _attack(self, member: Member, model: Model, classes: int) -> ImageAttack | str:
        """The member's attack, or why there is none."""
        params = dict(member.attack_params)
        if classes < 3 and params.get("loss") == "dlr":
            params["loss"] = "margin"
        common = {"norm": self.ball.norm, "bounds": self.ball.bounds, "targeted": self.targeted, "seed": self.seed}
        try:
            attack = build_native(member.attack, model, eps=self.ball.eps, steps=member.steps, **common, **params)
        except RobustSNNError as error:
            return str(error)
        if isinstance(attack, GradientAttack):
            attack.eot_iter = self.eot_iter or (_EOT if is_stochastic(self.model) else 1)
        attack.memory = self.memory
        return attack


def _check(members: Sequence[Member], model: Model) -> None:
    """Members are left out where norm, goal or number of classes ask for it, and not for a slip of the pen."""
    for member in members:
        build_native(member.attack, model, steps=member.steps, **member.attack_params)
        if member.rule is not None:
            build_rule(member.rule, **member.rule_params)
