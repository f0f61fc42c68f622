"""How many images fit: what a pass takes is measured on a few of them, and a batch that does not fit is cut in pieces."""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakSet, finalize

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from robustsnn.attacks.adaptive import begin
from robustsnn.attacks.context import attacked
from robustsnn.attacks.inputs import Model, device_of
from robustsnn.errors import RobustSNNError

_MARGIN = 1.25
"""For what cannot be seen: fragments between tensors, buffers inside operations."""
_PROBE = 8
"""Images of the larger probe: rules that run a few steps at a time take fewer steps at once for more images."""
_UNITS = {"": 1, "b": 1, **{f"{p}{b}": 1000**k for k, p in enumerate("kmgt", 1) for b in ("", "b")}}
_UNITS |= {f"{p}ib": 1024**k for k, p in enumerate("kmgt", 1)}


def batch_size_for(model: Model, images: Tensor, budget_bytes: float | str | None = None) -> int:
    """How many of the images fit in one forward and backward pass within a budget of memory.

    One image is run, and if not all images can be expected to fit, up to eight more. What they take is counted tensor by
    tensor (on CUDA by torch's allocator) and taken as proportional to the number of images. Neither the model nor random
    numbers move: adaptive rules are run as copies, generators are put back.

    Args:
        model: images ``[N, ...]`` to logits ``[N, K]``.
        images: ``[N, ...]``, N >= 1, what shall be attacked.
        budget_bytes: bytes for one pass, or a text such as ``"4GB"``; half of what is free now unless given (no limit
            where the system does not say). Weights and whatever else is in memory already do not count.

    Returns:
        a number from 1 to N. Where not even one image fits in the budget it is 1, with a `RuntimeWarning`.

    Raises:
        RobustSNNError: no images, or a budget that makes no sense.
    """
    if not len(images):
        raise RobustSNNError("no images: the batch is empty")
    device = device_of(model) or images.device
    budget = _half_of(free_memory(device)) if budget_bytes is None else parse_memory(budget_bytes)
    one = bytes_of_a_pass(model, images[:1])
    if one * len(images) <= budget:
        return len(images)
    if one > budget:
        warnings.warn(
            f"one image takes about {_readable(one)} in a forward and backward pass, more than the budget of "
            f"{_readable(budget)}; going on with one image at a time",
            RuntimeWarning,
            stacklevel=2,
        )
        return 1
    few = min(_PROBE, len(images), int(budget // one))
    each = min(one, bytes_of_a_pass(model, images[:few]) / few)
    return max(1, min(len(images), int(budget // each)))


def bytes_of_a_pass(model: Model, images: Tensor) -> float:
    """Most memory that one forward and backward pass holds at a time beyond what is there before, in bytes.

    Args:
        model: images ``[N, ...]`` to logits ``[N, K]``.
        images: ``[N, ...]``.
    """
    device = device_of(model) or images.device
    model = _with_a_rule_of_its_own(model)
    with attacked(model), _random_numbers_put_back(model, device), torch.inference_mode(False), torch.enable_grad():
        begin(model, len(images))
        x = images.detach().to(device, copy=True).requires_grad_()
        peak = _peak_on_cuda if device.type == "cuda" else _peak_counted
        return _MARGIN * (peak(lambda: _pass(model, x), device) + 8 * x.nbytes)


def _pass(model: Model, x: Tensor) -> None:
    logits = model(x)
    if logits.requires_grad:
        torch.autograd.grad(logits.logsumexp(1).sum(), x, allow_unused=True)


def _peak_on_cuda(run: Callable[[], None], device: torch.device) -> float:
    run()  # libraries take what they keep for good
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _peak_counted(run: Callable[[], None], device: torch.device) -> float:
    with _Counter() as counter:
        run()
    return counter.peak


class _Counter(TorchDispatchMode):
    """Adds up the storages that operations make, while they live.

    Convolutions on the CPU work on copies of their images in a layout of their own, which no tensor shows.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: WeakSet[torch.UntypedStorage] = WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        taken = tree_leaves((args, kwargs))
        for tensor in taken:
            if isinstance(tensor, Tensor) and _storage(tensor) is not None:
                self._known.add(tensor.untyped_storage())
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        for tensor in tensors:
            storage = _storage(tensor)
            if storage is not None and storage not in self._known:
                self._known.add(storage)
                self.live += storage.nbytes()
                finalize(storage, self._gone, storage.nbytes()).atexit = False
        hidden = 0
        if "convolution" in func.__name__:
            hidden = sum(leaf.nbytes for leaf in (*taken, *tensors) if isinstance(leaf, Tensor))
        self.peak = max(self.peak, self.live + hidden)
        return result

    def _gone(self, size: int) -> None:
        self.live -= size


def _storage(tensor: Tensor) -> torch.UntypedStorage | None:
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):  # sparse and opaque tensors have none
        return None


def _with_a_rule_of_its_own(model: Model) -> Model:
    """The model, or a view of it whose adaptive rule is a copy."""
    rule = getattr(model, "rule", None)
    if not (isinstance(model, nn.Module) and hasattr(rule, "begin")):
        return model
    view: Any = copy.copy(model)
    view.rule = copy.deepcopy(rule)
    return view  # type: ignore[no-any-return]


@contextmanager
def _random_numbers_put_back(model: Model, device: torch.device) -> Iterator[None]:
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    single = [value for module in modules for value in vars(module).values() if isinstance(value, torch.Generator)]
    tables = [value for module in modules for value in vars(module).values() if _holds_generators(module, value)]
    before = [(table, dict(table)) for table in tables]
    found = [*single, *(generator for _, held in before for generator in held.values())]
    states = [(generator, generator.get_state()) for generator in found]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for table, held in before:
                table.clear()
                table.update(held)
            for generator, state in states:
                generator.set_state(state)


def _holds_generators(module: nn.Module, value: object) -> bool:
    """Also an empty table of a random encoder, which fills it when it first draws."""
    if not isinstance(value, dict):
        return False
    random = bool(value) or bool(getattr(module, "stochastic", False))
    return random and all(isinstance(held, torch.Generator) for held in value.values())


def free_memory(device: torch.device | str = "cpu") -> int | None:
    """Bytes that are free now on the device, on the CPU within the limits of the process's control groups too.

    None where the system does not say (Linux and CUDA do).
    """
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) + _kept_by_torch(device)
    if device.type != "cpu":
        return None
    known = [value for value in (_free_on_machine(), *_free_in_groups()) if value is not None]
    return min(known) if known else None


def _half_of(free: int | None) -> float:
    return math.inf if free is None else free / 2


def _kept_by_torch(device: torch.device) -> int:
    return torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _free_on_machine(file: Path = Path("/proc/meminfo")) -> int | None:
    found = re.search(r"^MemAvailable:\s*(\d+) kB", _text(file), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _free_in_groups(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """What each control group (version 1 or 2) that the process is in leaves; its files may be at the root in containers."""
    for line in _text(groups).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        first = root / controllers
        folders = [
            first,
            *(first.joinpath(*Path(path).parts[1:depth]) for depth in range(2, len(Path(path).parts) + 1)),
        ]
        names = (
            ("memory.max", "memory.current") if not controllers else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        for folder in folders:
            limit, used = (_text(folder / name).strip() for name in names)
            if limit.isdigit() and used.isdigit():
                cached = re.search(r"^(?:total_)?inactive_file (\d+)", _text(folder / "memory.stat"), re.MULTILINE)
                yield max(0, int(limit) - int(used) + (int(cached[1]) if cached else 0))


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def parse_memory(amount: float | str) -> int:
    """Bytes in a number or a text: ``"4GB"``, ``"500 MB"`` (powers of 1000), ``"2GiB"`` (powers of 1024), ``4e9``.

    Raises:
        RobustSNNError: something else, or less than a byte.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?(?:e\+?\d+)?)\s*([a-z]*)\s*", str(amount).lower())
    if not found or found[2] not in _UNITS or isinstance(amount, bool) or float(found[1]) * _UNITS[found[2]] < 1:
        raise RobustSNNError(
            f"an amount of memory must be like '4GB', '500MB', '2GiB' or bytes above 0, got {amount!r}"
        )
    return int(float(found[1]) * _UNITS[found[2]])


def split_to_fit(function: Callable[..., Tensor], *batch: Tensor, batch_size: int | None = None) -> Tensor:
    """``function(*batch)``, in pieces where memory does not hold the whole.

    A piece that does not fit is cut in half and tried again, and later pieces are as small. A function whose results
    depend on how often it was called (a random encoder) sees the failed calls too.

    Args:
        function: of tensors ``[n, ...]`` with samples in front, to a tensor ``[n, ...]``.
        batch: its arguments, each with N >= 1 samples.
        batch_size: largest piece; all samples unless given.

    Raises:
        RobustSNNError: a single sample does not fit.
    """
    size = min(batch_size or len(batch[0]), len(batch[0]))
    done: list[Tensor] = []
    start = 0
    while start < len(batch[0]):
        piece = [tensor[start : start + size] for tensor in batch]
        result = _unless_out_of_memory(function, piece)
        if result is not None:
            done.append(result)
            start += len(piece[0])
        elif len(piece[0]) == 1:
            raise RobustSNNError(
                f"out of memory with a single sample of shape {tuple(batch[0].shape[1:])}; free memory, take fewer time "
                "steps or a rate rule (BPTR, RGA), or move the model to a device with more"
            )
        else:
            size = -(-len(piece[0]) // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return torch.cat(done)


def _unless_out_of_memory(function: Callable[..., Tensor], piece: list[Tensor]) -> Tensor | None:
    """The result, or None; on return the failed call's tensors are gone."""
    try:
        return function(*piece)
    except (torch.OutOfMemoryError, MemoryError):
        return None
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # how torch says it on the CPU
            raise
        return None


def _readable(amount: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"
