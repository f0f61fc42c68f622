"""AutoAttack (Croce & Hein, ICML 2020) by its reference code, version ``standard``, ``plus`` or ``rand``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import Tensor

from robustsnn.attacks.adapters.base import LibraryAttack, find
from robustsnn.attacks.adapters.target import Target
from robustsnn.attacks.adapters.torchattacks import TorchAttack
from robustsnn.attacks.inputs import Model
from robustsnn.errors import RobustSNNError

INSTALL = (
    "pip install --no-deps pyautoattack, or the reference code: pip install git+https://github.com/fra31/auto-attack"
)
PACKAGES = ("autoattack", "pyautoattack", "torchattacks")
"""Who may run it, the first that is installed: the reference code, its repackaging, torchattacks' port."""
VERSIONS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
_TARGETS = 9


class AutoAttack(LibraryAttack):
    """The ensemble, as its authors run it: ``AutoAttack(model, eps=8/255, version="standard")``.

    ``standard``: APGD-CE, targeted APGD-DLR (9 targets), targeted FAB (9 targets), Square (5,000 queries), each of 100
    steps and one restart, each on what the others left. ``rand``, for stochastic models: APGD-CE and APGD-DLR with 20
    draws for each gradient. ``plus``: six attacks, five restarts.

    The DLR loss needs 3 classes and its targeted form 4. With 3 classes APGD-DLR takes the place of targeted APGD, with
    2 both are left out; there are never more targets than other classes. ``members`` says what ran in the last call,
    ``log`` keeps what AutoAttack printed, its warnings about unsuitable models included.

    It is run by the package `autoattack` or `pyautoattack`. Where only torchattacks is installed, its port runs instead,
    its members set to the 100 steps of the original; that port has 99 targets for 100 classes, and no ``L1``.

    Args:
        model: as in `ImageAttack`.
        eps: radius of the ball.
        version: ``"standard"``, ``"plus"`` or ``"rand"``.
        package: one of ``"autoattack"``, ``"pyautoattack"`` and ``"torchattacks"``; the first installed unless given.
        kwargs: of `LibraryAttack` (``norm``, ``seed``, ``bounds``, ``batch_size``).

    Raises:
        RobustSNNError: no such package is installed; as `LibraryAttack`.
    """

    library = "autoattack"
    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1")
    members: tuple[str, ...] = ()

    def __init__(
        self,
        model: Model,
        eps: float = 8 / 255,
        *,
        version: str = "standard",
        package: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.package = installed() if package is None else find("AutoAttack package", package, PACKAGES)
        super().__init__(model, version, eps, **kwargs)
        self._port = None
        if self.package == "torchattacks":
            options = {name: kwargs[name] for name in ("norm", "seed", "bounds") if name in kwargs}
            self._port = TorchAttack(model, "AutoAttack", eps, version=self.name, **options)

    def choose(self, attack: str, norm: str | None, targeted: bool) -> str | None:
        """See `LibraryAttack.choose`."""
        self.name = find("version of AutoAttack", attack, VERSIONS)
        if targeted:
            raise RobustSNNError("AutoAttack has no targeted mode; its targeted members try every class")
        if self.parameters:
            raise RobustSNNError(
                f"AutoAttack has no parameters but version and package, got {', '.join(self.parameters)}"
            )
        return norm or "Linf"

    def run(self, target: Target, x: Tensor, y: Tensor, classes: int) -> Tensor:
        """The whole ensemble on one batch; what no member fools stays as it is."""
        if self._port is not None:
            result = self._port.run(target, x, y, classes)
            self.members = self._port.members
            return result
        module = importlib.import_module(self.package)
        with _quiet(self.package) as lines:
            ensemble = module.AutoAttack(
                target, norm=self.ball.norm, eps=self.unit_eps, version=self.name, seed=self.seed, device=x.device
            )
            self.members = members_for(self.name, classes)
            ensemble.attacks_to_run = list(self.members)
            for member in (ensemble.apgd_targeted, ensemble.fab):
                member.n_target_classes = min(member.n_target_classes, _TARGETS, classes - 1)
            size = "bs" if "bs" in inspect.signature(ensemble.run_standard_evaluation).parameters else "batch_size"
            result = ensemble.run_standard_evaluation(x, y, **{size: len(x)})
        self.log += "".join(f"{line}\n" for line in lines)
        return result[0] if isinstance(result, tuple) else result


def members_for(version: str, classes: int) -> tuple[str, ...]:
    """Members of a version that are defined for so many classes."""
    members = list(VERSIONS[version])
    if classes < 4 and "apgd-t" in members:
        at = members.index("apgd-t")
        members[at : at + 1] = [] if "apgd-dlr" in members else ["apgd-dlr"]
    return tuple(member for member in members if classes >= 3 or member != "apgd-dlr")


def installed() -> str:
    """The first of `PACKAGES` that is installed.

    Raises:
        RobustSNNError: there is none.
    """
    for package in PACKAGES:
        if importlib.util.find_spec(package) is not None:
            return package
    raise RobustSNNError(f"AutoAttack is not installed; {INSTALL}")


@contextmanager
def _quiet(package: str) -> Iterator[list[str]]:
    """Collect the log, and undo what AutoAttack's check for dynamic models leaves behind.

    That check removes the tracer of the process (coverage, debuggers) and never clears its counters, so that one hit
    would flag every later model.
    """
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger, tracer = logging.getLogger("auto-attack"), sys.gettrace()
    level, propagate = logger.level, logger.propagate
    counters = importlib.import_module(f"{package}.checks").funcs
    try:
        counters.update(dict.fromkeys(counters, 0))
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        yield lines
    finally:
        sys.settrace(tracer)
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
