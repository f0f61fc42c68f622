"""Random numbers of modules: generators of their own, one a device, that can be started again."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class RandomModule(nn.Module):
    """A module that draws from generators of its own, one for each device, never from the global ones.

    The draws go on from call to call, so two calls differ; `reseed` starts them again. Results therefore depend on the
    order and the size of batches.

    Args:
        seed: where the generators start; drawn from torch's global generator, as initial weights are, where None.

    Attributes:
        stochastic: whether the next call draws.

    """

    stochastic: bool = True

    def __init__(self, seed: int | None = 0) -> None:
        super().__init__()
        self.seed = int(torch.randint(2**62, (), device="cpu")) if seed is None else seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def reseed(self, seed: int) -> None:
        """Start the draws again from ``seed`` on every device."""
        self.seed = seed
        self._generators.clear()

    def uniform(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Numbers in [0, 1) of this shape, on the device and of the type of ``like``."""
        return torch.rand(shape, generator=self._generator(like.device), device=like.device, dtype=like.dtype)

    def normal(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Standard normal numbers of this shape, on the device and of the type of ``like``."""
        return torch.randn(shape, generator=self._generator(like.device), device=like.device, dtype=like.dtype)

    def _generator(self, device: torch.device) -> torch.Generator | None:
        if device.type == "meta":  # shapes only
            return None
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self._generators[device]


def random_parts(model: nn.Module) -> list[nn.Module]:
    """Modules inside ``model`` that may draw random numbers of their own: those with ``stochastic`` and ``reseed``."""
    return [
        module
        for module in model.modules()
        if callable(getattr(module, "reseed", None)) and getattr(module, "stochastic", None) is not None
    ]


def reseed(model: nn.Module, seed: int) -> None:
    """Start the random numbers of every part of ``model`` again, each part from a seed of its own derived from ``seed``.

    The first part gets ``seed`` itself. Equal seeds would give equal draws to layers of equal shape.
    """
    for index, part in enumerate(random_parts(model)):
        own = seed if not index else _derived(seed, index)
        part.reseed(own)  # type: ignore[operator]


def _derived(seed: int, index: int) -> int:
    return int(np.random.SeedSequence([seed % 2**64, index]).generate_state(1, np.uint64)[0]) >> 1
