"""Loops over arrays, compiled by numba and shared out among torch's threads."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import torch

PARALLEL_FROM = 1 << 15


def compile_loop(loop: Callable[..., Any]) -> Any:
    """``loop`` as machine code that lets other threads run, kept on disk where there is a writable place.

    Operations keep their order, so results are those of the same operations in torch, bit for bit.
    """
    try:
        return numba.njit(loop, nogil=True, error_model="numpy", cache=True)
    except RuntimeError:  # no writable place for the cache
        return numba.njit(loop, nogil=True, error_model="numpy")


def run_loop(
    loop: Any,
    length: int,
    before: tuple[Any, ...],
    after: tuple[Any, ...] = (),
    *,
    work: int | None = None,
    grain: int = 16,
) -> None:
    """``loop(*before, start, stop, *after)`` over ``range(length)``, one stretch for each of torch's threads.

    Args:
        loop: from `compile_loop`.
        length: where the range ends.
        before: arguments before the stretch.
        after: arguments after it.
        work: number of values touched, where it is not ``length``; a little work is done by one thread.
        grain: stretches begin at multiples of it.
    """
    threads = torch.get_num_threads() if (length if work is None else work) >= PARALLEL_FROM else 1
    cuts = [length * k // threads // grain * grain for k in range(threads)] + [length]
    *others, own = itertools.pairwise(cuts)
    pool = _pool(os.getpid(), threads)
    tasks = [pool.submit(functools.partial(loop, *before, *span, *after)) for span in others]
    loop(*before, *own, *after)
    for task in tasks:
        task.result()


@functools.cache
def _pool(pid: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="robustsnn-loop")
