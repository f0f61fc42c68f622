"""Objectives by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import reduce
from operator import add
from typing import Any

from robustsnn.defenses.adversarial_training import AT
from robustsnn.defenses.cross_entropy import CrossEntropy
from robustsnn.defenses.dlif import DLIF
from robustsnn.defenses.hire import HIRE
from robustsnn.defenses.input_gradient import InputGradient
from robustsnn.defenses.mart import MART
from robustsnn.defenses.mpd_sgr import MPDSGR
from robustsnn.defenses.objective import Objective
from robustsnn.defenses.parsing import parse_sum
from robustsnn.defenses.rat import RAT
from robustsnn.defenses.sparse_gradient import SR
from robustsnn.defenses.stog import StoG
from robustsnn.defenses.tet import TET
from robustsnn.defenses.tgo import TGO
from robustsnn.defenses.trades import TRADES
from robustsnn.errors import UnknownNameError


@dataclass(frozen=True)
class Entry:
    """An objective and one line about it."""

    build: Callable[..., Objective]
    about: str

    @property
    def options(self) -> tuple[str, ...]:
        """Names of its options, in order."""
        return tuple(field.name for field in fields(self.build)) if is_dataclass(self.build) else ()


def _entry(kind: type[Objective], what: str) -> Entry:
    options = ", ".join(Entry(kind, "").options)
    return Entry(kind, f"{what}: {options}" if options else what)


OBJECTIVES: dict[str, Entry] = {
    "ce": _entry(CrossEntropy, "plain training: cross entropy"),
    "tet": _entry(TET, "a cross entropy at every step (Deng et al., ICLR 2022)"),
    "sr": _entry(SR, "sparse-gradient regularisation (Liu et al., ICML 2024)"),
    "at": _entry(AT, "adversarial training (Madry et al., ICLR 2018)"),
    "trades": _entry(TRADES, "clean cross entropy and stable predictions (Zhang et al., ICML 2019)"),
    "mart": _entry(MART, "adversarial training that heeds misclassified images (Wang et al., ICLR 2020)"),
    "rat": _entry(RAT, "adversarial training with Lipschitz retraction (Ding et al., NeurIPS 2022)"),
    "input-gradient": _entry(InputGradient, "a small l2 input gradient (Ross and Doshi-Velez, AAAI 2018)"),
    "dlif": _entry(DLIF, "potentials that perturbations move little (Ding et al., ICML 2024)"),
    "stog": _entry(StoG, "stochastic gates that learn to close (Ding et al., AAAI 2024)"),
    "hire": _entry(HIRE, "noise crafted during the training pass (Kundu et al., ICCV 2021)"),
    "tgo": _entry(TGO, "potentials kept away from the threshold (Wang et al., ICLR 2026)"),
    "mpd-sgr": _entry(MPDSGR, "few potentials within the surrogate's window (Jiang et al., AAAI 2026)"),
}


def build_objective(name: str, **options: Any) -> Objective:
    """An objective by name, e.g. ``build_objective("sr", lam=0.01)``; see `parse_objective` for sums.

    Raises:
        UnknownNameError: no such objective, or an option that it does not have.
        RobustSNNError: options that make no sense.
    """
    key = str(name).lower()
    if key not in OBJECTIVES:
        raise UnknownNameError("objective", name, OBJECTIVES)
    entry = OBJECTIVES[key]
    for option in options:
        if option not in entry.options:
            raise UnknownNameError(f"option of objective {key}", option, entry.options)
    return entry.build(**options)


def parse_objective(text: str) -> Objective:
    """The objective that a text describes: names with options in parentheses, added by ``+``.

    ``"sr(lam=0.002) + at(eps=8/255, steps=7, rule=bptr)"``. Options are written ``key=value``, or without the key in the
    order of the objective's own. Values are numbers, fractions (``8/255``), ``true``, ``false``, ``none`` and names. Two
    options may be calls: ``rule=bptt(alpha=4)`` gives the gradient rule parameters, ``attack=apgd(loss=dlr)`` the attack's
    ``params``. Nothing is evaluated.

    Raises:
        UnknownNameError: an objective, option, rule or attack that is not known, with the nearest name.
        RobustSNNError: anything else that cannot be read, with its position; options that make no sense; objectives that
            contradict each other.
    """
    known = {name: entry.options for name, entry in OBJECTIVES.items()}
    return reduce(add, (build_objective(name, **options) for name, options in parse_sum(text, known)))
