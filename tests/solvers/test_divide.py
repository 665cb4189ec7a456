"""Dividing a phase at its worst op's cheapest moment."""

from __future__ import annotations

from hypothesis import given

from roam.core.lifetime import find_reuse, live_curve
from roam.core.problem import Buffer, Op, Problem
from roam.solvers.divide import divide
from roam.solvers.order import CANDIDATES
from tests.core.strategies import problems


def peak(problem: Problem, order: list[int]) -> int:
    return max(live_curve(problem, order, find_reuse(problem, order)), default=0)


def whole(problem: Problem) -> list[int]:
    return [i for phase in range(len(problem.phases)) for i in divide(problem, phase)]


@given(problems(max_ops=9))
def test_every_op_once_after_those_it_waits_for(problem: Problem) -> None:
    order = whole(problem)
    place = {i: t for t, i in enumerate(order)}
    assert sorted(order) == list(range(len(problem.ops)))
    assert all(place[p] < place[i] for i in order for p in problem.predecessors[i])


@given(problems(max_ops=9))
def test_without_time_it_is_a_greedy_order(problem: Problem) -> None:
    order = [i for phase in range(len(problem.phases)) for i in divide(problem, phase, 0.0)]
    assert sorted(order) == list(range(len(problem.ops)))


def held_back() -> Problem:
    """What the greedy rules get wrong: work that costs something now and saves more later.

    big (50) ── shrink ── small (1)      `shrink` needs 20 of scratch and then frees 49;
    tiny ── work (60) ── end             `work` makes 60: before `shrink`, 111 are alive
    """
    buffers = (Buffer("big", 50), Buffer("small", 1), Buffer("tiny", 1), Buffer("sixty", 60))
    ops = (
        Op("start", creates=(0, 2)),
        Op("work", reads=(2,), creates=(3,), scratch=0),
        Op("loose", reads=(3,)),
        Op("shrink", reads=(0,), creates=(1,), scratch=20),
        Op("end", reads=(1,)),
    )
    return Problem("held back", buffers, ops)


def test_it_finds_what_program_order_does_not() -> None:
    problem = held_back()
    assert peak(problem, CANDIDATES["program"](problem, 0)) == 111
    assert peak(problem, whole(problem)) == 72


@given(problems(max_ops=9))
def test_same_problem_same_order(problem: Problem) -> None:
    assert whole(problem) == whole(Problem(problem.name, problem.buffers, problem.ops))
