"""Ejection: it keeps packings valid, lowers them, and leaves fixed rectangles where they are."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from roam.solvers.layout.greedy_fits import FITS, Rect, place
from roam.solvers.layout.packing.ejection import Ejection
from roam.solvers.layout.packing.generate import cut_strip
from roam.solvers.layout.packing.instance import check_packing, granule, height, max_load
from roam.solvers.work import Work
from tests.solvers.layout.rectangles import rectangles

UNITS = 10**6


def lowered(rects: list[Rect], offsets: list[int], units: int = UNITS) -> list[int]:
    return Ejection(rects, granule(rects)).lower(offsets, max_load(rects), units, Work())


def stacked(rects: list[Rect]) -> list[int]:
    """All rectangles above one another, each at a multiple of 6, which suits every alignment."""
    return [30 * i for i in range(len(rects))]


@settings(max_examples=40, deadline=None)
@given(rectangles(align=(1, 2, 3), most=6), st.booleans())
def test_packings_stay_valid_and_never_rise(rects: list[Rect], fixed: bool) -> None:
    known = stacked(rects)
    if fixed:
        rects[0] = rects[0]._replace(fixed=known[0])
    found = lowered(rects, known)
    check_packing(rects, found)
    assert height(rects, found) <= height(rects, known)
    assert found == lowered(rects, known)


def test_what_greedy_fits_waste_is_saved() -> None:
    rects = cut_strip(60, 120, 2**12, 1)
    greedy = min((place(rects, fit) for fit in FITS), key=lambda o: height(rects, o))
    found = lowered(rects, greedy, 30 * UNITS)
    check_packing(rects, found)
    assert max_load(rects) <= height(rects, found) < height(rects, greedy)


def test_without_work_and_at_the_goal_nothing_changes() -> None:
    rects = [Rect(0, 2, 3), Rect(1, 3, 4)]
    assert lowered(rects, [10, 0], units=0) == [10, 0]
    assert lowered(rects, [4, 0]) == [4, 0]
    assert height(rects, lowered(rects, [10, 0])) == 7
