"""Spans: which dimensions of a tensor are the rows that are cut into blocks.

    logits (batch, tokens, classes)     span (0, 2): batch and tokens together are the rows
    view   (batch * tokens, classes)    span (0, 1): the same rows

A span is the first dimension of the rows, and the first one behind them. In a block the dimensions
of a span are one dimension. So a block of either tensor has the shape (rows of the block, classes).

Rows may be a factor of a dimension. If sequences are the rows, or the tokens of all sequences:

    logits (batch, tokens, classes)     span (0, 1)              span (1, 2)
    view   (batch * tokens, classes)    span (0, 1, 1, tokens)   span (0, 1, batch, 1)

Blocks of 3 rows then have the shapes (3, tokens, classes) and (3 * tokens, classes), or
(batch, 3, classes) and (batch * 3, classes).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from torch import Tensor, fx

from roam.passes.geometry import value


class Span(NamedTuple):
    """Where the rows are in a tensor.

    Taken together, the dimensions `first` to `end - 1` have `outer * rows * inner` indices. In
    row-major order, the rows are the factor between the other two.

    A span has as few dimensions as possible. So the same rows of a tensor always have equal spans.

    Attributes:
        first: the first dimension that contains rows.
        end: the dimension behind the last one that contains rows.
        outer: how many times the rows are repeated, as tokens are in each sequence of a batch.
        inner: how many successive indices belong to one row, as tokens do to a sequence.
    """

    first: int
    end: int
    outer: int = 1
    inner: int = 1

    @property
    def dims(self) -> range:
        return range(self.first, self.end)

    @property
    def per_row(self) -> int:
        """The number of indices of the span's dimensions that belong to one row."""
        return self.outer * self.inner

    def at(self, first: int) -> Span:
        """Returns the same rows in a tensor in which the dimensions begin at `first`."""
        return self._replace(first=first, end=first + len(self.dims))

    def moved(self, by: int) -> Span:
        return self.at(self.first + by)

    def holds(self, dim: int) -> bool:
        return self.first <= dim < self.end


def shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(value(node).shape)


def is_tensor(node: object) -> bool:
    return isinstance(node, fx.Node) and isinstance(value(node), Tensor)


def rows(sizes: Sequence[int], span: Span) -> int:
    """Returns the number of rows of a tensor of these sizes."""
    return prod(sizes[span.first : span.end]) // span.per_row


def in_block(sizes: Sequence[int], span: Span, count: int) -> list[int]:
    """Returns the sizes of a block with `count` rows."""
    return [*sizes[: span.first], count * span.per_row, *sizes[span.end :]]


def cuttable(sizes: Sequence[int], span: Span, count: int) -> tuple[list[int], int]:
    """Returns sizes of `count` rows that have a dimension to cut into blocks, and that dimension.

    One row has `inner` indices of it.
    """
    outer = [span.outer] if span.outer > 1 else []
    along = count * span.inner
    return [*sizes[: span.first], *outer, along, *sizes[span.end :]], span.first + len(outer)


def dim_in_block(dim: int, span: Span) -> int:
    """Returns the dimension of a block that is dimension `dim` of the tensor, outside the span."""
    return dim if dim < span.first else dim - len(span.dims) + 1


def viewed(sizes: Sequence[int], span: Span, new: Sequence[int]) -> Span | None:
    """Returns the span of the same rows after a view of other sizes; None if there is none."""
    before, count = prod(sizes[: span.first]) * span.outer, rows(sizes, span)
    return located(new, before, count)


def located(sizes: Sequence[int], before: int, count: int) -> Span | None:
    """Returns the span of the rows of a tensor that is, in row-major order, (before, rows, rest).

    Args:
        sizes: the sizes of the tensor.
        before: the number of indices before the rows.
        count: the number of rows.

    Returns:
        The span, or None if there is none.
    """
    first, seen = 0, 1
    while first < len(sizes) and seen * sizes[first] <= before:
        seen *= sizes[first]
        first += 1
    end, until = first, seen
    while end < len(sizes) and until < before * count:
        until *= sizes[end]
        end += 1
    if end == first or before % seen or until % (before * count):
        return None
    return Span(first, end, before // seen, until // (before * count))
