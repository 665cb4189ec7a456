from __future__ import annotations

import pytest
from hypothesis import example, given, settings

from roam.core.bounds import Grouping, certain, must_live, must_live_bound
from roam.core.lifetime import can_take, find_reuse, live_curve, live_peak
from roam.core.problem import Buffer, Home, Kind, Op, Problem
from tests.core.strategies import alive, all_orders, graph, problems


def best_peak(problem: Problem) -> int:
    """The lowest peak of any order, by trying them all."""
    return min(live_peak(problem, order) for order in all_orders(problem))


@pytest.mark.parametrize(
    ("name", "orders", "bound", "best", "program_order"),
    [
        ("chain", 1, 300, 300, 300),
        ("diamond", 2, 135, 140, 140),
        ("in_place", 1, 80, 80, 80),
        ("training_step", 1, 344, 344, 344),
        ("wide", 6, 101, 102, 201),
    ],
)
def test_by_hand(name: str, orders: int, bound: int, best: int, program_order: int) -> None:
    problem = graph(name)
    program = range(len(problem.ops))
    assert len(list(all_orders(problem))) == orders
    assert must_live(problem) == bound
    assert best_peak(problem) == best
    assert max(live_curve(problem, program, find_reuse(problem, program))) == program_order


def test_nothing_to_run() -> None:
    assert must_live(Problem("empty", (), ())) == 0


def test_scratch_alone() -> None:
    assert must_live(Problem("p", (), (Op("a", scratch=3), Op("b", scratch=5)))) == 5


def test_what_the_user_keeps_adds_up() -> None:
    buffers = tuple(Buffer(f"g{i}", 10, Kind.GRADIENT) for i in range(4))
    ops = tuple(Op(f"op{i}", creates=(i,), after=(i - 1,) if i else ()) for i in range(4))
    assert must_live(Problem("p", buffers, ops)) == 40


def test_what_a_later_phase_reads_lives_through_the_boundary() -> None:
    """No edge leads from `aside` to `begin`: the phases alone keep the one above the other."""

    def step(phase: int) -> Problem:
        ops = (
            Op("aside", creates=(0,)),
            Op("begin", creates=(1,), phase=phase),
            Op("use", reads=(0,), phase=phase, after=(1,)),
        )
        return Problem("p", (Buffer("saved", 10), Buffer("t", 7)), ops)

    assert must_live(step(phase=1)) == 17
    assert must_live(step(phase=0)) == 10


def test_what_a_later_phase_reads_lives_to_the_end_of_the_forward() -> None:
    """No edge leads from `end` to `use`: the phases alone keep the one below the other."""

    def step(phase: int) -> Problem:
        ops = (
            Op("make", creates=(0,)),
            Op("end", creates=(1,), after=(0,)),
            Op("use", reads=(0,), phase=phase),
        )
        return Problem("p", (Buffer("saved", 10), Buffer("t", 7)), ops)

    assert must_live(step(phase=1)) == 17
    assert must_live(step(phase=0)) == 10


def test_two_may_not_share_the_place_of_one() -> None:
    buffers = tuple(Buffer(name, 8) for name in "abc")
    ops = (
        Op("make", creates=(0,)),
        Op("twins", reads=(0,), creates=(1, 2), over=((1, 0), (2, 0))),
    )
    assert must_live(Problem("p", buffers, ops)) == 16


def test_a_buffer_read_later_gives_no_place() -> None:
    buffers = tuple(Buffer(name, 8) for name in "ab")
    ops = (
        Op("make", creates=(0,)),
        Op("relu", reads=(0,), creates=(1,), over=((1, 0),)),
        Op("later", reads=(0,), after=(1,)),
    )
    assert must_live(Problem("p", buffers, ops)) == 16


@settings(max_examples=60)
@given(problems(max_ops=6))
def test_no_order_is_below_the_bound(problem: Problem) -> None:
    assert must_live(problem) <= best_peak(problem)


# No op is certain to see all that is kept, where each may run first; the end sees all of it.
KEPT = Problem(
    "p",
    (Buffer("a", 64, Kind.GRADIENT), Buffer("b", 64, Kind.GRADIENT)),
    (Op("make_a", creates=(0,)), Op("make_b", creates=(1,))),
)


@settings(max_examples=60)
@given(problems(max_ops=6))
@example(KEPT)
def test_the_bound_counts_who_is_alive_in_every_order(problem: Problem) -> None:
    always = {i: set(range(len(problem.buffers))) for i in range(len(problem.ops))}
    for order in all_orders(problem):
        for t, i in enumerate(order):
            always[i] &= alive(problem, order, t)
    at_each = [
        sum(problem.buffers[b].size for b in always[i]) + op.scratch
        for i, op in enumerate(problem.ops)
    ]
    could_share = [
        sum(
            problem.buffers[b].size
            for b in op.creates
            if any(made == b and can_take(problem, b, dying) for made, dying in op.over)
        )
        for op in problem.ops
    ]
    at_the_end = sum(b.size for b in problem.buffers if b.kept and b.home is not Home.USER)
    bound = must_live(problem)
    assert bound <= max(at_the_end, *at_each)
    assert bound >= max(a - b for a, b in zip(at_each, could_share, strict=True))


@settings(max_examples=60)
@given(problems())
def test_the_groups_change_nothing(problem: Problem) -> None:
    for grouping in (Grouping(members=1), Grouping(members=2, short=1), Grouping(short=2)):
        assert must_live_bound(problem, grouping) == must_live_bound(problem)


@given(problems())
def test_the_users_own_buffers_are_not_counted(problem: Problem) -> None:
    larger = tuple(
        Buffer(b.name, b.size + 10**6, b.kind, b.home) if b.home is Home.USER else b
        for b in problem.buffers
    )
    assert must_live(Problem("larger", larger, problem.ops)) == must_live(problem)


@given(problems(max_ops=6))
def test_what_is_certain_is_alive_in_every_order(problem: Problem) -> None:
    known = [certain(problem, i) for i in range(len(problem.ops))]
    for order in all_orders(problem):
        for t, i in enumerate(order):
            assert known[i] <= alive(problem, order, t)


@given(problems(max_ops=5))
def test_what_is_not_certain_is_away_in_some_order(problem: Problem) -> None:
    everywhere = [
        frozenset.intersection(
            *(frozenset(alive(problem, order, order.index(i))) for order in all_orders(problem))
        )
        for i in range(len(problem.ops))
    ]
    assert everywhere == [certain(problem, i) for i in range(len(problem.ops))]
