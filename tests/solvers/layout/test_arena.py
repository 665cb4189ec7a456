from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from roam.core.bounds import must_live
from roam.core.check import check
from roam.core.lifetime import find_reuse, live_peak, slots
from roam.core.plan import Plan
from roam.core.problem import Buffer, Home, Kind, Op, OpId, Problem
from roam.solvers.layout.arena import NOTHING_PLACED, Layout, lay_out
from roam.solvers.work import Work
from tests.core.strategies import GRAPHS, graph, orders, problems

PAGE = 4096
NO_LIMIT = 2**60


def whole_plan(problem: Problem, order: tuple[OpId, ...], layout: Layout) -> Plan:
    reuse = find_reuse(problem, order)
    return Plan(
        problem=problem.name,
        fingerprint=problem.fingerprint,
        order=order,
        offsets=layout.offsets,
        reuse=reuse,
        blocks=layout.blocks,
        peak=layout.peak,
        live_peak=live_peak(problem, order),
        lower_bound=must_live(problem),
        persistent=problem.persistent,
    )


def laid_out(
    problem: Problem,
    order: tuple[OpId, ...] | None = None,
    limit: int = NO_LIMIT,
    hold: bool = False,
) -> Layout:
    """The layout of an order, program order if none is given; a valid one."""
    order = order or tuple(range(len(problem.ops)))
    reuse = find_reuse(problem, order)
    layout = lay_out(problem, order, reuse, limit=limit, hold=hold)
    check(problem, whole_plan(problem, order, layout))
    return layout


@given(st.data(), st.booleans())
def test_valid_and_within_the_limit(data: st.DataObject, hold: bool) -> None:
    problem = data.draw(problems(max_ops=9))
    order = data.draw(orders(problem))
    live = live_peak(problem, order)
    limit = live + data.draw(st.sampled_from((-1, 0, 0, 1, 64, 500, 10**6)))
    layout = laid_out(problem, order, limit, hold)
    if layout.method == NOTHING_PLACED:
        assert (layout.offsets, layout.blocks, layout.peak) == ({}, (), live)
    else:
        assert live <= layout.peak <= limit


@given(st.data(), st.booleans())
def test_without_a_limit_everything_is_placed(data: st.DataObject, hold: bool) -> None:
    problem = data.draw(problems(max_ops=9))
    order = data.draw(orders(problem))
    found = slots(problem, order, find_reuse(problem, order))
    arena = {b for s in found if s.home is Home.ARENA and s.size for b in s.buffers}
    assert set(laid_out(problem, order, hold=hold).offsets) == arena


@given(st.data())
def test_held_memory_is_one_block_for_the_whole_step(data: st.DataObject) -> None:
    problem = data.draw(problems(max_ops=9))
    order = data.draw(orders(problem))
    layout = laid_out(problem, order, hold=True)
    boundary = len(problem.phases[0]) if len(problem.phases) > 1 else len(order)
    found = slots(problem, order, find_reuse(problem, order))
    placed = [s for s in found if s.buffers[0] in layout.offsets]
    if any(s.lower < boundary < s.upper for s in placed):
        [block] = layout.blocks
        assert (block.offset, block.lower, block.upper) == (0, 0, len(order))
        tops = [layout.offsets[s.buffers[0]] + s.size for s in placed]
        assert block.size == max(tops)


@given(st.data())
def test_the_same_layout_every_time(data: st.DataObject) -> None:
    problem = data.draw(problems(max_ops=9))
    order = data.draw(orders(problem))
    assert laid_out(problem, order) == laid_out(problem, order)


@pytest.mark.parametrize("name", GRAPHS)
def test_tiny_graphs_take_no_more_than_is_alive(name: str) -> None:
    problem = graph(name)
    order = tuple(range(len(problem.ops)))
    layout = laid_out(problem, order, live_peak(problem, order))
    assert layout.peak == live_peak(problem, order)


def test_no_time_left_places_nothing() -> None:
    problem = graph("training_step")
    order = range(len(problem.ops))
    reuse = find_reuse(problem, order)
    layout = lay_out(problem, order, reuse, limit=10**9, work=Work(limit=0))
    assert layout == Layout({}, (), 344, NOTHING_PLACED, left=2)


def test_an_attempt_ends_with_the_work() -> None:
    problem = layers(300)
    order = range(len(problem.ops))
    enough, little = Work(), Work(limit=2_000_000)
    limit = 301 * PAGE
    assert lay_out(problem, order, {}, limit=limit, work=enough).offsets
    layout = lay_out(problem, order, {}, limit=limit, work=little)
    assert layout.method == NOTHING_PLACED
    assert little.limit <= little.spent < little.limit + enough.spent / 10


def layers(n: int, gradient: int = PAGE) -> Problem:
    """A step of n layers: each saves a page for its backward, which yields a gradient.

                  [ g1 : the user's, outside
    s3   [--)  [ g2
    s2 [------)            the gradients pile up while
    s1 [---------)         what is saved dies
    """
    forward = [Op(f"layer{k}", creates=(k,)) for k in range(n)]
    backward = [Op(f"back{k}", reads=(k,), creates=(n + k,), phase=1) for k in reversed(range(n))]
    saved = tuple(Buffer(f"saved{k}", PAGE, Kind.SAVED) for k in range(n))
    gradients = tuple(Buffer(f"gradient{k}", gradient, Kind.GRADIENT) for k in range(n))
    ops = tuple(replace(op, after=(i - 1,) if i else ()) for i, op in enumerate(forward + backward))
    return Problem("layers", saved + gradients, ops)


