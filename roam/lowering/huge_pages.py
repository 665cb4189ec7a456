"""Huge pages under what is large in a CPU's memory: blocks, and buffers of their own.

They are mapped anew in every step, and the first touch of each page is a fault. Of 4 KiB each,
those of GPT-2 small's saved tensors (1024 tokens) took 0.3 s of a step of 5 s. What is smaller
comes from malloc's heap, where the pages of the last step may be there still.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable
from functools import cache

from torch import Tensor

LARGE = 1 << 25  # bytes: from here on malloc always maps memory of its own, and shares no page


def on_huge_pages(new: Tensor) -> Tensor:
    """The same tensor; where it is large, the kernel is asked for huge pages under it.

    It may decline. Linux only.
    """
    ask = _madvise()
    if ask is not None and new.nbytes >= LARGE:
        start = -(-new.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (new.data_ptr() + new.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        ask(start, end - start, mmap.MADV_HUGEPAGE)
    return new


@cache
def _madvise() -> Callable[[int, int, int], int] | None:
    if sys.platform != "linux":
        return None
    found = ctypes.CDLL(None).madvise
    found.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return found
