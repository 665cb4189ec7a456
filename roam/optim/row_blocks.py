"""Tells when a gradient that comes in blocks of rows is complete, and joins blocks if needed."""

from __future__ import annotations

import torch
from torch import Tensor


class RowBlocks:
    """The blocks of gradients that are not complete yet, of one optimizer.

    Attributes:
        joined: by parameter, a tensor of the whole gradient, into which `add` copies the blocks.
            Only for gradients that cannot be folded by rows (`join`).
    """

    def __init__(self) -> None:
        self.joined: dict[Tensor, Tensor] = {}
        # by parameter, the blocks that have come: first row -> number of rows
        self._came: dict[Tensor, dict[int, int]] = {}

    def __bool__(self) -> bool:
        """Whether blocks of any gradient have come, and others of its blocks have not."""
        return bool(self._came)

    def has_begun(self, param: Tensor) -> bool:
        return param in self._came

    def has(self, param: Tensor, start: int) -> bool:
        """Returns whether the gradient's block that begins at row `start` has come."""
        return start in self._came.get(param, ())

    def join(self, param: Tensor) -> None:
        """Makes `add` copy the blocks of a gradient into one tensor of `joined`.

        Call before the first block. The caller takes the complete gradient out of `joined`.
        """
        self.joined[param] = torch.empty_like(param)

    def add(self, param: Tensor, grad: Tensor, start: int) -> bool:
        """Records that a block has come. Returns whether the gradient is complete now.

        A complete gradient is no longer counted: the next block begins another gradient.

        Args:
            param: the parameter.
            grad: the gradient of rows [start, start + len(grad)).
            start: the first row.
        """
        if param in self.joined:
            self.joined[param][start : start + len(grad)] = grad
        blocks = self._came.setdefault(param, {})
        blocks[start] = len(grad)
        complete = sum(blocks.values()) == len(param)
        if complete:
            del self._came[param]
        return complete

    def clear(self) -> None:
        self.joined.clear()
        self._came.clear()
