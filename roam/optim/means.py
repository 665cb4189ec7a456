"""Computes means of squares over rows or columns, for second moments that are averaged."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from roam.optim.blocks import block_size, wide
from roam.optim.elements import in_rows
from roam.runtime.one_pass import OnePass


def mean_square(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Returns the mean of x² over the dimensions that have size 1 in `shape` but not in x.

    The result has the shape `shape`, and the dtype of x, or float32 if that has more digits. Large
    matrices are read by a compiled kernel, if there is one. Other tensors are squared a few rows at
    a time, because x² as a whole would take as much memory as x.
    """
    dims = tuple(d for d in range(x.dim()) if shape[d] != x.shape[d])
    found = torch.zeros(shape, dtype=wide(x.dtype), device=x.device)
    if dims in KERNELS and x.dim() == 2 and found.dtype is torch.float32:
        views = in_rows(x, found)
        if views is not None and KERNELS[dims].by_kernel(*views):
            return found
    rows = max(1, block_size(x) // max(1, x[:1].numel()))
    for start in range(0, x.shape[0], rows):
        part = found if 0 in dims else found[start : start + rows]
        part.add_(x[start : start + rows].to(found.dtype).square().sum(dims, keepdim=True))
    return found.div_(max(1, math.prod(x.shape[d] for d in dims)))


def _over_columns(x: Tensor, found: Tensor) -> None:
    """Writes the mean square of each row of a matrix x into `found`.

    Rows are cut into pieces of ROW elements (`elements`): an n x m matrix x has the shape
    [n, m / ROW, ROW], and `found` [n, 1, 1].
    """
    found.copy_(x.to(found.dtype).square().mean((1, 2), keepdim=True))


def _over_rows(x: Tensor, found: Tensor) -> None:
    """Writes the mean square of each column of a matrix x into `found`.

    Rows are cut into pieces of ROW elements (`elements`): an n x m matrix x has the shape
    [n, m / ROW, ROW], and `found` [1, m / ROW, ROW].
    """
    found.copy_(x.to(found.dtype).square().mean((0,), keepdim=True))


# kernels for means of squares, by the dimensions of a matrix over which the mean is taken
KERNELS = {(0,): OnePass(_over_rows), (1,): OnePass(_over_columns)}
