"""A greedy packing heuristic: places rectangles on the lowest line of the skyline, one by one.

The skyline is the top edge of the rectangles placed so far. Its lines are horizontal.

address    ______            of the rectangles that fit between the ends of the lowest line,
   ^      |      |____       the one of the highest worth (area, say) is placed on it; if none
   |  ____|           |__    fits, the line rises to its lower neighbour, and the space below
                             is wasted
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from roam.solvers.layout.greedy_fits import Rect
from roam.solvers.work import Work

Line = tuple[int, int, int]  # (address, start time, end time) of a line of the skyline
# measured units of work of one step: A_STEP, plus A_RECT per rectangle not placed before the step
A_STEP, A_RECT = 2_000, 100


def on_the_lowest_line(
    rects: Sequence[Rect], worth: Callable[[Rect], float], work: Work | None = None
) -> list[int]:
    """Packs rectangles on the lowest line of the skyline. Returns the rectangles' offsets in bytes.

    The skyline is the top edge of the rectangles placed so far; its lines are horizontal. This is
    the best fit of Burke, Kendall and Whitwell (2004) for strips, except that the position of each
    rectangle in time is given. Ignores fixed offsets.

    Args:
        rects: the rectangles to place.
        worth: returns the worth of a rectangle. Of the rectangles that fit on the lowest line, the
            rectangle of the highest worth is placed there.
        work: limits the search; unlimited if left out.

    Raises:
        TimeoutError: the work is spent before all rectangles are placed.
    """
    work = work or Work()
    offsets = [0] * len(rects)
    left = sorted((i for i, r in enumerate(rects) if r.size), key=lambda i: -worth(rects[i]))
    lines = [
        (0, min((r.lower for r in rects), default=0), max((r.upper for r in rects), default=0))
    ]
    while left:
        if work.is_over():
            raise TimeoutError(f"{len(left)} rectangles of {len(rects)} are not placed")
        work.spend(A_STEP + A_RECT * len(left))
        at = lines.index(min(lines))
        floor, start, end = lines[at]
        fits = (i for i in left if start <= rects[i].lower and rects[i].upper <= end)
        if (i := next(fits, None)) is None:
            beside = [lines[n][0] for n in (at - 1, at + 1) if 0 <= n < len(lines)]
            parts = [(min(beside), start, end)]
        else:
            r = rects[i]
            left.remove(i)
            offsets[i] = -(-floor // r.align) * r.align
            top = offsets[i] + r.size
            parts = [(floor, start, r.lower), (top, r.lower, r.upper), (floor, r.upper, end)]
        lines[at : at + 1] = [part for part in parts if part[1] < part[2]]
        lines = _merged(lines)
    return offsets


def lifetime(r: Rect) -> int:
    return r.upper - r.lower


def area(r: Rect) -> int:
    return r.size * lifetime(r)


def long_area(r: Rect) -> float:
    """Returns the lifetime of a rectangle times the square root of its size."""
    return lifetime(r) * r.size**0.5


LINES: dict[str, Callable[[Rect], float]] = {
    "lowest line by area": area,
    "lowest line by long area": long_area,
}


def _merged(lines: Sequence[Line]) -> list[Line]:
    """Returns the lines, after joining neighbouring lines that lie at the same address."""
    found: list[Line] = []
    for floor, start, end in lines:
        if found and found[-1][0] == floor:
            start = found.pop()[1]
        found.append((floor, start, end))
    return found
