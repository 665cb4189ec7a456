"""Greedy fits: places rectangles one after another, each into a gap between those placed before.

A rectangle is a buffer: its sides are its lifetime and its size. All greedy rules share one loop.
They differ in which rectangle is placed first (the largest, longest-lived or earliest one, or the
one of the largest area), and in which gap a rectangle takes (the lowest, or the tightest).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roam.solvers.work import Work

# units of work to place a rectangle: A_RECT, plus A_PLACED per rectangle placed before; measured
A_RECT, A_PLACED = 30_000, 12


@dataclass(frozen=True)
class Rect:
    """A buffer of `size` bytes that is alive during times [lower, upper).

    Attributes:
        lower: the first time at which the buffer is alive.
        upper: the time after the last one at which the buffer is alive.
        size: the size of the buffer, in bytes.
        align: the address of the buffer must be a multiple of so many bytes.
        fixed: the address that the buffer must have; None if a packing may choose one.
    """

    lower: int
    upper: int
    size: int
    align: int = 1
    fixed: int | None = None


@dataclass(frozen=True)
class Fit:
    """A greedy rule to place rectangles one after another.

    Attributes:
        name: the name of the rule, for reports.
        first: returns the rank of a rectangle; the one of lowest rank is placed first.
        tightest: whether a rectangle takes the smallest gap that it fits into, not the lowest.
    """

    name: str
    first: Callable[[Rect], tuple[int, ...]]
    tightest: bool = False


def _by_size(r: Rect) -> tuple[int, ...]:
    return (-r.size, r.lower)


def _by_lifetime(r: Rect) -> tuple[int, ...]:
    return (r.lower - r.upper, -r.size)


def _by_area(r: Rect) -> tuple[int, ...]:
    return (-(r.upper - r.lower) * r.size, r.lower)


def _by_start(r: Rect) -> tuple[int, ...]:
    return (r.lower, r.lower - r.upper, -r.size)


FITS: tuple[Fit, ...] = (
    Fit("first fit by size", _by_size),
    Fit("first fit by start", _by_start),
    Fit("first fit by area", _by_area),
    Fit("first fit by lifetime", _by_lifetime),
    Fit("best fit by size", _by_size, tightest=True),
    Fit("best fit by start", _by_start, tightest=True),
    Fit("best fit by area", _by_area, tightest=True),
    Fit("best fit by lifetime", _by_lifetime, tightest=True),
)


def place(
    rects: Sequence[Rect],
    fit: Fit,
    fixed: Sequence[tuple[Rect, int]] = (),
    walls: Sequence[int] = (),
    work: Work | None = None,
) -> list[int]:
    """Places rectangles by a greedy rule. Returns the offset of each in bytes.

    Args:
        rects: the rectangles to place.
        fit: the greedy rule.
        fixed: further rectangles, which are placed already, with their addresses.
        walls: addresses that no rectangle of `rects` may cross.
        work: limits the search; unlimited if left out.

    Raises:
        TimeoutError: the work is spent before all rectangles are placed.
    """
    work = work or Work()
    taken = _Taken(len(rects) + len(fixed))
    for rect, offset in fixed:
        taken.add(rect, offset)
    offsets = [0] * len(rects)
    edges = sorted(walls)
    for i in sorted(range(len(rects)), key=lambda i: fit.first(rects[i])):
        if work.is_over():
            raise TimeoutError(f"{fit.name} has placed {taken.n} rectangles of {len(rects)}")
        offsets[i] = _find_gap(taken.during(rects[i]), rects[i], edges, fit.tightest)
        taken.add(rects[i], offsets[i])
        work.spend(A_RECT + A_PLACED * taken.n)
    return offsets


class _Taken:
    """The rectangles placed so far, as numpy arrays, so that one operation compares all of them."""

    def __init__(self, capacity: int) -> None:
        self.lower, self.upper, self.bottom, self.top = np.zeros((4, capacity), dtype=np.int64)
        self.n = 0

    def add(self, rect: Rect, offset: int) -> None:
        n = self.n
        self.lower[n], self.upper[n] = rect.lower, rect.upper
        self.bottom[n], self.top[n] = offset, offset + rect.size
        self.n += 1

    def during(self, rect: Rect) -> NDArray[np.int64]:
        """Returns (bottom, top) of the k placed rectangles that are alive together with `rect`.

        An array of shape (k, 2), in bytes, sorted by bottom.
        """
        n = self.n
        alive = np.flatnonzero((self.lower[:n] < rect.upper) & (self.upper[:n] > rect.lower))
        spans = np.stack((self.bottom[alive], self.top[alive]), axis=1)
        ordered: NDArray[np.int64] = spans[np.argsort(spans[:, 0], kind="stable")]
        return ordered


def _find_gap(spans: NDArray[np.int64], rect: Rect, walls: Sequence[int], tightest: bool) -> int:
    """Returns the address at which to place a rectangle, in the lowest or the tightest gap.

    Args:
        spans: (bottom, top) of the k rectangles that are alive together with `rect`, sorted by
            bottom: shape (k, 2).
        rect: the rectangle to place.
        walls: addresses that the rectangle may not cross.
        tightest: whether to take the smallest gap into which it fits, instead of the lowest.
    """
    tops = np.maximum.accumulate(np.concatenate(([0], spans[:, 1])))
    if not walls:
        starts = -(-tops // rect.align) * rect.align
        room = spans[:, 0] - starts[:-1]
        fits = np.flatnonzero(room >= rect.size)
        if not len(fits):
            return int(starts[-1])
        best = fits[np.argmin(room[fits])] if tightest else fits[0]
        return int(starts[best])
    ends = np.append(spans[:, 0], np.iinfo(np.int64).max)
    starts = _above_walls(tops, rect, np.array(walls, np.int64))
    fits = np.flatnonzero(ends - starts >= rect.size)
    best = fits[np.argmin((ends - tops)[fits])] if tightest else fits[0]
    return int(starts[best])


def _above_walls(
    bottoms: NDArray[np.int64], rect: Rect, walls: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Returns, for each address, the lowest address at or above it at which `rect` may begin.

    Such an address is aligned, and `rect` crosses no wall. A wall is an address that no rectangle
    may lie across.
    """
    starts: NDArray[np.int64] = _aligned(bottoms, rect)
    ends = np.append(walls, np.iinfo(np.int64).max)
    crossing = ends[np.searchsorted(walls, starts, side="right")] - starts < rect.size
    wide = ends[1:] - _aligned(walls, rect) >= rect.size  # by wall: whether `rect` fits above it
    beyond = np.searchsorted(walls[wide], starts[crossing], side="right")
    starts[crossing] = _aligned(walls[wide], rect)[beyond]
    return starts


def _aligned(addresses: NDArray[np.int64], rect: Rect) -> NDArray[np.int64]:
    upwards: NDArray[np.int64] = -(-addresses // rect.align) * rect.align
    return upwards
