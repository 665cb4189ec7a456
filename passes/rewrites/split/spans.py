"""Spans: which dimensions of a tensor are the rows that are cut into blocks.

    logits (batch, tokens, classes)     span (0, 2): batch and tokens together are the rows
    view   (batch * tokens, classes)    span (0, 1): the same rows

A span is the first dimension of the rows, and the first one behind them. In a block the dimensions
of a span are one dimension. So a block of either tensor has the shape (rows of the block, classes).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from torch import Tensor, fx

from roam.passes.geometry import value


class Span(NamedTuple):
    """The dimensions `first`, ..., `end - 1` of a tensor."""

    first: int
    end: int

    def moved(self, by: int) -> Span:
        return Span(self.first + by, self.end + by)

    def holds(self, dim: int) -> bool:
        return self.first <= dim < self.end


def shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(value(node).shape)


def is_tensor(node: object) -> bool:
    return isinstance(node, fx.Node) and isinstance(value(node), Tensor)


def rows(sizes: Sequence[int], span: Span) -> int:
    """Returns the number of rows of a tensor of these sizes."""
    return prod(sizes[span.first : span.end])


def in_block(sizes: Sequence[int], span: Span, count: int) -> list[int]:
    """Returns the sizes of a block with `count` rows."""
    return [*sizes[: span.first], count, *sizes[span.end :]]


def dim_in_block(dim: int, span: Span) -> int:
    """Returns the dimension of a block that is dimension `dim` of the tensor, outside the span."""
    return dim if dim < span.first else dim - (span.end - span.first) + 1


def viewed(sizes: Sequence[int], span: Span, new: Sequence[int]) -> Span | None:
    """Returns the span of the same rows after a view of other sizes; None if there is none."""
    before, count = prod(sizes[: span.first]), rows(sizes, span)
    first, seen = 0, 1
    while seen < before and first < len(new):
        seen *= new[first]
        first += 1
    end, inside = first, 1
    while inside < count and end < len(new):
        inside *= new[end]
        end += 1
    fits = seen == before and inside == count and end > first
    return Span(first, end) if fits else None
