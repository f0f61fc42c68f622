"""Exact counts of the operations of one run: every event times the number of outputs that it feeds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from robustsnn.energy.fan_out import convolution, transposed_convolution
from robustsnn.energy.flow import CURRENT, GRADED, IMAGE, REFUSED, SPIKES, WEIGHTED, kind_after
from robustsnn.errors import RobustSNNError
from robustsnn.layouts.frameworks import framework_of
from robustsnn.neurons.execution import current

OPERATIONS = ("macs", "accumulations", "graded", "neuron_updates", "spikes")
"""What is counted, in the order of the columns of a count."""

NEURON = "neuron"
_COLUMN = {IMAGE: 0, CURRENT: 0, SPIKES: 1, GRADED: 2}

Site = tuple[str, str, str]
"""A layer: its name in the network, its kind (``conv2d``, ..., ``neuron``), and the kind of what it gets."""


class Counts:
    """Counts of one batch, layer by layer in the order of first calls.

    Args:
        images: number N of images in the batch.
        steps: T of a network whose layers get all steps in one call and where no `Execution` tells T; else 1.
        sequences: whether layers may get ``[T, N, ...]``; else it is ``[T*N, ...]``, or ``[N, ...]``.
        weights: how often the first run of the batch counts, and how often the later ones.
    """

    def __init__(self, images: int, steps: int = 1, sequences: bool = False, weights: tuple[int, int] = (1, 1)) -> None:
        self.images = images
        self.steps = steps
        self.sequences = sequences
        self.weights = weights
        self.of: dict[Site, Tensor] = {}
        self._runs = 0
        self._execution: object = None

    def add(self, site: Site, column: int, frames: Tensor) -> None:
        """Add what the frames ``[T*N]`` of one call cost; ``[N]`` where they are the same in every step."""
        per_image = frames.view(-1, self.images).sum(0) * self._weight()
        if len(frames) == self.images:
            per_image = per_image * self._steps()
        if site not in self.of:
            self.of[site] = per_image.new_zeros(self.images, len(OPERATIONS))
        self.of[site][:, column] += per_image

    def rows(self, x: Tensor, name: str) -> Tensor:
        """What a layer gets, with one leading axis for steps and images.

        Raises:
            RobustSNNError: the rows cannot be told apart by image.
        """
        steps = self._steps()
        if self.sequences and x.dim() > 2 and tuple(x.shape[:2]) == (steps, self.images):
            return x.flatten(0, 1)
        if self.images > 1 and len(x) not in (self.images, steps * self.images):
            raise RobustSNNError(
                f"cannot count layer {name!r}: it gets {len(x)} rows for {self.images} images in {steps} steps; measure "
                "with batch_size=1, so that all of them belong to one image"
            )
        return x

    def _steps(self) -> int:
        execution = current()
        return self.steps if execution is None else execution.time_steps

    def _weight(self) -> int:
        execution = current()
        if execution is not None and execution is not self._execution:
            self._execution = execution
            self._runs += 1
        return self.weights[self._runs > 1]


@contextmanager
def counting(net: nn.Module, frames: Tensor, kind: str, counts: Counts) -> Iterator[None]:
    """Count what ``net`` does with ``frames`` of this kind; its modules are as before on leaving.

    Raises:
        RobustSNNError: while it runs, for operations that cannot be counted.
    """
    _check(net)
    mode = _Counting(net, counts)
    mode.kinds[frames] = kind
    hooks = [
        module.register_forward_hook(mode.fired)
        for module in net.modules()
        if _is_neuron(module) and not any(_is_neuron(part) for part in module.modules() if part is not module)
    ]
    try:
        with mode:
            yield
    finally:
        for hook in hooks:
            hook.remove()


class _Counting(TorchFunctionMode):
    """Sees every call of a torch function, counts the weighted ones, and keeps track of what is a spike."""

    def __init__(self, net: nn.Module, counts: Counts) -> None:
        super().__init__()
        self.counts = counts
        self.kinds = WeakTensorKeyDictionary()
        self._names = {
            id(p): path.removesuffix(".weight") for path, p in [*net.named_parameters(), *net.named_buffers()]
        }
        self._neurons = {module: path.removesuffix(f".{NEURON}") for path, module in net.named_modules()}
        self._has_fired = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").strip("_")
        kinds = {self.kinds[x] for x in _tensors((args, kwargs)) if x in self.kinds}
        if kinds and name in REFUSED:
            raise RobustSNNError(
                f"cannot count the operations of {name}: only linear and (transposed) convolutional layers are known"
            )
        out = func(*args, **kwargs)
        if name in WEIGHTED:
            self._count(name, args, kwargs, out)
        if kinds or name in WEIGHTED:
            kind = kind_after(name, kinds or {CURRENT}, name in ("rsub", "sub") and 1 in _numbers(args))
            for x in _tensors(out):
                self.kinds[x] = kind
        return out

    def fired(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Forward hook of a neuron."""
        spikes = next(_tensors(output))
        ours = isinstance(module, neuron.BaseNode)
        self._has_fired = True
        self.kinds[spikes] = SPIKES if ours or _of_one_height(spikes) else GRADED
        name = self._neurons[module]
        frames = self.counts.rows(spikes.detach(), name)
        each = torch.full((len(frames),), frames[0].numel(), device=frames.device)
        site = (name, NEURON, CURRENT)
        self.counts.add(site, OPERATIONS.index("neuron_updates"), each)
        self.counts.add(site, OPERATIONS.index("spikes"), (frames != 0).flatten(1).sum(1))

    def _count(self, name: str, args: Any, kwargs: Any, out: Tensor) -> None:
        if name in ("matmul", "mm"):
            x, weight = args[0], args[1] if len(args) > 1 else kwargs.get("other", kwargs.get("mat2"))
            if weight in self.kinds or weight.dim() != 2:
                raise RobustSNNError(
                    f"cannot count the operations of {name}: of its factors the second must be a matrix of weights"
                )
            label = self._name(weight, WEIGHTED[name])
            fan_out = torch.tensor(weight.shape[1])
        elif name == "linear":
            x, weight = _bound(("input", "weight"), args, kwargs)
            label = self._name(weight, name)
            fan_out = torch.tensor(len(weight))
        else:
            x, weight, fan_out = _convolved(name, args, kwargs, out)
            label = self._name(weight, name)
        kind = self.kinds.get(x) or (GRADED if self._has_fired else CURRENT)
        frames = self.counts.rows(x.detach(), label)
        self.counts.add((label, WEIGHTED[name], kind), _COLUMN[kind], _operations(frames, fan_out, kind))

    def _name(self, weight: Tensor, kind: str) -> str:
        return self._names.get(id(weight)) or f"{kind}{list(weight.shape)}"


