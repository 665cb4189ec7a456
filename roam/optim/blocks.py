"""Cuts large tensors into blocks, so that an update allocates little at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from roam.core import machine


def block_size(tensor: Tensor) -> int:
    """Returns how many elements an update processes at a time, which limits what it allocates.

    The number depends on the device of `tensor`. On a CPU, so many elements fit into the cache. On
    a GPU, they are enough to be worth a kernel launch.
    """
    return machine.of(tensor.device.type).fold_elements


def alike(first: Tensor, *others: Tensor) -> bool:
    """Returns whether all tensors have the same shape and strides, and no gaps in memory.

    If so, the tensors have their elements in the same order in memory.
    """
    shape, contiguous = first.shape, first.is_contiguous()
    for t in others:  # a loop, which is faster than a generator: this runs for every gradient
        if t.shape != shape or (contiguous and not t.is_contiguous()):
            return False
    if contiguous:
        return True
    step, dense = 1, [0] * first.dim()
    for i in sorted(range(first.dim()), key=first.stride):
        dense[i] = step
        step *= first.shape[i]
    return all(
        n == 1 or s == d
        for t in (first, *others)
        for n, s, d in zip(t.shape, t.stride(), dense, strict=True)
    )


def blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cuts the tensors into pieces, and yields the pieces one after another.

    A piece is a tuple with a flat view of each tensor, all of one range of elements. If the tensors
    are not `alike` (in shape and strides), they are yielded whole, as a single piece.
    """
    if not alike(*tensors):
        yield tensors
        return
    size = block_size(tensors[0])
    pieces = flat(*tensors)
    for start in range(0, len(pieces[0]), size):
        yield tuple(t[start : start + size] for t in pieces)


def flat(*tensors: Tensor) -> list[Tensor]:
    """Returns one-dimensional views of tensors of the same shape and strides, without gaps.

    The elements of a view are in the order of memory.
    """
    first = tensors[0]
    order = sorted(range(first.dim()), key=first.stride, reverse=True)
    return [t.permute(order).view(-1) for t in tensors]


def row_blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cuts the tensors along their first dimension, and yields the pieces one after another.

    A piece is a tuple with a view of each tensor. A tensor with another number of rows than the
    first tensor, such as a single row, is not cut: every piece has it whole. A piece has at least
    one row of the first tensor, and otherwise at most `block_size` elements of it.
    """
    first = tensors[0]
    rows = max(1, block_size(first) // max(1, first[:1].numel()))
    for start in range(0, len(first), rows):
        yield tuple(t if len(t) != len(first) else t[start : start + rows] for t in tensors)


def wide(dtype: torch.dtype) -> torch.dtype:
    """Returns `dtype`, or float32 if that has more digits."""
    return torch.promote_types(dtype, torch.float32)


def squared_sum(x: Tensor) -> Tensor:
    """Returns the sum of the squared elements of x, a scalar, computed in at least float32."""
    return torch.linalg.vector_norm(x, dtype=wide(x.dtype)).square()
