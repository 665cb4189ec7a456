"""Blocks for what is saved: valid, within the limit, and less reserved or none at all."""

from __future__ import annotations

from math import inf

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from roam.core.check import check
from roam.core.lifetime import find_reuse, live_curve
from roam.core.machine import MIB, Blocking
from roam.core.plan import committed_curve
from roam.core.problem import Buffer, Home, Kind, Op, OpId, Problem
from roam.solvers.layout.arena import NOTHING_PLACED, Layout
from roam.solvers.layout.saved_layout import simulate, stack_saved
from tests.core.strategies import orders, problems
from tests.solvers.layout.test_arena import whole_plan


def stacked(
    problem: Problem,
    order: tuple[OpId, ...],
    held: tuple[int, ...] = (),
    limit: int | None = None,
    stagger: int = 0,
    largest: float = inf,
) -> Layout:
    """A valid layout of an order."""
    reuse = find_reuse(problem, order)
    limit = max(live_curve(problem, order, reuse), default=0) if limit is None else limit
    asked = Blocking(stagger, largest)
    layout = stack_saved(problem, order, reuse, held, limit=limit, blocking=asked)
    check(problem, whole_plan(problem, order, layout))
    return layout


@given(st.data())
def test_valid_within_the_limit_and_never_more_reserved(data: st.DataObject) -> None:
    drawn = data.draw(problems(max_ops=9))
    large = tuple(replace(b, size=b.size * MIB) for b in drawn.buffers)
    problem = Problem(drawn.name, large, drawn.ops)
    order = data.draw(orders(problem))
    reuse = find_reuse(problem, order)
    largest = data.draw(st.sampled_from((inf, 5 * MIB)))
    layout = stacked(problem, order, stagger=data.draw(st.sampled_from((0, 1536))), largest=largest)
    assert all(b.size <= largest for b in layout.blocks)
    assert layout.peak == max(live_curve(problem, order, reuse), default=0)
    found = simulate(problem, order, reuse, layout.offsets, layout.blocks)
    plain = simulate(problem, order, reuse, {}, ())
    assert found < plain or (found == plain and not layout.blocks)


def saving(count: int, size: int, last: int) -> Problem:
    """Saves some buffers, frees them one after the other, and then needs a large one."""
    buffers = [Buffer(f"s{i}", size, Kind.SAVED) for i in range(count)]
    buffers += [Buffer("large", last, home=Home.EXTERNAL)]
    ops = [Op(f"f{i}", creates=(i,)) for i in range(count)]
    ops += [Op(f"b{i}", reads=(i,), phase=1) for i in reversed(range(count))]
    ops += [Op("last", creates=(count,), phase=1, after=(len(ops) - 1,))]
    return Problem("saving", tuple(buffers), tuple(ops))


def test_a_large_request_finds_the_block_where_the_saved_were() -> None:
    problem = saving(4, 12 * MIB, 48 * MIB)
    order = tuple(range(len(problem.ops)))
    layout = stacked(problem, order)
    assert [(b.size, b.lower, b.upper) for b in layout.blocks] == [(48 * MIB, 0, 8)]
    assert simulate(problem, order, {}, {}, ()) == 96 * MIB
    assert simulate(problem, order, {}, layout.offsets, layout.blocks) == 48 * MIB


def test_what_the_code_holds_leaves_less_room() -> None:
    """The block waits for three more buffers while the code holds what is dead already."""
    problem = saving(4, 12 * MIB, 48 * MIB)
    order = tuple(range(len(problem.ops)))
    held = tuple(12 * MIB * n for n in (2, 3, 4, 4))
    layout = stacked(problem, order, held)
    live = live_curve(problem, order, {})
    committed = committed_curve(problem, order, {}, layout.offsets, layout.blocks)
    for t in range(4):
        assert held[t] + committed[t] - live[t] <= 48 * MIB
    assert layout.blocks != stacked(problem, order).blocks


def test_no_block_is_larger_than_the_largest() -> None:
    """What is larger itself stays outside. The blocks go one after the other, as they get empty."""
    problem = saving(8, 12 * MIB, 24 * MIB)
    order = tuple(range(len(problem.ops)))
    assert [b.size for b in stacked(problem, order).blocks] == [96 * MIB]
    layout = stacked(problem, order, largest=30 * MIB)
    assert [b.size for b in layout.blocks] == 4 * [24 * MIB]
    assert stacked(problem, order, largest=11 * MIB).blocks == ()


def test_where_nothing_is_gained_there_is_no_block() -> None:
    problem = saving(4, 1024, 4096)
    layout = stacked(problem, tuple(range(len(problem.ops))))
    assert (layout.blocks, layout.method) == ((), NOTHING_PLACED)


def test_neighbours_of_whole_pages_are_staggered() -> None:
    """Else a kernel that reads one and writes another is slowed down by their addresses."""
    problem = saving(9, 4 * MIB, 40 * MIB)
    order = tuple(range(len(problem.ops)))
    layout = stacked(problem, order, stagger=1536)
    assert [b.size for b in layout.blocks] == [36 * MIB + 8 * 1536]
    places = [offset % 4096 for offset in sorted(layout.offsets.values())]
    assert places[:4] == [0, 1536, 3072, 512]
    assert all(len(set(places[i : i + 8])) == 8 for i in (0, 1))


def test_what_ends_within_a_page_is_staggered_already() -> None:
    problem = saving(4, 12 * MIB + 64, 49 * MIB)
    order = tuple(range(len(problem.ops)))
    layout = stacked(problem, order, stagger=1536)
    assert layout.blocks == stacked(problem, order).blocks != ()


def test_where_the_peak_has_no_room_for_gaps_there_are_none() -> None:
    """All that is saved is alive at the peak: what is not staggered there lies outside."""
    problem = saving(4, 12 * MIB, 48 * MIB)
    order = tuple(range(len(problem.ops)))
    assert stacked(problem, order).blocks
    assert stacked(problem, order, stagger=1536).blocks == ()
    roomy = stacked(problem, order, limit=48 * MIB + 3 * 1536, stagger=1536)
    assert [b.size for b in roomy.blocks] == [48 * MIB + 3 * 1536]
