"""Rectangles of address and time, and whether they lie apart: for `check`, apart from solvers."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
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
