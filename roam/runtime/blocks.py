"""The memory of a step at run time: blocks, tensors carved out of them, and blocks held over.

Nobody keeps a ledger. A block is a storage, and every tensor carved out of it holds the storage.
What autograd saves between forward and backward are such tensors, so a block lives just as long as
somebody may read it: a graph that is dropped gives its blocks back, two pending forwards have two
sets, and two threads never share one.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

from roam.runtime.huge_pages import on_huge_pages


def allocate(size: int, device: torch.device) -> Tensor:
    """A block of `size` bytes. Its storage wears a mark: no copy of what lies in it has one."""
    block = torch.empty(size, dtype=torch.uint8, device=device)
    block.untyped_storage().is_roam_block = True  # type: ignore[attr-defined]
    return on_huge_pages(block) if block.device.type == "cpu" else block


def is_block(storage: torch.UntypedStorage) -> bool:
    return getattr(storage, "is_roam_block", False)


def carve(
    block: Tensor, offset: int, dtype: torch.dtype, shape: Sequence[int], stride: Sequence[int]
) -> Tensor:
    """A tensor of its own at `offset` bytes from the start of the block's storage.

    A view of the block would share its version counter, and autograd would take a write
    anywhere in the block for a write to every tensor saved in it.
    """
    tensor = torch.empty(0, dtype=dtype, device=block.device)
    return tensor.set_(block.untyped_storage(), offset // dtype.itemsize, shape, stride)


def twin(tensor: Tensor) -> Tensor:
    """A tensor of its own on another's elements, and no view of it.

    With the other's strides: where dims have one element those are not always as stated, and an
    op refuses to write over an operand that lies otherwise.
    """
    found = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    storage, offset = tensor.untyped_storage(), tensor.storage_offset()
    return found.set_(storage, offset, tensor.shape, tensor.stride())


class Shelf:
    """Blocks that are held between steps: taken by a forward, put back after its backward."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: list[Tensor] = []
        _shelves.add(self)

    def take(self, size: int, device: torch.device) -> Tensor:
        """A block from the shelf, or a new one when all are in use."""
        with self._lock:
            for i, block in enumerate(self._blocks):
                if block.numel() == size and block.device == device:
                    return self._blocks.pop(i)
        with torch.inference_mode(False):  # a later step may run outside of it
            return allocate(size, device)

    def put_back(self, block: Tensor) -> None:
        with self._lock:
            self._blocks.append(block)

    def clear(self) -> int:
        """Gives everything on the shelf back to the allocator; returns the bytes."""
        with self._lock:
            freed = sum(block.numel() for block in self._blocks)
            self._blocks.clear()
            return freed


_shelves: weakref.WeakSet[Shelf] = weakref.WeakSet()


def release() -> int:
    """Gives back every arena that is held between steps and not in use now; returns the bytes."""
    return sum(shelf.clear() for shelf in list(_shelves))
