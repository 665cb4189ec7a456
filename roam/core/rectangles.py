"""Rectangles of address and time, and whether they lie apart: for `check`, apart from solvers."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from roam.core.errors import OverlapError


@dataclass(frozen=True)
class Rectangle:
    """Bytes [offset, offset + size) at times [lower, upper)."""

    name: str
    lower: int
    upper: int
    offset: int
    size: int

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.offset + self.size

    def holds(self, birth: int, death: int) -> bool:
        """Whether it is there from birth to death."""
        return self.lower <= birth and death <= self.upper


def check_apart(rectangles: Iterable[Rectangle]) -> None:
    """Raises OverlapError if two rectangles share a byte at a time. A line sweeps over time:

    address      .--------.
      ^          |   c    |    Those that are active lie apart, so a new one can only
      |    .-----+--.     |    clash with its two neighbours in the order of addresses:
      |    |  a  |##|     |    here c begins while a is active.
      |    '-----'--'-----'
      +-----------------------> time
    """
    events: list[tuple[int, bool, int, Rectangle]] = []
    for n, r in enumerate(rectangles):
        if r.size and r.lower < r.upper:
            events += [(r.lower, True, n, r), (r.upper, False, n, r)]
    active: list[Rectangle] = []  # in the order of offsets
    starts: list[int] = []
    for _, begins, _, r in sorted(events, key=lambda event: event[:3]):  # ends before begins
        at = bisect_left(starts, r.offset)
        if not begins:
            del active[at], starts[at]
            continue
        for other in active[max(at - 1, 0) : at + 1]:
            if other.offset < r.end and r.offset < other.end:
                raise OverlapError(
                    f"{other.name} at [{other.offset}, {other.end}) overlaps {r.name} at "
                    f"[{r.offset}, {r.end}) from op {r.lower} of the order on"
                )
        active.insert(at, r)
        starts.insert(at, r.offset)


def find_around(
    rectangles: Sequence[Rectangle], points: Sequence[tuple[int, int]]
) -> list[Rectangle | None]:
    """For every point of time and address the rectangle around it, None where there is none.

    The rectangles lie apart. A line sweeps over time, as in `check_apart`.
    """
    ends, begins, asks = range(3)  # what comes first of those at one time
    events = [(time, asks, n) for n, (time, _) in enumerate(points)]
    for n, r in enumerate(rectangles):
        if r.size and r.lower < r.upper:
            events += [(r.lower, begins, n), (r.upper, ends, n)]
    found: list[Rectangle | None] = [None] * len(points)
    active: list[Rectangle] = []  # in the order of offsets
    starts: list[int] = []
    for _, what, n in sorted(events):
        if what == asks:
            at = bisect_right(starts, points[n][1]) - 1
            if at >= 0 and points[n][1] < active[at].end:
                found[n] = active[at]
            continue
        at = bisect_left(starts, rectangles[n].offset)
        if what == begins:
            active.insert(at, rectangles[n])
            starts.insert(at, rectangles[n].offset)
        else:
            del active[at], starts[at]
    return found