def _operations(frames: Tensor, fan_out: Tensor, kind: str) -> Tensor:
    """Operations that each frame causes, ``[frames]``: of every value where it is analogue, else of those that are not 0."""
    fan_out = fan_out.to(frames.device)
    if kind in (IMAGE, CURRENT):
        dense = (torch.ones_like(frames[0], dtype=torch.int64) * fan_out).sum()
        return dense.expand(len(frames))
    active = (frames != 0).sum(1) if fan_out.dim() else frames != 0
    return (active * fan_out).flatten(1).sum(1)


_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")


def _convolved(name: str, args: Any, kwargs: Any, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    transposed = "transpose" in name
    names = _TRANSPOSED if transposed else _CONVOLUTION
    defaults = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    given = defaults | dict(zip(names, args)) | kwargs
    x, weight, dims = given["input"], given["weight"], given["weight"].dim() - 2
    stride, padding, dilation = (_each(given[key], dims) for key in ("stride", "padding", "dilation"))
    size, size_out = x.shape[-dims:], out.shape[-dims:]
    if transposed:
        return x, weight, transposed_convolution(size, size_out, weight, stride, padding, dilation)
    return x, weight, convolution(size, size_out, weight, stride, padding, dilation, given["groups"])


def _each(value: Any, dims: int) -> Any:
    if isinstance(value, int):
        return (value,) * dims
    return value if isinstance(value, str) or len(value) == dims else tuple(value) * dims


def _bound(names: tuple[str, ...], args: Any, kwargs: Any) -> tuple[Any, ...]:
    given = dict(zip(names, args)) | kwargs
    return tuple(given[name] for name in names)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _numbers(args: Any) -> list[float]:
    return [value for value in args if isinstance(value, int | float)]


def _is_neuron(module: nn.Module) -> bool:
    return isinstance(module, neuron.BaseNode) or framework_of(module) is not None


def _of_one_height(spikes: Tensor) -> bool:
    return len(spikes[spikes != 0].unique()) <= 1


def _check(net: nn.Module) -> None:
    for path, module in net.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod"):
            raise RobustSNNError(
                f"cannot count the operations inside the compiled module {path or type(module).__name__!r}; give the "
                "network that it was compiled from"
            )
