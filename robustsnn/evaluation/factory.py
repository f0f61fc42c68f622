"""Anybody's models: a `SpikingClassifier`, or an ANN to convert, made by a function in a Python file or module."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from robustsnn.classifier import GradientView, SpikingClassifier
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.models import AnnClassifier


def is_factory(text: str) -> bool:
    """Whether a model is given as ``FILE.py:FUNCTION`` or ``MODULE:FUNCTION``."""
    place, colon, function = text.rpartition(":")
    return bool(colon) and function.isidentifier() and (place.endswith(".py") or _is_module(place))


def made_by(factory: str) -> SpikingClassifier:
    """The model that the function returns, in eval mode; called once in a process, with torch's generator seeded by 0.

    Running a factory runs its code: give only files that you trust.

    Raises:
        RobustSNNError: no such file, module or function, or it does not return a `SpikingClassifier`.
    """
    model = _returned_by(factory)
    if not isinstance(model, SpikingClassifier):
        hint = " as in rs.SpikingClassifier(net, time_steps=8)" if isinstance(model, nn.Module) else ""
        raise RobustSNNError(
            f"{factory} returned {type(model).__name__}; it must return a robustsnn.SpikingClassifier{hint}"
        )
    return model.eval()


def ann_made_by(factory: str) -> AnnClassifier:
    """The ANN that the function returns, in eval mode; else as `made_by`.

    Raises:
        RobustSNNError: as `made_by`, or it returns no `AnnClassifier` and no other ``torch.nn.Module`` without time.
    """
    model = _returned_by(factory)
    if isinstance(model, SpikingClassifier | GradientView):
        raise RobustSNNError(f"{factory} returned a {type(model).__name__}, which is spiking already; return the ANN")
    if not isinstance(model, nn.Module):
        raise RobustSNNError(
            f"{factory} returned {type(model).__name__}; it must return an ANN: a torch.nn.Module that takes images in [0, 1], "
            "or a robustsnn.models.AnnClassifier with the normalisation inside"
        )
    return (model if isinstance(model, AnnClassifier) else AnnClassifier(model)).eval()


def factory_hash(factory: str) -> str:
    """Hash of the file of the function and of the weights that it returns."""
    place, _, _ = factory.rpartition(":")
    digest = hashlib.blake2b(digest_size=16)
    file = _module_of(place).__file__
    digest.update(Path(file).read_bytes() if file else b"")
    for name, tensor in sorted(made_by(factory).state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@functools.cache
def _returned_by(factory: str) -> Any:
    if not is_factory(factory):
        raise RobustSNNError(f"{factory!r} names no function; give FILE.py:FUNCTION or MODULE:FUNCTION")
    place, _, name = factory.rpartition(":")
    module = _module_of(place)
    function = getattr(module, name, None)
    if not callable(function):
        raise UnknownNameError(f"function in {place}", name, [k for k, v in vars(module).items() if callable(v)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _called(factory, function)


def _is_module(place: str) -> bool:
    return bool(place) and all(part.isidentifier() for part in place.split("."))


@functools.cache
def _module_of(place: str) -> ModuleType:
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        path = Path(place).resolve()
        if not path.is_file():
            raise RobustSNNError(f"there is no file {place}; give FILE.py:FUNCTION or MODULE:FUNCTION")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(path.parent))
        try:
            sys.modules.setdefault(path.stem, module)
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(path.parent))
        return module
    except RobustSNNError:
        raise
    except (Exception, SystemExit) as error:  # the code is anybody's
        raise RobustSNNError(f"{place} cannot be imported: {type(error).__name__}: {error}") from error


def _called(factory: str, function: Any) -> Any:
    try:
        return function()
    except RobustSNNError:
        raise
    except (Exception, SystemExit) as error:  # the code is anybody's
        raise RobustSNNError(f"{factory} failed: {type(error).__name__}: {error}") from error
