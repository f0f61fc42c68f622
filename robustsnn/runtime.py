"""The process: how memory is allocated, what is logged, on which versions and machine we run."""

from __future__ import annotations

import ctypes
import importlib.metadata
import logging
import os
import platform
import sys
from typing import Any

_PACKAGES = ("torch", "spikingjelly", "numpy", "numba", "scipy", "scikit-learn")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def tune_allocator() -> bool:
    """Keep freed memory for the next large tensor instead of giving it back to the system (Linux with glibc only).

    The same as starting Python with ``MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=...``; ``benchmarks/neuron_speed.py`` with
    and without shows what it is worth. A process-wide setting, so the library never calls it; the command line does,
    unless ``ROBUSTSNN_MALLOC=default`` is set.

    Returns:
        whether the setting was accepted.
    """
    if os.environ.get("ROBUSTSNN_MALLOC") == "default":
        return False
    return bool(_glibc("mallopt", _M_MMAP_MAX, 0)) and bool(_glibc("mallopt", _M_TRIM_THRESHOLD, 2**31 - 1))


def release_memory() -> None:
    """Give memory that is free back to the system; between pieces of work whose tensors differ in size."""
    _glibc("malloc_trim", 0)


def _glibc(function: str, *arguments: int) -> int:
    """Result of a function of glibc, 0 where there is none."""
    if not sys.platform.startswith("linux"):
        return 0
    try:
        return int(getattr(ctypes.CDLL(None), function)(*arguments))
    except (OSError, AttributeError):
        return 0


def prepare_process() -> None:
    """For programs (the command line, benchmarks), before torch is imported: quiet imports and patient threads.

    Silences the warnings that torch prints where Triton is not installed, and lets idle OpenMP threads sleep instead of
    spinning: on a machine that does other work too, spinning threads made training ten times slower. Settings of the
    caller's own (``OMP_WAIT_POLICY``, ``GOMP_SPINCOUNT``) are kept.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    for name in ("torch._library.triton", "torch._library"):
        logging.getLogger(name).setLevel(logging.ERROR)


def environment(device: str) -> dict[str, Any]:
    """Versions, platform, device and thread count, for the record of a run."""
    import torch

    def version(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
        "platform": platform.platform(terse=True),
        "device": f"{device} ({name})",
        "threads": torch.get_num_threads(),
    }
