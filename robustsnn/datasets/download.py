"""Where the files of a torchvision-layout data set are: those present are used, missing ones can be downloaded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from robustsnn.datasets.base import first_line
from robustsnn.errors import RobustSNNError


@dataclass(frozen=True)
class Layout:
    """The files of one data set as torchvision lays them out.

    Attributes:
        name: the data set's name here.
        torchvision_class: the class of ``torchvision.datasets`` that downloads it.
        folder: the files' folder, relative to the data root.
        files: their names in that folder.
        suffixes: endings that a file may also have, in order of preference.

    """

    name: str
    torchvision_class: str
    folder: str
    files: tuple[str, ...]
    suffixes: tuple[str, ...] = ("",)


def locate(layout: Layout, root: str | os.PathLike[str] | None, download: bool) -> dict[str, Path]:
    """Find each file of a data set; download the set first where files are missing and ``download`` is set.

    Args:
        layout: the files to find.
        root: the data root; the set's own folder, or one on the way to it, is understood too (``data``,
            ``data/MNIST`` and ``data/MNIST/raw`` all work for ``MNIST/raw``).
        download: whether torchvision may fetch a set whose files are not all there.

    Returns:
        The path of every file in ``layout.files``.

    Raises:
        RobustSNNError: no root was given, files are missing, or the download failed.

    """
    if root is None:
        raise RobustSNNError(
            f"data set {layout.name!r} needs the folder that holds (or will hold) {layout.folder}; "
            "pass root=... (--data-root on the command line)."
        )
    roots = _roots(layout, Path(root).expanduser())
    found = _find(layout, roots)
    if len(found) < len(layout.files) and download:
        fetch(layout, roots[-1])
        found = _find(layout, roots)
    missing = [name for name in layout.files if name not in found]
    if missing:
        gz = " (or with .gz)" if ".gz" in layout.suffixes else ""
        raise RobustSNNError(
            f"data set {layout.name!r} is not complete: looked in {roots[-1] / layout.folder} for "
            f"{', '.join(missing)}{gz}; correct root (--data-root), or pass download=True (--download) to fetch it."
        )
    return found


def fetch(layout: Layout, root: Path) -> None:
    """Download a data set into ``root`` with torchvision, which also checks the files' md5 sums.

    Raises:
        RobustSNNError: torchvision cannot be imported, or the download failed.

    """
    try:
        import torchvision.datasets as remote
    except Exception as error:  # a torchvision built for another torch fails with RuntimeError or OSError
        raise RobustSNNError(
            f"cannot download data set {layout.name!r}: importing torchvision failed ({first_line(error)}); "
            f"install the torchvision that fits torch {torch.__version__} (pip install 'robustsnn[vision]'), or put "
            "the files in place by hand."
        ) from error
    try:
        getattr(remote, layout.torchvision_class)(str(root), train=True, download=True)
    except Exception as error:  # network, disk and md5 errors have no common class
        raise RobustSNNError(
            f"downloading data set {layout.name!r} into {root} failed ({first_line(error)}); "
            "check the network and the free space, or put the files in place by hand."
        ) from error


def _find(layout: Layout, roots: list[Path]) -> dict[str, Path]:
    """Return the files present under the root that has most of them."""
    return max((_present(layout, root / layout.folder) for root in roots), key=len)


def _present(layout: Layout, folder: Path) -> dict[str, Path]:
    present = {}
    for name in layout.files:
        paths = [folder / f"{name}{suffix}" for suffix in layout.suffixes]
        existing = next((path for path in paths if path.is_file()), None)
        if existing is not None:
            present[name] = existing
    return present


def _roots(layout: Layout, root: Path) -> list[Path]:
    """Return ``root``, and the data root that it points into where it ends in the set's folder or an upper part of it.

    The names have to agree: MNIST and FashionMNIST use the same file names, so ``FashionMNIST/raw`` must never be
    read as MNIST.
    """
    parts = Path(layout.folder).parts
    here = Path(os.path.abspath(root))
    return [root, *(here.parents[d - 1] for d in range(1, len(parts) + 1) if here.parts[-d:] == parts[:d])]
