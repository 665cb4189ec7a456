"""Local search: what it measures, what it may change, and what it finds."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from roam.bench.layered import layered_graph
from roam.core.lifetime import find_reuse, live_curve, live_peak
from roam.core.problem import Buffer, Home, Kind, Op, OpId, Problem
from roam.solvers.answer import Outcome
from roam.solvers.jit import COMPILED
from roam.solvers.order import annealing, handing_over, moves, present_order
from roam.solvers.order import tables as tables_module
from roam.solvers.order.greedy import CANDIDATES
from roam.solvers.order.local_search import Effort, local_search
from roam.solvers.order.tables import measure, measured, tables
from roam.solvers.work import Work
from tests.core.strategies import all_orders, dense_problems, problems

SHORT = Effort(work_an_op=300, in_vain=4, kicks=1)


def whole(problem: Problem, effort: Effort = SHORT, bound: int = 0) -> list[OpId]:
    return [
        i
        for phase, ops in enumerate(problem.phases)
        for i in local_search(problem, phase, list(ops), bound, effort).found
    ]


def shuffled(problem: Problem, phase: int, seed: int) -> list[OpId]:
    """The ops of a phase in a random order that respects their precedences."""
    draw = random.Random(seed)
    left, done, order = list(problem.phases[phase]), set[OpId](), list[OpId]()
    inside = set(left)
    while left:
        ready = [i for i in left if inside.intersection(problem.predecessors[i]) <= done]
        order.append(draw.choice(ready))
        done.add(order[-1])
        left.remove(order[-1])
    return order


@given(problems(max_ops=9), st.integers(0, 99))
def test_the_live_bytes_are_those_of_the_live_curve(problem: Problem, seed: int) -> None:
    orders = [shuffled(problem, phase, seed) for phase in range(len(problem.phases))]
    whole = [i for order in orders for i in order]
    expected = live_curve(problem, whole, find_reuse(problem, whole))
    found: list[int] = []
    for phase, ops in enumerate(problem.phases):
        place = {i: k for k, i in enumerate(ops)}
        order = np.array([place[i] for i in orders[phase]], np.int64)
        time = np.argsort(order)
        during, after = np.zeros(len(ops), np.int64), np.zeros(len(ops), np.int64)
        measure(tables(problem, phase), order, time, 0, len(ops), during, after)
        found += during.tolist()
    assert found == expected


@given(problems(max_ops=9), st.integers(0, 99))
def test_an_annealed_order_has_the_peak_that_its_moves_have_measured(
    problem: Problem, seed: int
) -> None:
    for phase, ops in enumerate(problem.phases):
        place = {i: k for k, i in enumerate(ops)}
        order = np.array([place[i] for i in shuffled(problem, phase, seed)], np.int64)
        arrays = tables(problem, phase)
        peak, found, _ = annealing.anneal(arrays, order, 0, 20_000, 50.0, 50.0, 1 + seed)
        assert peak == measured(arrays, found)[1].max()


@given(problems(max_ops=9))
def test_every_op_once_after_those_it_waits_for(problem: Problem) -> None:
    order = whole(problem)
    place = {i: t for t, i in enumerate(order)}
    assert sorted(order) == list(range(len(problem.ops)))
    assert all(place[p] < place[i] for i in order for p in problem.predecessors[i])


@given(problems(max_ops=9))
def test_the_peak_never_rises_and_the_same_problem_gets_the_same_order(problem: Problem) -> None:
    order = whole(problem)
    assert live_peak(problem, order) <= live_peak(problem, range(len(problem.ops)))
    assert order == whole(Problem("again", problem.buffers, problem.ops))


def nothing_is_read() -> Problem:
    """Its only moment: a result that nobody reads is made before the gradient that is kept."""
    buffers = (Buffer("gradient", 1, Kind.GRADIENT, Home.EXTERNAL), Buffer("unread", 1))
    return Problem("unread", buffers, (Op("kept", creates=(0,)), Op("idle", creates=(1,))))


@example(nothing_is_read())  # a phase in which no buffer is used up was not searched at all
@given(dense_problems(max_ops=7))
def test_small_steps_come_out_best(problem: Problem) -> None:
    best = min(live_peak(problem, order) for order in all_orders(problem))
    assert live_peak(problem, whole(problem, Effort(2_000, 8, 4))) == best


def held_back() -> Problem:
    """What the greedy rules get wrong: work that costs something now and saves more later.

    big (50) ── shrink ── small (1)      `shrink` needs 20 of scratch and then frees 49;
    tiny ── work (60) ── end             `work` makes 60: before `shrink`, 111 are alive
    """
    buffers = (Buffer("big", 50), Buffer("small", 1), Buffer("tiny", 1), Buffer("sixty", 60))
    ops = (
        Op("start", creates=(0, 2)),
        Op("work", reads=(2,), creates=(3,)),
        Op("loose", reads=(3,)),
        Op("shrink", reads=(0,), creates=(1,), scratch=20),
        Op("end", reads=(1,)),
    )
    return Problem("held back", buffers, ops)


def test_it_finds_what_program_order_does_not() -> None:
    problem = held_back()
    assert live_peak(problem, CANDIDATES["program"](problem, 0)) == 111
    assert live_peak(problem, whole(problem)) == 72


def test_at_the_bound_or_without_work_nothing_is_searched() -> None:
    problem = held_back()
    best = whole(problem)
    met = local_search(problem, 0, best, bound=72)
    assert (met.found, met.status, met.work) == (best, Outcome.OPTIMAL, 1)  # measured
    for work in (Work(limit=0), Work(deadline=0.0)):
        ended = local_search(problem, 0, list(range(5)), work=work)
        assert (ended.found, ended.value) == (list(range(5)), 111)
        assert (ended.status, ended.work) == (Outcome.FEASIBLE, 1)


def test_a_wide_graph_gets_lower_than_any_greedy_rule_brings_it() -> None:
    """Of 100 ops in 20 levels; 0.538 is the proven optimum (`roam bench order --wide`)."""
    problem = layered_graph(100, width=0.27, seed=0)
    given = live_peak(problem, range(len(problem.ops)))
    greedy = min(live_peak(problem, rule(problem, 0)) for rule in CANDIDATES.values())
    found = live_peak(problem, whole(problem, Effort(2_000, 4, 2)))
    assert found < greedy < given
    assert round(found / given, 3) == 0.538


@pytest.mark.skipif(not COMPILED, reason="numba is not installed: there is one way to run it")
def test_compiled_and_interpreted_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = layered_graph(20, width=0.27, seed=1)
    arrays, order = tables(problem, 0), np.arange(len(problem.ops))
    compiled = annealing.anneal(arrays, order.copy(), 0, 20_000, 500.0, 20.0, 7)
    for module in (annealing, handing_over, moves, present_order, tables_module):
        for name, function in list(vars(module).items()):
            if hasattr(function, "py_func"):
                monkeypatch.setattr(module, name, function.py_func)
    peak, found, work = annealing.anneal(arrays, order.copy(), 0, 20_000, 500.0, 20.0, 7)
    assert (peak, found.tolist(), work) == (compiled[0], compiled[1].tolist(), compiled[2])
