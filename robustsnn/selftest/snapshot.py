"""A model and the global generators exactly as they were: taken before a probe, put back after it."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_CONTAINERS = (dict, list, set, deque)


class Snapshot:
    """Everything that the modules of ``model`` hold, values of tensors other than parameters included.

    Attributes, buffers, hooks, training flags, the entries of dictionaries and lists, generators and the parameters'
    flags and gradients; not the values of parameters, and not the inside of objects of other kinds.
    """

    def __init__(self, model: object) -> None:
        modules = list(model.modules()) if isinstance(model, nn.Module) else []
        self._model = model
        self._attributes = [(module, dict(module.__dict__)) for module in modules]
        held = [value for _, attributes in self._attributes for value in attributes.values()]
        self._containers = [(value, value.copy()) for value in held if isinstance(value, _CONTAINERS)]
        inside = list(_held(model))
        tensors = {id(value): value for value in inside if isinstance(value, Tensor) and not value.is_inference()}
        self._values = [
            (tensor, tensor._version, tensor.detach().clone())
            for tensor in tensors.values()
            if not isinstance(tensor, nn.Parameter)
        ]
        self._generators = [(value, value.get_state()) for value in inside if isinstance(value, torch.Generator)]
        parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
        self._parameters = [(parameter, parameter.requires_grad, parameter.grad) for parameter in parameters]

    def restore(self, generators: bool = True) -> None:
        """Put everything back; without ``generators`` those that modules hold go on from where they are."""
        for module, attributes in self._attributes:
            module.__dict__.clear()
            module.__dict__.update(attributes)
        for container, entries in self._containers:
            container.clear()
            if isinstance(container, dict | set):
                container.update(entries)
            else:
                container.extend(entries)
        for tensor, version, value in self._values:
            if tensor._version != version:
                tensor.data.copy_(value)
        for parameter, requires_grad, grad in self._parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad
        if generators:
            self.restore_generators()

    def restore_generators(self) -> None:
        """Put back the generators that modules hold; those made since then start again from their seeds."""
        known = {id(generator) for generator, _ in self._generators}
        for value in _held(self._model):
            if isinstance(value, torch.Generator) and id(value) not in known:
                value.manual_seed(value.initial_seed())
        for generator, state in self._generators:
            generator.set_state(state)


class GlobalRandomness:
    """The generators that everybody shares: torch's, numpy's and Python's."""

    def __init__(self) -> None:
        self._torch = torch.random.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
        self._numpy = np.random.get_state()  # noqa: NPY002 - the global generator is what is looked after
        self._python = random.getstate()

    def restore(self) -> None:
        """Put the generators back to where they were."""
        torch.random.set_rng_state(self._torch)
        if self._cuda is not None:
            torch.cuda.set_rng_state_all(self._cuda)
        np.random.set_state(self._numpy)  # noqa: NPY002
        random.setstate(self._python)

    @staticmethod
    def seed(number: int) -> None:
        """Start all of them from ``number``; CUDA is not woken up for it."""
        torch.random.default_generator.manual_seed(number)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(number)
        np.random.seed(number)  # noqa: NPY002
        random.seed(number)


def _held(model: object) -> Iterator[Any]:
    """What the modules hold: attributes, and the entries of dictionaries, lists and sets among them."""
    for module in model.modules() if isinstance(model, nn.Module) else []:
        for value in module.__dict__.values():
            yield value
            if isinstance(value, _CONTAINERS):
                yield from value.values() if isinstance(value, dict) else value
