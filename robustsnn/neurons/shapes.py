"""Parameters whose shape is that of the features a layer gets: found by one dry run of the network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from robustsnn.errors import RobustSNNError
from robustsnn.neurons.execution import Execution, executing


class Shaped(ABC):
    """A module with a parameter whose shape is known once a frame has reached it; see `fix_shapes`."""

    @property
    @abstractmethod
    def shaped(self) -> bool:
        """Whether the parameter is there."""

    @abstractmethod
    def fix_shape(self, frames: Tensor, time_steps: int) -> None:
        """Make the parameter for ``frames`` ``[T*N, ...]`` like this one and T steps, on their device, of their type."""

    def check_shaped(self) -> None:
        """Complain where the parameter is not there yet.

        Raises:
            RobustSNNError: it is not.
        """
        if not self.shaped:
            raise RobustSNNError(
                f"{type(self).__name__} does not know its shape yet; build the model from a ModelSpec, or call "
                "robustsnn.neurons.fix_shapes(net, image_shape, time_steps) before anything else"
            )


def fix_shapes(net: nn.Module, image_shape: tuple[int, ...], time_steps: int) -> None:
    """Make every parameter of ``net`` that waits for its shape; does nothing where none waits.

    One image of zeros is run, in evaluation mode, with neurons that stay silent: the weights do not matter and nothing but
    the new parameters is changed. On the meta device it takes no memory.

    Args:
        net: a folded network.
        image_shape: of one image, ``(C, H, W)``.
        time_steps: T of the model.
    """
    waiting = [module for module in net.modules() if isinstance(module, Shaped) and not module.shaped]
    if not waiting:
        return
    like = next(net.parameters(), torch.empty(0))
    modes = [(module, module.training) for module in net.modules()]
    hooks = [module.register_forward_pre_hook(_fix(module, time_steps)) for module in waiting]
    try:
        net.eval()
        frames = torch.zeros(time_steps, *image_shape, device=like.device, dtype=like.dtype)
        with torch.no_grad(), executing(net, Execution(time_steps, _silent)):
            net(frames)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training


def _fix(module: Shaped, time_steps: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not module.shaped:
            module.fix_shape(inputs[0], time_steps)

    return hook


def _silent(node: neuron.BaseNode, x_seq: Tensor, time_steps: int) -> Tensor:
    return torch.zeros_like(x_seq)
