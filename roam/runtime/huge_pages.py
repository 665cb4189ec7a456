"""Huge pages under a CPU's large blocks, which malloc maps anew in every step: those of ATen's
arena. What Inductor's kernels save lies in blocks below that (`machine.CPU.blocking`).

malloc maps such blocks anew in every step, and the first touch of each page is a fault; a huge page
is one fault in place of many. The blocks of tensors that Inductor's kernels save are smaller, and
get none.

Whether huge pages pay depends on the machine. With huge pages under all that Inductor's code
allocates, a step took 5 to 9 % less time on some machines and 7 to 15 % more in a virtual machine,
where the kernel spent 1.35 seconds of a step instead of 0.49. PyTorch's own switch for all that it
allocates is THP_MEM_ALLOC_ENABLE.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable
from functools import cache

from torch import Tensor

from roam.core import machine


def on_huge_pages(new: Tensor) -> Tensor:
    """Asks the kernel for huge pages under a tensor if it is large, and returns the tensor.

    The kernel may decline. Linux only.
    """
    ask = _madvise()
    if ask is not None and new.nbytes >= machine.of(new.device.type).huge_pages_from:
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
