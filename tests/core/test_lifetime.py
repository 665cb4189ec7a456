from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roam.core.lifetime import can_take, find_reuse, lifetimes, live_curve, slots
from roam.core.problem import Buffer, Home, Kind, Op, Problem
from tests.core.strategies import alive, graph, orders, problems


@pytest.mark.parametrize(
    ("name", "order", "curve"),
    [
        ("chain", (0, 1, 2), [100, 300, 250]),
        ("diamond", (0, 1, 2, 3), [10, 110, 140, 135]),
        ("diamond", (0, 2, 1, 3), [10, 40, 140, 135]),
        ("in_place", (0, 1, 2), [80, 64, 64]),
        ("training_step", (0, 1, 2, 3, 4), [100, 300, 304, 344, 174]),
        ("wide", (0, 1, 2, 3, 4), [100, 200, 201, 102, 3]),
        ("wide", (0, 2, 1, 3, 4), [100, 101, 101, 102, 3]),
    ],
)
def test_live_curve_by_hand(name: str, order: tuple[int, ...], curve: list[int]) -> None:
    problem = graph(name)
    assert live_curve(problem, order, find_reuse(problem, order)) == curve


def test_without_reuse_both_count_where_one_becomes_the_other() -> None:
    assert live_curve(graph("in_place"), (0, 1, 2), {}) == [80, 128, 128]


def test_what_is_written_over_a_buffer_that_does_not_count_counts_by_itself() -> None:
    problem = graph("in_place")
    reuse = find_reuse(problem, (0, 1, 2))
    assert reuse == {2: 1, 3: 2}
    assert live_curve(problem, (0, 1, 2), reuse, without={1}) == [16, 64, 64]
    assert live_curve(problem, (0, 1, 2), reuse, without={2}) == [80, 64, 64]


def test_lifetimes_by_hand() -> None:
    step = graph("training_step")
    lives = dict(zip([b.name for b in step.buffers], lifetimes(step, range(5)), strict=True))
    assert lives == {
        "x": (0, 5),
        "w1": (0, 5),
        "w2": (0, 5),
        "hx": (0, 4),
        "h": (1, 4),
        "loss": (2, 5),
        "g2": (3, 5),
        "gx": (3, 5),
        "g1": (4, 5),
    }


def test_a_chain_written_over_itself_is_one_slot() -> None:
    problem = graph("in_place")
    (slot,) = slots(problem, (0, 1, 2), find_reuse(problem, (0, 1, 2)))
    assert slot.buffers == (1, 2, 3)
    assert (slot.lower, slot.upper, slot.size, slot.home) == (0, 3, 64, Home.ARENA)


def test_a_chain_that_ends_in_the_users_hands_is_outside_the_arena() -> None:
    buffers = (Buffer("a", 64), Buffer("out", 64, Kind.OUTPUT))
    ops = (Op("make", creates=(0,)), Op("relu", reads=(0,), creates=(1,), over=((1, 0),)))
    (slot,) = slots(Problem("p", buffers, ops), (0, 1), {1: 0})
    assert slot.home is Home.EXTERNAL


@pytest.mark.parametrize(
    ("made", "dying", "allowed"),
    [
        (Buffer("m", 64), Buffer("d", 64), True),
        (Buffer("m", 64, align=16), Buffer("d", 64), True),
        (Buffer("m", 64), Buffer("d", 64, home=Home.EXTERNAL), True),
        (Buffer("m", 64), Buffer("d", 64, align=16), False),
        (Buffer("m", 63), Buffer("d", 64), False),
        (Buffer("m", 64), Buffer("d", 64, Kind.OUTPUT), False),
        (Buffer("m", 64), Buffer("d", 64, home=Home.USER), False),
    ],
)
def test_what_may_be_written_over_what(made: Buffer, dying: Buffer, allowed: bool) -> None:
    make = Op("make", creates=() if dying.home is Home.USER else (1,))
    relu = Op("relu", reads=(1,), creates=(0,), over=((0, 1),))
    assert can_take(Problem("p", (made, dying), (make, relu)), 0, 1) is allowed


@given(st.data())
def test_live_curve_counts_whoever_is_alive(data: st.DataObject) -> None:
    problem = data.draw(problems())
    order = data.draw(orders(problem))
    plain = [
        sum(problem.buffers[b].size for b in alive(problem, order, t)) + problem.ops[i].scratch
        for t, i in enumerate(order)
    ]
    assert live_curve(problem, order, {}) == plain

    reuse = find_reuse(problem, order)
    shared = [
        sum(problem.buffers[b].size for b in problem.ops[i].creates if b in reuse) for i in order
    ]
    with_reuse = live_curve(problem, order, reuse)
    assert with_reuse == [a - b for a, b in zip(plain, shared, strict=True)]


@given(st.data())
def test_every_buffer_is_in_one_slot(data: st.DataObject) -> None:
    problem = data.draw(problems())
    order = data.draw(orders(problem))
    reuse = find_reuse(problem, order)
    found = slots(problem, order, reuse)
    members = [b for slot in found for b in slot.buffers]
    assert sorted(members) == [b for b, op in enumerate(problem.maker) if op is not None]
    assert len(found) == len(members) - len(reuse)
    for slot in found:
        assert {problem.buffers[b].size for b in slot.buffers} == {slot.size}
        assert all(slot.align % problem.buffers[b].align == 0 for b in slot.buffers)
