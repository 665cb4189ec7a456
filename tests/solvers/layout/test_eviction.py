from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roam.core.lifetime import Slot
from roam.core.plan import Block
from roam.core.problem import Home
from roam.solvers.layout.eviction import evict
from roam.solvers.layout.sections import Placed, Sections, Table, table_of
from roam.solvers.work import Work

END = 6


def slot(name: int, lower: int, upper: int, size: int) -> Slot:
    return Slot((name,), lower, upper, size, 1, Home.ARENA)


def one_block(table: Table) -> Sections:
    """Everything in one block, from the first to the last."""
    low = table.bottom.min()
    return Sections(
        piece=np.array([0]),
        lower=np.array([table.lower.min()]),
        upper=np.array([table.upper.max()]),
        offset=np.array([low]),
        size=np.array([table.top.max() - low]),
        of=np.zeros(len(table.lower), np.int64),
    )


def committed(placed: Sequence[Placed], everything: Sequence[Placed]) -> list[int]:
    """Bytes at every moment: the blocks, and by itself whatever is not placed."""
    held: list[Slot | Block] = [s for s, o in everything if (s, o) not in placed]
    held += one_block(table_of(placed)).blocks() if placed else ()
    return [sum(h.size for h in held if h.lower <= t < h.upper) for t in range(END)]


def live(everything: Sequence[Placed]) -> list[int]:
    return committed([], everything)


def test_where_there_is_room_everything_stays() -> None:
    placed = [(slot(0, 0, 3, 10), 0), (slot(1, 2, 6, 10), 10)]
    assert evict(placed, one_block, live(placed), 20, Work()) == placed


def test_the_one_that_reaches_highest_leaves() -> None:
    """The block would be 30 high to the end for the sake of the first moment."""
    low, high, late = (slot(0, 0, 6, 10), 0), (slot(1, 0, 1, 20), 10), (slot(2, 3, 6, 10), 10)
    alive = live([low, high, late])
    alive[4] += 20  # something outside
    assert max(alive) == 40
    assert evict([low, high, late], one_block, alive, 40, Work()) == [low, late]


def test_the_last_one_alive_leaves_where_the_rest_is_dead() -> None:
    dead = [(slot(k, 0, 2, 10), 10 * k) for k in range(4)]
    last = (slot(9, 1, 6, 1), 40)
    alive = live([*dead, last])
    alive[5] += 40
    assert evict([*dead, last], one_block, alive, 41, Work()) == dead


def test_below_what_is_alive_nothing_stays() -> None:
    placed = [(slot(0, 0, 3, 10), 0)]
    assert evict(placed, one_block, live(placed), 9, Work()) == []


@st.composite
def layouts(draw: st.DrawFn) -> list[Placed]:
    """Buffers side by side, so that none overlaps another."""
    placed: list[Placed] = []
    offset = 0
    for name in range(draw(st.integers(1, 6))):
        lower = draw(st.integers(0, END - 1))
        size = draw(st.integers(1, 9))
        placed.append((slot(name, lower, draw(st.integers(lower + 1, END)), size), offset))
        offset += size
    return placed


@given(layouts(), st.lists(st.integers(0, 9), min_size=END, max_size=END), st.integers(0, 9))
def test_who_stays_costs_no_more_than_the_limit(
    placed: list[Placed], outside: list[int], spare: int
) -> None:
    alive = [a + b for a, b in zip(live(placed), outside, strict=True)]
    limit = max(alive) + spare
    staying = evict(placed, one_block, alive, limit, Work())
    assert [p for p in placed if p in staying] == staying
    total = [a + b for a, b in zip(committed(staying, placed), outside, strict=True)]
    assert max(total) <= limit


@pytest.mark.parametrize("limit", [20, 10**9])
def test_nothing_placed(limit: int) -> None:
    assert evict([], one_block, [10, 20], limit, Work()) == []


def test_without_work_nothing_is_decided() -> None:
    placed = [(slot(0, 0, 3, 10), 0)]
    with pytest.raises(TimeoutError, match="1 buffers"):
        evict(placed, one_block, live(placed), 20, Work(limit=0))
