"""The memory of a step at run time: blocks, tensors carved out of them, and blocks kept for later.

Reference counts alone decide how long a block lives. A block is a storage, and every tensor carved
out of it holds the storage. Autograd saves such tensors between forward and backward, so a block
lives as long as a tensor in it can be read: a dropped autograd graph frees its blocks, two pending
forwards have two sets, and two threads never share a block.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

from roam.runtime.huge_pages import on_huge_pages


def allocate(size: int, device: torch.device) -> Tensor:
    """Returns a block of `size` bytes.

    Marks its storage, so that `is_block` tells a tensor in a block from a copy of it.
    """
    block = torch.empty(size, dtype=torch.uint8, device=device)
    block.untyped_storage().is_roam_block = True  # type: ignore[attr-defined]
    return on_huge_pages(block) if block.device.type == "cpu" else block


def is_block(storage: torch.UntypedStorage) -> bool:
    """Returns whether `allocate` made the storage."""
    return getattr(storage, "is_roam_block", False)


def carve(
    block: Tensor, offset: int, dtype: torch.dtype, shape: Sequence[int], stride: Sequence[int]
) -> Tensor:
    """Returns a new tensor, no view, at `offset` bytes from the start of the block's storage.

    A view would share the version counter of the block, and autograd would take a write anywhere
    in the block for a write to every tensor saved in it.
    """
    tensor = torch.empty(0, dtype=dtype, device=block.device)
    return tensor.set_(block.untyped_storage(), offset // dtype.itemsize, shape, stride)


def twin(tensor: Tensor) -> Tensor:
    """Returns a new tensor, no view, on the same elements as `tensor`.

    It takes the real strides of `tensor`. In dims of one element they may differ from the fake
    value's, and an op refuses to write its result over an operand with other strides.
    """
    found = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    storage, offset = tensor.untyped_storage(), tensor.storage_offset()
    return found.set_(storage, offset, tensor.shape, tensor.stride())


class BlockPool:
    """A pool of blocks between steps: a forward takes a block, its backward puts it back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: list[Tensor] = []
        _pools.add(self)

    def take(self, size: int, device: torch.device) -> Tensor:
        """Returns a block of this size from the pool, or a new one if there is none."""
        with self._lock:
            for i, block in enumerate(self._blocks):
                if block.numel() == size and block.device == device:
                    return self._blocks.pop(i)
        with torch.inference_mode(False):  # a later step may run outside inference mode
            return allocate(size, device)

    def put_back(self, block: Tensor) -> None:
        with self._lock:
            self._blocks.append(block)

    def clear(self) -> int:
        """Frees all blocks in the pool; returns their bytes."""
        with self._lock:
            freed = sum(block.numel() for block in self._blocks)
            self._blocks.clear()
            return freed


_pools: weakref.WeakSet[BlockPool] = weakref.WeakSet()


def release() -> int:
    """Frees every arena that is kept between steps and not in use now; returns the bytes."""
    return sum(pool.clear() for pool in list(_pools))
