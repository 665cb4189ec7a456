"""Keeps placed rectangles in the order of their addresses, for `ejection.py`, which moves them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from roam.solvers.jit import compiled
from roam.solvers.layout.greedy_fits import Rect
from roam.solvers.layout.packing.skyline import Ints

Floats = NDArray[np.float64]


class Shapes(NamedTuple):
    """The rectangles to pack, as arrays by index.

    Attributes:
        lower, upper: the rectangle is alive during times [lower, upper).
        size: the size of the rectangle, in bytes.
        align: the address of the rectangle has to be a multiple of this number of bytes.
        held: whether the rectangle has a fixed offset.
        weight: the square root of size × lifetime.
    """

    lower: Ints
    upper: Ints
    size: Ints
    align: Ints
    held: NDArray[np.bool_]
    weight: Floats


def shapes(rects: Sequence[Rect]) -> Shapes:
    columns = np.array([(r.lower, r.upper, r.size, r.align) for r in rects], np.int64)
    lower, upper, size, align = columns.reshape(-1, 4).T.copy()
    held = np.array([r.fixed is not None for r in rects], np.bool_)
    weight = np.sqrt(size.astype(np.float64) * (upper - lower))
    return Shapes(lower, upper, size, align, held, weight)


class Row(NamedTuple):
    """Placed rectangles, by rising address, as arrays.

    The arrays may be longer than the number of rectangles, which functions get as a parameter.

    Attributes:
        which: the indices of the rectangles in `Shapes`.
        lower, upper: the rectangle is alive during times [lower, upper).
        bottom, top: the rectangle takes the addresses [bottom, top).
        cover: the highest `top` of this rectangle and all before it; set by `neighbours` only.
    """

    which: Ints
    lower: Ints
    upper: Ints
    bottom: Ints
    top: Ints
    cover: Ints


@compiled
def empty_row(n: int) -> Row:
    room = np.zeros((6, n), np.int64)
    return Row(room[0], room[1], room[2], room[3], room[4], room[5])


@compiled
def neighbours(items: Shapes, row: Row, placed: int, i: int, beside: Row) -> int:
    """Lists in `beside` the placed rectangles that are alive together with rectangle i.

    The placed rectangles are the first `placed` ones of `row`. Returns how many are listed. Sets
    all fields of `beside` but `lower` and `upper`.
    """
    lower, upper = items.lower[i], items.upper[i]
    count = 0
    cover = np.int64(0)
    for j in range(placed):
        if row.lower[j] < upper and lower < row.upper[j]:
            cover = max(cover, row.top[j])
            beside.which[count], beside.cover[count] = row.which[j], cover
            beside.bottom[count], beside.top[count] = row.bottom[j], row.top[j]
            count += 1
    return count


@compiled
def remove(row: Row, placed: int, b: int) -> int:
    """Removes rectangle b, one of the first `placed` in `row`. Returns the new number of them."""
    at = 0
    while row.which[at] != b:
        at += 1
    for j in range(at, placed - 1):
        shift(row, j, j + 1)
    return placed - 1


@compiled
def insert(row: Row, placed: int, items: Shapes, b: int, address: int) -> int:
    """Inserts rectangle b at `address` among the first `placed` rectangles of `row`.

    Returns the new number of placed rectangles.
    """
    j = placed
    while j > 0 and row.bottom[j - 1] > address:
        shift(row, j, j - 1)
        j -= 1
    row.which[j], row.lower[j], row.upper[j] = b, items.lower[b], items.upper[b]
    row.bottom[j], row.top[j] = address, address + items.size[b]
    return placed + 1


@compiled
def shift(row: Row, to: int, source: int) -> None:
    row.which[to], row.lower[to], row.upper[to] = (
        row.which[source], row.lower[source], row.upper[source],
    )  # fmt: skip
    row.bottom[to], row.top[to] = row.bottom[source], row.top[source]
