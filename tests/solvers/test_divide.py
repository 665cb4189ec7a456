"""Dividing a phase at its worst op's cheapest moment."""

from __future__ import annotations

import pytest
from hypothesis import given

from roam.core.lifetime import live_peak
from roam.core.problem import Buffer, Kind, Op, Problem
from roam.solvers.divide import divide
from roam.solvers.order import CANDIDATES
from tests.core.strategies import problems


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
    assert live_peak(problem, CANDIDATES["program"](problem, 0)) == 111
    assert live_peak(problem, whole(problem)) == 72


@given(problems(max_ops=9))
def test_same_problem_same_order(problem: Problem) -> None:
    assert whole(problem) == whole(Problem(problem.name, problem.buffers, problem.ops))


def test_a_cheaper_moment_beats_every_greedy_rule() -> None:
    """The rules go by what an op leaves behind, which is the same here; its scratch is not."""
    buffers = (Buffer("t", 64), *(Buffer(f"g{i}", 64, Kind.GRADIENT) for i in range(2)))
    ops = (Op("plain", creates=(0, 1)), Op("hungry", creates=(2,), scratch=90))
    problem = Problem("two", buffers, ops)
    assert min(live_peak(problem, solve(problem, 0)) for solve in CANDIDATES.values()) == 218
    assert live_peak(problem, whole(problem)) == 192


def test_the_next_best_moment_is_tried_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scratch fits before either gradient is made, which the first division cannot see."""
    buffers = (Buffer("t", 64), *(Buffer(f"g{i}", 64, Kind.GRADIENT) for i in range(2)))
    ops = (
        Op("both", creates=(0, 1)),
        Op("one", creates=(2,)),
        *(Op(f"idle{i}") for i in range(3)),
        Op("hungry", scratch=90),
    )
    problem = Problem("six", buffers, ops)
    assert live_peak(problem, whole(problem)) == 128
    monkeypatch.setattr("roam.solvers.divide.TRIES", 1)
    assert live_peak(problem, whole(problem)) == 154