@pytest.mark.parametrize(("spare", "blocks"), [(15, 1), (3, 4), (0, 16)])
def test_more_blocks_where_gradients_pile_up(spare: int, blocks: int) -> None:
    """16 layers: 17 pages are alive throughout the backward. In how many blocks the stack of 16
    pages is given back decides how many dead ones are held.
    """
    problem = layers(16)
    assert live_peak(problem, tuple(range(32))) == 17 * PAGE
    layout = laid_out(problem, limit=(17 + spare) * PAGE)
    assert layout.peak == (17 + spare) * PAGE
    assert len(layout.blocks) == blocks
    assert len(layout.offsets) == 16


def test_fewer_blocks_where_they_cost_nothing() -> None:
    layout = laid_out(layers(16, gradient=64), limit=17 * PAGE)
    assert len(layout.blocks) == 1


def test_held_memory_is_not_cut() -> None:
    problem = layers(16)
    assert laid_out(problem, limit=32 * PAGE, hold=True).peak == 32 * PAGE
    assert laid_out(problem, limit=31 * PAGE, hold=True).method == NOTHING_PLACED


def test_the_saved_are_stacked_last_freed_lowest() -> None:
    layout = laid_out(layers(4))
    assert layout.offsets == {k: k * PAGE for k in range(4)}


def test_temporaries_lie_in_the_gaps_of_the_stack() -> None:
    """The place of what is saved last is free before that, and again after it is read."""
    buffers = (
        Buffer("t", PAGE),
        Buffer("first", PAGE, Kind.SAVED),
        Buffer("last", PAGE, Kind.SAVED),
        Buffer("u", PAGE),
    )
    ops = (
        Op("make_t", creates=(0,)),
        Op("use_t", reads=(0,), creates=(1,)),
        Op("make_last", creates=(2,), after=(1,)),
        Op("use_last", reads=(2,), phase=1),
        Op("make_u", creates=(3,), phase=1, after=(3,)),
        Op("use_both", reads=(1, 3), phase=1),
    )
    layout = laid_out(Problem("p", buffers, ops), limit=2 * PAGE)
    assert layout.offsets == {0: PAGE, 1: 0, 2: PAGE, 3: PAGE}
    assert layout.peak == 2 * PAGE


def test_what_does_not_fit_the_stack_has_a_block_of_each_phase() -> None:
    """Forward and backward scratch lie at the same addresses, each held in its own time."""
    buffers = (Buffer("saved", PAGE, Kind.SAVED), Buffer("t", 5 * PAGE), Buffer("u", 3 * PAGE))
    ops = (
        Op("make", creates=(0,)),
        Op("t", creates=(1,), after=(0,)),
        Op("u", creates=(2,), phase=1),
        Op("use", reads=(0,), phase=1, after=(2,)),
    )
    layout = laid_out(Problem("p", buffers, ops), limit=6 * PAGE)
    spans = {(b.offset, b.size, b.lower, b.upper) for b in layout.blocks}
    assert spans == {(0, PAGE, 0, 4), (PAGE, 5 * PAGE, 1, 2), (PAGE, 3 * PAGE, 2, 3)}


def test_what_spoils_the_arena_stays_outside() -> None:
    """Something large at first, and a page to the end: one block would hold the large one's."""
    buffers = (Buffer("large", 90 * PAGE), Buffer("small", PAGE), Buffer("output", 91 * PAGE))
    outside = replace(buffers[2], home=Home.EXTERNAL)
    ops = (
        Op("large", creates=(0,)),
        Op("small", reads=(0,), creates=(1,)),
        Op("output", creates=(2,), after=(1,)),
        Op("end", reads=(1, 2)),
    )
    problem = Problem("p", (*buffers[:2], outside), ops)
    live = live_peak(problem, tuple(range(4)))
    assert live == 92 * PAGE
    layout = laid_out(problem, limit=live)
    assert layout.peak == live
    assert len(layout.offsets) == 1


def test_an_arena_costs_nothing_where_there_can_be_one() -> None:
    """Whatever the layers' sizes, some of the saved are placed and the peak stays what is alive."""
    problem = layers(40, gradient=PAGE // 2)
    live = live_peak(problem, tuple(range(80)))
    layout = laid_out(problem, limit=live)
    assert layout.peak == live
    assert layout.offsets


@pytest.mark.parametrize("kind", [Kind.OUTPUT, Kind.GRADIENT])
def test_what_the_user_keeps_is_not_placed(kind: Kind) -> None:
    problem = Problem("p", (Buffer("a", PAGE, kind),), (Op("make", creates=(0,)),))
    assert laid_out(problem).offsets == {}


def test_nothing_to_run() -> None:
    assert lay_out(Problem("p", (), ()), (), {}, limit=0) == Layout({}, (), 0, NOTHING_PLACED)


def test_a_layout_of_nothing_is_called_so() -> None:
    """Above every share of the peak: what is left to place is nothing."""
    problem = Problem("p", (Buffer("a", PAGE),), (Op("make", creates=(0,), scratch=PAGE),))
    assert laid_out(problem, limit=2 * PAGE).method == "first fit by size"
    assert laid_out(problem, limit=2 * PAGE - 1).method == NOTHING_PLACED
