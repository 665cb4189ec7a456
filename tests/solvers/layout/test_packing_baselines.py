"""Other packers, to compare with."""

from __future__ import annotations

import inspect
import sys

import pytest
from hypothesis import given, settings

from roam.solvers.layout.greedy_fits import Rect
from roam.solvers.layout.packing.baselines import BASELINES
from roam.solvers.layout.packing.instance import (
    check_packing,
    height,
    max_load,
)
from roam.solvers.layout.packing.pack import pack
from tests.solvers.layout.rectangles import rectangles


@pytest.mark.parametrize("name", BASELINES)
@settings(max_examples=20, deadline=None)
@given(rects=rectangles())
def test_baselines_are_sound_and_no_better(name: str, rects: list[Rect]) -> None:
    rects = [r for r in rects if r.size]
    offsets = BASELINES[name](rects)
    check_packing(rects, offsets)
    assert height(rects, offsets) >= pack(rects).value


def test_inductor_shares_a_place_and_cuts_it() -> None:
    """b and c come into the place of a, one above the other; d meets both, and is put on top.

    a [------)               d        [--)
                        on top of  c [-)      0..6
                                   b [---)    of a's place, 6..10
    """
    rects = [Rect(0, 4, 10), Rect(4, 8, 6), Rect(4, 7, 4), Rect(5, 6, 3)]
    assert BASELINES["Inductor"](rects) == [0, 0, 6, 10]


def test_llfb_lifts_the_lowest_line_where_nothing_fits() -> None:
    """b lives longest of what may lie on a. Beside it there is no room for c, so that the line
    rises to the top of b first; there is room for d.
    """
    a, b, c, d = Rect(0, 4, 3), Rect(0, 3, 2), Rect(2, 4, 1), Rect(3, 4, 7)
    assert BASELINES["LLFB"]([c, a, b]) == [5, 0, 3]
    assert BASELINES["LLFB"]([d, a, b]) == [3, 0, 3]


def test_inductor_nests_places_as_deep_as_there_are_buffers() -> None:
    """Deeper than Python may call, with a limit that leaves room for half of the buffers."""
    stairs = [Rect(i, 10_000 - i, 2000 - i) for i in range(160)]
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + len(stairs) // 2)
    try:
        offsets = BASELINES["Inductor"](stairs)
    finally:
        sys.setrecursionlimit(limit)
    assert height(stairs, offsets) == max_load(stairs)
