"""Greedy fits: places rectangles one by one, each into a gap between rectangles placed before it.

A rectangle is a buffer: its sides are its lifetime and its size. All greedy rules share one loop.
They differ in which rectangle is placed first (the largest, longest-lived or earliest one, or the
one of the largest area), and in which gap a rectangle takes (the lowest, or the tightest).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from math import inf
from typing import NamedTuple

from roam.solvers.layout.occupied import Occupied
from roam.solvers.work import Work

# measured units of work: A_RECT to place one rectangle, however long it is alive
# A_NODE: further units for each tree node (`occupied.py`) that the rectangle's lifetime touches
# A_SPAN: further units for each span of addresses taken during the rectangle's lifetime
A_RECT, A_NODE, A_SPAN = 10_000, 1_000, 200


class Rect(NamedTuple):
    """A buffer of `size` bytes that is alive during times [lower, upper).

    Attributes:
        lower: the first time at which the buffer is alive.
        upper: the time after the last one at which the buffer is alive.
        size: the size of the buffer, in bytes.
        align: the address of the buffer must be a multiple of this number of bytes.
        fixed: the address that the buffer must have; None if a packing may choose one. `place`
            ignores this field: its parameter `fixed` lists the rectangles with a given address.
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
        first: returns the rank of a rectangle. Rectangles are placed by rank, the lowest first.
        tightest: whether a rectangle takes the smallest gap into which it fits, instead of the gap
            at the lowest address. The space above all taken addresses is the last resort.
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
    """Places rectangles by a greedy rule. Returns the offset of each rectangle in bytes.

    Args:
        rects: the rectangles to place; what their fields `fixed` say is ignored.
        fit: the greedy rule.
        fixed: (rectangle, address) of further rectangles, which are placed already.
        walls: addresses that no rectangle of `rects` may cross.
        work: limits the search; unlimited if left out.

    Raises:
        TimeoutError: the work is spent before all rectangles are placed.
    """
    work = work or Work()
    everything = chain(rects, (rect for rect, _ in fixed))
    occupied = Occupied(t for r in everything for t in (r.lower, r.upper))
    for rect, offset in fixed:
        occupied.take(occupied.nodes(rect.lower, rect.upper), offset, offset + rect.size)
    offsets = [0] * len(rects)
    gaps = _Gaps(sorted(walls), fit.tightest)
    for placed, i in enumerate(sorted(range(len(rects)), key=lambda i: fit.first(rects[i]))):
        if work.is_over():
            raise TimeoutError(f"{fit.name} has placed {placed} rectangles of {len(rects)}")
        rect = rects[i]
        nodes = occupied.nodes(rect.lower, rect.upper)
        taken = occupied.taken(nodes)
        offsets[i] = gaps.find(taken, rect)
        occupied.take(nodes, offsets[i], offsets[i] + rect.size)
        work.spend(A_RECT + A_NODE * sum(map(len, nodes)) + A_SPAN * len(taken))
    return offsets


class _Gaps:
    """Finds the gap into which a rectangle goes.

    Args:
        walls: addresses that no rectangle may cross, sorted.
        tightest: whether a rectangle takes the smallest gap into which it fits, instead of the gap
            at the lowest address.
    """

    def __init__(self, walls: Sequence[int], tightest: bool) -> None:
        self.walls, self.tightest = walls, tightest

    def find(self, taken: Sequence[tuple[int, int]], rect: Rect) -> int:
        """Returns the address at which to place a rectangle.

        Args:
            taken: (bottom, top) of the spans of addresses that are taken during the rectangle's
                lifetime, sorted.
            rect: the rectangle to place.
        """
        best, least = -1, inf
        top = 0
        for bottom, end in taken:
            if bottom - top >= rect.size:
                start = self.above_walls(top, rect)
                room = bottom - start
                if rect.size <= room < least:
                    if not self.tightest:
                        return start
                    best, least = start, room
            top = max(top, end)
        return self.above_walls(top, rect) if least == inf else best

    def above_walls(self, address: int, rect: Rect) -> int:
        """Returns the lowest address, from `address` on, at which a rectangle may begin.

        Such an address is a multiple of the rectangle's alignment, and a rectangle that begins
        there crosses no wall (an address that no rectangle may cross).
        """
        walls, start = self.walls, _aligned(address, rect)
        for wall in walls[bisect_right(walls, start) :]:
            if wall - start >= rect.size:
                break
            start = _aligned(wall, rect)
        return start


def _aligned(address: int, rect: Rect) -> int:
    return -(-address // rect.align) * rect.align
