"""How good the weights of an epoch are, measured on held-out images: clean and, where asked for, under attack."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustsnn.attacks import PGD
from robustsnn.datasets import Split
from robustsnn.defenses.processes import Processes
from robustsnn.defenses.randomness import Stream, derived_seed, generator
from robustsnn.defenses.train_config import TrainConfig
from robustsnn.draws import reseed

_STEPS = 10


class Selection:
    """Accuracies of a model on held-out images; the same images, noise and starting points for every epoch.

    Full precision, whatever the training's; the images are shared out among processes. The attack is PGD-10 in l-inf
    through the model's own surrogates (BPTT), of radius ``config.select_eps``, on at most ``config.select_images`` images
    drawn once from the held-out ones.

    Args:
        data: the images.
        held: numbers ``[n]`` of those held out.
        config: of the run.
        processes: of the run.
    """

    def __init__(self, data: Split, held: Tensor, config: TrainConfig, processes: Processes) -> None:
        self._data, self._held, self._config, self._processes = data, held, config, processes
        drawn = torch.randperm(len(held), generator=generator(config, Stream.VALIDATION))[: config.select_images]
        self._attacked = held[drawn.sort().values]

    def accuracy(self, model: nn.Module) -> float | None:
        """On all held-out images, in [0, 1]; None where there are none."""
        return self._share_right(model, self._held, lambda images, labels: images)

    def robust_accuracy(self, model: nn.Module) -> float | None:
        """Under attack, in [0, 1]; None where the choice does not go by it."""
        if self._config.select_by != "pgd":
            return None
        attack = PGD(model, self._config.select_eps, steps=_STEPS, seed=self._seed)
        return self._share_right(model, self._attacked, attack)

    @torch.no_grad()
    def _share_right(self, model: nn.Module, numbers: Tensor, seen: Callable[[Tensor, Tensor], Tensor]) -> float | None:
        if not len(numbers):
            return None
        model.eval()
        reseed(model, self._seed)
        right = torch.zeros((), dtype=torch.int64, device=self._processes.device)
        for chosen in self._processes.share(numbers).split(self._config.batch_size):
            if len(chosen):
                images, labels = (tensor.to(self._processes.device) for tensor in self._data.batch(chosen))
                right += (model(seen(images, labels)).argmax(1) == labels).sum()
        return int(self._processes.sum(right)) / len(numbers)

    @property
    def _seed(self) -> int:
        return derived_seed(self._config, Stream.VALIDATION)
