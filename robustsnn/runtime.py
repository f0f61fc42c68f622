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

    The same as starting Python with ``MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=...``; ``frameworks`` measured 1.6x on
    convolutional SNNs. A process-wide setting, so the library never calls it; the command line does, unless
    ``ROBUSTSNN_MALLOC=default`` is set.

    Returns:
        whether the setting was accepted.
    """
    if not sys.platform.startswith("linux") or os.environ.get("ROBUSTSNN_MALLOC") == "default":
        return False
    try:
        libc = ctypes.CDLL(None)
        return bool(libc.mallopt(_M_MMAP_MAX, 0)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
    except (OSError, AttributeError):
        return False


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
