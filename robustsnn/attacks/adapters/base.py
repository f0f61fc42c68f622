"""What the adapters of attack libraries share: a model they can take, generators lent to them, results checked."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import io
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robustsnn.attacks.adapters.generators import kept_generators, lent_generators
from robustsnn.attacks.adapters.target import Target
from robustsnn.attacks.adaptive import begin
from robustsnn.attacks.image.ball import BALLS
from robustsnn.attacks.image.balls.base import per_sample
from robustsnn.attacks.image.base import ImageAttack
from robustsnn.attacks.inputs import Model
from robustsnn.errors import RobustSNNError, UnknownNameError

_TOLERANCE = 1e-5


@dataclass
class Corrections:
    """Images of the last call whose result was not used as the library returned it.

    Attributes:
        projected: had left the ball or the bounds by more than rounding, and were put back.
        reverted: of an attack without a budget: larger than eps, and no success once they are shortened to eps; replaced
            by the original.
        invalid: held NaN or infinity, replaced by the original.
    """

    projected: int = 0
    reverted: int = 0
    invalid: int = 0


class LibraryAttack(ImageAttack):
    """An attack of another library, in the place of one of ours.

    The library gets a `Target`: a module in eval mode with frozen parameters, float32 images ``[N, C, H, W]`` in [0, 1]
    and eps in that scale. It may use and reseed the global generators: they are seeded with ``seed`` for every batch
    and put back. Random numbers are therefore not those of `per_image`; they depend on the batch. What it prints goes
    to ``log``. The result is finite, in the ball and in the bounds; ``corrected`` says how often that took a correction.

    Attacks that minimise the perturbation have no eps: they are run as they are. A perturbation that is larger than eps
    in the norm of the ball is shortened to it (as Foolbox does), and where that reaches the goal no more the original is
    returned.

    Args:
        model: as in `ImageAttack`.
        attack: name in the library.
        eps: radius of the ball, in units of the images.
        norm: of the ball; the attack's own unless given.
        targeted: the labels are the classes to reach.
        seed: of the library's random numbers.
        bounds: lowest and highest pixel value.
        batch_size: images that the library gets at once; all unless given.
        parameters: the library's own, by its own names, lengths in units of images scaled to [0, 1].

    Raises:
        RobustSNNError: the library is not installed; parameters that it does not have or refuses; a norm or a goal that
            the attack does not have; as our own attacks do.
        UnknownNameError: the library has no such attack.
    """

    library: ClassVar[str]
    """Its name in front of the colon, as in ``"foolbox:LinfPGD"``."""
    name: str
    """Of the attack, as the library spells it."""

    def __init__(
        self,
        model: Model,
        attack: str,
        eps: float = 8 / 255,
        *,
        norm: str | None = None,
        targeted: bool = False,
        seed: int = 0,
        bounds: tuple[float, float] = (0.0, 1.0),
        batch_size: int | None = None,
        **parameters: Any,
    ) -> None:
        self.parameters = parameters
        self.minimum_norm = False
        self.multiple = 1
        asked = None if norm is None else canonical_norm(norm)
        own = self.choose(attack, asked, targeted)
        super().__init__(
            model,
            eps,
            norm=asked or (own if own in BALLS else "Linf"),
            targeted=targeted,
            seed=seed,
            bounds=bounds,
            batch_size=batch_size,
        )
        self.log = ""
        self.corrected = Corrections()

    @abstractmethod
    def choose(self, attack: str, norm: str | None, targeted: bool) -> str | None:
        """Find the attack and check its parameters, before anything is known about images.

        Returns the norm in which the attack is bounded, None where it takes any; sets ``name``, and ``minimum_norm``,
        ``takes_gradient`` and ``multiple`` where they are not the usual ones.
        """

    @abstractmethod
    def run(self, target: Target, x: Tensor, y: Tensor, classes: int) -> Tensor:
        """Perturb folded images ``[N, C, H, W]`` in [0, 1] with labels ``[N]``."""

    @property
    def unit_eps(self) -> float:
        """eps for images scaled to [0, 1]; a number of entries (L0) is what it is."""
        low, high = self.ball.bounds
        return self.ball.eps if self.ball.norm == "L0" else self.ball.eps / (high - low)

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """As in `ImageAttack`."""
        self.log, self.corrected = "", Corrections()
        return super().__call__(images, labels)

    def perturb(self, x: Tensor, y: Tensor) -> Tensor:
        """One batch."""
        target = Target(self.model, x, self.ball.bounds, self.work, self.multiple)
        folded = target.fold(x)
        classes = target.probe(folded, y, self.takes_gradient)
        begin(self.model, 0)  # libraries announce no rows, and nothing is left of the probe or of another batch
        if self.ball.eps == 0:
            return x
        printed = io.StringIO()
        try:
            with (
                lent_generators(self.seed),
                _gradients_put_aside(self.model),
                contextlib.redirect_stdout(printed),
                contextlib.redirect_stderr(printed),
                torch.enable_grad(),
            ):
                moved = self.run(target, folded.clone(), y.clone(), classes)
        except Exception as error:
            if error is target.failure or isinstance(error, RobustSNNError) or _is_about_memory(error):
                raise
            if isinstance(error, ImportError) and error.name:
                raise RobustSNNError(
                    f"{self.library}:{self.name} needs the package {error.name}; pip install {error.name}"
                ) from error
            raise RobustSNNError(
                f"{self.library}:{self.name} failed on images {tuple(folded.shape)} with {classes} classes: "
                f"{type(error).__name__}: {first_line(error)}"
            ) from error
        finally:
            self.log += printed.getvalue()
        moved = moved.detach().to(x.device, torch.float32).reshape(folded.shape)
        return self._corrected(target.back(moved, folded, x), x, y)

    def _corrected(self, result: Tensor, x: Tensor, y: Tensor) -> Tensor:
        invalid = ~result.isfinite().flatten(1).all(1)
        result = x.where(per_sample(invalid, x), result)
        low, high = self.ball.bounds
        slack = _TOLERANCE * (high - low)
        beyond = ((result < low - slack) | (result > high + slack)).flatten(1).any(1)
        beyond |= self.ball.distance(result, x) > self.ball.eps * (1 + _TOLERANCE) + slack
        self.corrected.invalid += int(invalid.sum())
        result = self.ball.project(result, x)
        if self.minimum_norm and beyond.any():
            lost = beyond.clone()
            lost[beyond] = ~self.is_fooled(result[beyond], y[beyond])
            result = x.where(per_sample(lost, x), result)
            self.corrected.reverted += int(lost.sum())
            beyond &= ~lost
        self.corrected.projected += int(beyond.sum())
        return result


def load(library: str, install: str, *modules: str) -> list[ModuleType]:
    """Import modules of an optional library.

    Raises:
        RobustSNNError: it is not installed, with the way to install it.
    """
    try:
        with kept_generators():  # some draw while they are imported
            return [importlib.import_module(module) for module in modules]
    except ImportError as error:
        raise RobustSNNError(f"{library} is not installed ({error}); {install}") from error


def find(kind: str, name: str, known: Iterable[str]) -> str:
    """The name as the library spells it, whatever case it is given in.

    Raises:
        UnknownNameError: there is none, with the nearest.
    """
    by_key = {known_name.lower(): known_name for known_name in known}
    if str(name).lower() not in by_key:
        raise UnknownNameError(kind, name, by_key.values())
    return by_key[str(name).lower()]


def check_fits(library: str, name: str, excluded: dict[str, str]) -> None:
    """Attacks of a library that do not fit are named with the reason.

    Raises:
        RobustSNNError: this is one of them.
    """
    for unfit, reason in excluded.items():
        if str(name).lower() == unfit.lower():
            raise RobustSNNError(f"{library}:{unfit} is not available here: {reason}")


def canonical_norm(norm: str) -> str:
    """``"Linf"``, ``"L2"``, ...

    Raises:
        UnknownNameError: no such norm.
    """
    return find("norm", norm, BALLS)


def check_parameters(label: str, kind: Any, given: Iterable[str], taken: Iterable[str]) -> dict[str, Any]:
    """The parameters of a library's class with their defaults (`inspect.Parameter.empty` where there are none).

    Args:
        label: of the attack, for messages.
        kind: the class.
        given: names that the user gives.
        taken: names that the adapter gives itself.

    Raises:
        RobustSNNError: the class has no such parameter, or needs one that is not given.
    """
    signature = inspect.signature(kind.__init__)
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = {name: p.default for name, p in signature.parameters.items() if p.kind in kinds and name != "self"}
    free = [name for name in known if name not in set(taken)]
    for name in given:
        if name not in free:
            near = difflib.get_close_matches(name, free, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise RobustSNNError(f"{label} has no parameter {name!r}.{hint} It has: {', '.join(free) or 'none'}")
    missing = [name for name in free if known[name] is inspect.Parameter.empty and name not in set(given)]
    if missing:
        raise RobustSNNError(f"{label} needs a value for {', '.join(missing)}")
    return known


def construct(label: str, kind: Any, *args: Any, **parameters: Any) -> Any:
    """An object of a library's class.

    Raises:
        RobustSNNError: the library refuses the parameters.
    """
    try:
        return kind(*args, **parameters)
    except RobustSNNError:
        raise
    except (TypeError, ValueError, AssertionError, NotImplementedError) as error:
        raise RobustSNNError(f"{label} refuses its parameters: {first_line(error)}") from error


def step_size(ratio: float, steps: int | None = None) -> float:
    """Size of a step in units of eps, where the user gives none.

    The library's own ratio to its eps; ``2.5 / steps`` (Madry et al., ICLR 2018) where so many steps of it would not
    cross the ball, which from a random start leaves pixels on the wrong side.

    Args:
        ratio: the library's.
        steps: number of steps, if the attack has any.
    """
    return 2.5 / steps if steps and ratio * steps < 2 else ratio


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or ["no message"])[0]


@contextlib.contextmanager
def _gradients_put_aside(model: object) -> Iterator[None]:
    """Libraries that train clear the gradients of a model's parameters (ART); these come back as they were."""
    weights = list(model.parameters()) if isinstance(model, nn.Module) else []
    gradients = [weight.grad for weight in weights]
    try:
        for weight in weights:
            weight.grad = None
        yield
    finally:
        for weight, gradient in zip(weights, gradients):
            weight.grad = gradient


def _is_about_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
