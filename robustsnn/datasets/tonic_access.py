"""Tonic where it is installed: its data sets on local files, and its downloads. GPL-3, so only ever an optional extra."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from robustsnn.datasets.base import first_line
from robustsnn.errors import RobustSNNError


def tonic_datasets(name: str) -> ModuleType:
    """The module ``tonic.datasets``.

    Raises:
        RobustSNNError: it cannot be imported; the message says how to install it.
    """
    try:
        import tonic.datasets
    except Exception as error:  # its own dependencies can fail in many ways
        raise RobustSNNError(
            f"data set {name!r} is read by Tonic, and importing it failed ({first_line(error)}); "
            "pip install 'robustsnn[events]' (Tonic is GPL-3)."
        ) from error
    return tonic.datasets  # type: ignore[no-any-return]


def local(tonic_class: str, root: Path, name: str, **arguments: Any) -> Any:
    """Tonic's data set on the files that are there, however many, without a look at archives and without a download.

    Raises:
        RobustSNNError: no Tonic, or it cannot read the files.
    """
    kind = getattr(tonic_datasets(name), tonic_class)
    relaxed = type(tonic_class, (kind,), {"_check_exists": lambda self: True})  # the class's name is the folder's name
    try:
        return relaxed(save_to=str(root), **arguments)
    except Exception as error:  # whatever a reader may raise
        raise RobustSNNError(
            f"data set {name!r}: Tonic cannot read the files in {root / tonic_class} ({first_line(error)}); correct root "
            "(--data-root), or pass download=True (--download)."
        ) from error


def fetch(
    tonic_class: str, root: Path, name: str, parts: tuple[dict[str, Any], ...] = ({"train": True}, {"train": False})
) -> None:
    """Download a set into ``root`` with Tonic, which also checks the archives' md5 sums.

    Raises:
        RobustSNNError: no Tonic, or the download failed.
    """
    kind = getattr(tonic_datasets(name), tonic_class)
    try:
        for arguments in parts:
            kind(save_to=str(root), **arguments)
    except Exception as error:  # network, disk and md5 errors have no common class
        raise RobustSNNError(
            f"downloading data set {name!r} into {root} failed ({first_line(error)}); check the network and the free space, "
            "or put the files in place by hand."
        ) from error
