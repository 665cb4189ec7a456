"""`check` accepts plain plans, and refuses every way of spoiling one that hypothesis finds."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from roam.core.check import check
from roam.core.errors import (
    FigureError,
    GraphMismatchError,
    OffsetError,
    OrderError,
    OverlapError,
    PlanError,
    ReuseError,
)
from roam.core.lifetime import Slot, slots
from roam.core.plan import Block, Plan
from roam.core.problem import Buffer, Kind, Op, Problem
from tests.core.strategies import (
    GRAPHS,
    alive,
    all_orders,
    dense_problems,
    graph,
    plans,
    problems,
    stacked_plan,
)

Drawn = tuple[Problem, Plan]


def refused(problem: Problem, plan: Plan, error: type[Exception], *named: str) -> str:
    """That `check` refuses the plan with this very error and names these. The message."""
    with pytest.raises(error) as caught:
        check(problem, plan)
    for name in named:
        assert repr(name) in str(caught.value)
    return str(caught.value)


def placed(problem: Problem, plan: Plan) -> list[Slot]:
    """The slots in the arena, from the lowest address up."""
    found = slots(problem, plan.order, plan.reuse)
    return [s for s in found if s.buffers[0] in plan.offsets]


def moved(plan: Plan, slot: Slot, offset: int) -> Plan:
    return replace(plan, offsets=plan.offsets | dict.fromkeys(slot.buffers, offset))


@pytest.mark.parametrize("name", GRAPHS)
def test_plain_plans_of_every_order(name: str) -> None:
    problem = graph(name)
    for order in all_orders(problem):
        check(problem, stacked_plan(problem, order))


@given(plans())
def test_plain_plans(drawn: Drawn) -> None:
    check(*drawn)


@given(plans())
def test_plans_without_reuse_and_without_arena(drawn: Drawn) -> None:
    problem, plan = drawn
    peak = max(
        sum(problem.buffers[b].size for b in alive(problem, plan.order, t)) + problem.ops[i].scratch
        for t, i in enumerate(plan.order)
    )
    check(problem, replace(plan, reuse={}, offsets={}, blocks=(), peak=peak, live_peak=peak))


@given(plans())
def test_another_graph(drawn: Drawn) -> None:
    problem, plan = drawn
    one_more = Op("one more", phase=problem.ops[-1].phase)
    other = Problem(problem.name, problem.buffers, (*problem.ops, one_more))
    refused(other, plan, GraphMismatchError, plan.problem)
    refused(problem, replace(plan, fingerprint="0" * 16), GraphMismatchError, plan.problem)


@given(plans(), st.data())
def test_two_ops_the_wrong_way_round(drawn: Drawn, data: st.DataObject) -> None:
    problem, plan = drawn
    order = plan.order
    bound_together = [
        t
        for t, (p, i) in enumerate(pairwise(order))
        if p in problem.predecessors[i] or problem.ops[p].phase < problem.ops[i].phase
    ]
    assume(bound_together)
    t = data.draw(st.sampled_from(bound_together))
    a, b = order[t : t + 2]
    swapped = replace(plan, order=(*order[:t], b, a, *order[t + 2 :]))
    refused(problem, swapped, OrderError, problem.ops[a].name, problem.ops[b].name)


@given(plans(), st.data())
def test_an_op_missing(drawn: Drawn, data: st.DataObject) -> None:
    problem, plan = drawn
    t = data.draw(st.sampled_from(range(len(plan.order))))
    short = replace(plan, order=plan.order[:t] + plan.order[t + 1 :])
    refused(problem, short, OrderError, problem.ops[plan.order[t]].name)


@given(plans(), st.data())
def test_an_op_twice(drawn: Drawn, data: st.DataObject) -> None:
    problem, plan = drawn
    i = data.draw(st.sampled_from(plan.order))
    t = data.draw(st.integers(0, len(plan.order)))
    twice = replace(plan, order=(*plan.order[:t], i, *plan.order[t:]))
    refused(problem, twice, OrderError, problem.ops[i].name)


@given(plans(), st.sampled_from((-1, 99)))
def test_an_op_that_is_none(drawn: Drawn, i: int) -> None:
    problem, plan = drawn
    message = refused(problem, replace(plan, order=(*plan.order, i)), OrderError)
    assert f"op {i}" in message


@given(plans(), st.data())
def test_a_reuse_that_may_not_be(drawn: Drawn, data: st.DataObject) -> None:
    problem, plan = drawn
    n = len(problem.buffers)
    assume(n)
    made, dying = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
    maker = problem.maker[made]
    assume(plan.reuse.get(made) != dying)
    allowed = maker is not None and (made, dying) in problem.ops[maker].over
    buffers = problem.buffers[made], problem.buffers[dying]
    dies = allowed and not any(
        dying in alive(problem, plan.order, t)
        for t in range(plan.order.index(maker or 0) + 1, len(plan.order))
    )
    fits = buffers[0].size == buffers[1].size and buffers[0].align <= buffers[1].align
    given_away = dying in plan.reuse.values() and made not in plan.reuse
    theirs = problem.maker[dying] is None or buffers[1].kept
    assume(not (allowed and dies and fits) or given_away or theirs)
    wrong = replace(plan, reuse=plan.reuse | {made: dying})
    refused(problem, wrong, ReuseError, problem.buffers[made].name, problem.buffers[dying].name)


RELU = Op("relu", reads=(0,), creates=(1,), over=((1, 0),))


@pytest.mark.parametrize(
    ("a", "b", "rest", "why"),
    [
        (Buffer("a", 64), Buffer("b", 64), (Op("later", reads=(0,)),), "still needed"),
        (Buffer("a", 64), Buffer("b", 64), (Op("later", mutates=(0,)),), "still needed"),
        (Buffer("a", 64, Kind.OUTPUT), Buffer("b", 64), (), "the user's"),
        (Buffer("a", 64), Buffer("b", 32), (), "64"),
        (Buffer("a", 64, align=16), Buffer("b", 64), (), "alignments"),
    ],
)
def test_why_a_reuse_may_not_be(a: Buffer, b: Buffer, rest: tuple[Op, ...], why: str) -> None:
    problem = Problem("p", (a, b), (Op("make", creates=(0,)), RELU, *rest))
    plan = stacked_plan(problem, tuple(range(len(problem.ops))))
    assert plan.reuse == {}
    assert why in refused(problem, replace(plan, reuse={1: 0}), ReuseError, "a", "b")


def test_a_buffer_is_given_away_once() -> None:
    twins = Op("twins", reads=(0,), creates=(1, 2), over=((1, 0), (2, 0)))
    buffers = tuple(Buffer(name, 64) for name in "abc")
    problem = Problem("p", buffers, (Op("make", creates=(0,)), twins))
    plan = stacked_plan(problem, (0, 1))
    assert plan.reuse == {1: 0}
    both = replace(plan, reuse={1: 0, 2: 0})
    assert "'b' is already" in refused(problem, both, ReuseError, "a", "c")


def test_a_reuse_in_another_place() -> None:
    problem = graph("in_place")
    plan = stacked_plan(problem, (0, 1, 2))
    assert plan.offsets == {1: 0, 2: 0, 3: 0}
    assert "None and 0" in refused(problem, replace(plan, offsets={1: 0}), OffsetError, "a", "b")
    apart = replace(plan, offsets=plan.offsets | {3: 64})
    assert "64 and 0" in refused(problem, apart, OffsetError, "b", "c")


# of few problems of the one kind are two buffers placed at once
@given(plans(of=st.one_of(problems(), dense_problems())), st.data())
def test_two_at_one_address(drawn: Drawn, data: st.DataObject) -> None:
    problem, plan = drawn
    rooms = placed(problem, plan)
    pairs = [
        (low, high)
        for n, high in enumerate(rooms)
        for low in rooms[:n]
        if low.lower < high.upper and high.lower < low.upper
    ]
    assume(pairs)
    low, high = data.draw(st.sampled_from(pairs))
    offset = plan.offsets[low.buffers[0]]
    wrong = moved(plan, high, offset)
    message = refused(problem, wrong, OverlapError)
    in_the_way = {
        problem.buffers[b].name
        for s in rooms
        if s is not high and plan.offsets[s.buffers[0]] < offset + high.size
        for b in s.buffers
    }
    one, other = re.findall(r"'(\w+)'", message)
    itself = {problem.buffers[b].name for b in high.buffers}
    assert (one in itself and other in in_the_way) or (other in itself and one in in_the_way)


@given(plans(), st.data())
def test_misaligned(drawn: Drawn, data: st.DataObject) -> None:
    problem, plan = drawn
    rooms = [s for s in placed(problem, plan) if s.align > 1]
    assume(rooms)
    slot = data.draw(st.sampled_from(rooms))
    shifted = moved(plan, slot, plan.offsets[slot.buffers[0]] + 1)
    refused(problem, shifted, OffsetError, problem.buffers[slot.buffers[0]].name)


@given(plans(), st.data())
def test_outside_the_block(drawn: Drawn, data: st.DataObject) -> None:
    problem, plan = drawn
    rooms = placed(problem, plan)
    assume(rooms)
    slot = data.draw(st.sampled_from(rooms))
    offset = data.draw(st.sampled_from((-64, -(-plan.arena // 64) * 64, 2**70)))
    wrong = moved(plan, slot, offset)
    refused(problem, wrong, OffsetError, problem.buffers[slot.buffers[0]].name)


@given(plans())
def test_a_block_too_small(drawn: Drawn) -> None:
    problem, plan = drawn
    rooms = placed(problem, plan)
    assume(rooms)
    (block,) = plan.blocks
    for small in (
        replace(block, size=max(plan.offsets[s.buffers[0]] + s.size for s in rooms) - 1),
        replace(block, offset=1),
        replace(block, lower=min(s.lower for s in rooms) + 1),
        replace(block, upper=max(s.upper for s in rooms) - 1),
    ):
        message = refused(problem, replace(plan, blocks=(small,)), OffsetError)
        left_out = {
            problem.buffers[b].name
            for s in rooms
            for b in s.buffers
            if not inside(s, plan.offsets[b], small)
        }
        if small.lower > small.upper:
            assert "block 0" in message
        else:
            assert re.findall(r"'(\w+)'", message)[0] in left_out
    message = refused(problem, replace(plan, blocks=()), OffsetError)
    assert "no block holds it" in message


def inside(slot: Slot, offset: int, block: Block) -> bool:
    return (
        block.offset <= offset
        and offset + slot.size <= block.offset + block.size
        and block.lower <= slot.lower
        and slot.upper <= block.upper
    )


@pytest.mark.parametrize(
    "block", [Block(0, 256, -1, 3), Block(0, 256, 0, 4), Block(-64, 256, 0, 3), Block(0, -1, 0, 3)]
)
def test_a_block_beyond_the_step(block: Block) -> None:
    problem = graph("chain")
    plan = replace(stacked_plan(problem, (0, 1, 2)), blocks=(block,))
    assert "block 0" in refused(problem, plan, OffsetError)


@given(plans(), st.integers(1, 63))
def test_two_blocks_at_one_address(drawn: Drawn, shift: int) -> None:
    problem, plan = drawn
    assume(plan.arena > shift)
    (block,) = plan.blocks
    more = replace(plan, blocks=(block, replace(block, offset=shift)))
    message = refused(problem, more, OverlapError)
    assert "block 0" in message
    assert "block 1" in message


@given(plans(), st.data())
def test_what_is_not_the_arenas(drawn: Drawn, data: st.DataObject) -> None:
    problem, plan = drawn
    others = [b for b, x in enumerate(problem.buffers) if x.home != "arena" or x.kept]
    assume(others)
    b = data.draw(st.sampled_from(others))
    refused(
        problem,
        replace(plan, offsets=plan.offsets | {b: 0}),
        OffsetError,
        problem.buffers[b].name,
    )


@given(plans())
def test_a_buffer_that_does_not_exist(drawn: Drawn) -> None:
    problem, plan = drawn
    message = refused(problem, replace(plan, offsets=plan.offsets | {99: 0}), OffsetError)
    assert "buffer 99" in message


@pytest.mark.parametrize("figure", ["peak", "live_peak", "persistent"])
@given(drawn=plans(), off=st.integers(-1000, 1000).filter(bool))
def test_a_figure_that_is_not_so(figure: str, drawn: Drawn, off: int) -> None:
    problem, plan = drawn
    true = getattr(plan, figure)
    wrong = replace(plan, **{figure: true + off})
    message = refused(problem, wrong, FigureError)
    assert f"{true + off} bytes" in message
    assert message.endswith(f" {true}")


@given(plans(), st.integers(1, 1000))
def test_a_bound_above_what_is_alive(drawn: Drawn, above: int) -> None:
    problem, plan = drawn
    for field in ("lower_bound", "stated"):
        wrong = replace(plan, **{field: plan.live_peak + above})
        message = refused(problem, wrong, FigureError)
        assert f"{plan.live_peak + above} bytes" in message
        assert message.endswith(f" {plan.live_peak}")


def two_blocks(problem: Problem) -> Plan:
    """The chain a, b with a block each, b's above a's."""
    plan = stacked_plan(problem, (0, 1, 2))
    return replace(plan, blocks=(Block(0, 100, 0, 2), Block(128, 200, 1, 3)), peak=300)


def test_blocks_that_come_and_go() -> None:
    problem = graph("chain")
    check(problem, two_blocks(problem))


def test_no_buffer_crosses_from_block_to_block() -> None:
    problem = graph("chain")
    plan = two_blocks(problem)
    halves = (Block(0, 100, 0, 1), Block(0, 100, 1, 2), plan.blocks[1])
    refused(problem, replace(plan, blocks=halves), OffsetError, "a")
    stacked = (Block(0, 192, 0, 2), Block(192, 200, 0, 3))
    refused(problem, replace(plan, blocks=stacked), OffsetError, "b")


def test_one_address_at_different_times() -> None:
    buffers = (Buffer("a", 64), Buffer("b", 64))
    problem = Problem("p", buffers, (Op("make_a", creates=(0,)), Op("make_b", creates=(1,))))
    plan = stacked_plan(problem, (0, 1))
    assert plan.peak == 128
    check(problem, replace(plan, offsets={0: 0, 1: 0}, blocks=(Block(0, 64, 0, 2),), peak=64))


def test_nothing_overlaps_nothing() -> None:
    """Empty buffers may lie anywhere in a block, also where others are."""
    buffers = (Buffer("a", 64), Buffer("none", 0), Buffer("nil", 0))
    problem = Problem("p", buffers, (Op("make", creates=(0, 1, 2)), Op("use", reads=(0, 1, 2))))
    plan = stacked_plan(problem, (0, 1))
    assert plan.offsets == {0: 0}
    check(problem, replace(plan, offsets={0: 0, 1: 0, 2: 0}))
    refused(problem, replace(plan, offsets={0: 0, 1: 64}), OffsetError, "none")


def test_aligned_in_the_block_as_well_as_in_the_arena() -> None:
    problem = graph("chain")
    plan = two_blocks(problem)
    wide = (plan.blocks[0], Block(104, 224, 1, 3))
    message = refused(problem, replace(plan, blocks=wide), OffsetError, "b")
    assert "24 bytes into block 1" in message


REACHED: list[Callable[[Problem, Plan], Plan]] = [
    lambda problem, plan: replace(plan, order=()),
    lambda problem, plan: replace(plan, reuse={99: 98}),
    lambda problem, plan: replace(plan, offsets={-1: 0}),
    lambda problem, plan: replace(plan, peak=-1),
]


@pytest.mark.parametrize("spoil", REACHED)
def test_what_is_wrong_with_a_plan_is_a_plan_error(
    spoil: Callable[[Problem, Plan], Plan],
) -> None:
    problem = graph("training_step")
    with pytest.raises(PlanError):
        check(problem, spoil(problem, stacked_plan(problem, (0, 1, 2, 3, 4))))
