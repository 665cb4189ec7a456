"""The baselines give valid orders, and the ones that their rules say."""

from __future__ import annotations

import pytest
from hypothesis import given

from roam.core.lifetime import live_curve
from roam.core.problem import Buffer, Kind, Op, OpId, Problem
from roam.core.text import parse_problem
from roam.solvers.baselines import HEURISTICS, PROGRAMS
from roam.solvers.baselines.plain_annealing import plain_annealing
from tests.core.strategies import graph, problems

every_heuristic = pytest.mark.parametrize("name", HEURISTICS)


def names(problem: Problem, order: list[OpId]) -> str:
    return " ".join(problem.ops[i].name for i in order)


def is_valid(problem: Problem, phase: int, order: list[OpId]) -> bool:
    place = {i: t for t, i in enumerate(order)}
    waits = ((p, i) for i in order for p in problem.predecessors[i] if p in place)
    return sorted(order) == problem.phases[phase] and all(place[p] < place[i] for p, i in waits)


@every_heuristic
@given(problem=problems(max_ops=9))
def test_every_op_once_after_those_it_waits_for(name: str, problem: Problem) -> None:
    for phase in range(len(problem.phases)):
        order = HEURISTICS[name](problem, phase)
        assert is_valid(problem, phase, order)
        assert order == HEURISTICS[name](problem, phase)


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("of", ["chain", "diamond", "in_place", "training_step", "wide"])
def test_programs_give_valid_orders(name: str, of: str) -> None:
    problem = graph(of)
    for phase in range(len(problem.phases)):
        assert is_valid(problem, phase, PROGRAMS[name](problem, phase, 1.0))


TWO_SIDES = """
problem two_sides
buffer x size=10 kind=input home=user
buffer a size=100
buffer b size=30
buffer a2 size=1
buffer b2 size=1
buffer out size=1 kind=output
op make_a reads=x creates=a
op make_b reads=x creates=b
op use_a reads=a creates=a2
op use_b reads=b creates=b2
op join reads=a2,b2 creates=out
"""


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("program", "make_a make_b use_a use_b join"),
        # what adds least: 30, then 1 - 30, then 100, 1 - 100, 1 - 2
        ("lescea", "make_b use_b make_a use_a join"),
        # nothing stays below the peak so far, so the least that is made: 30; then 1 of b, ...
        ("lpmf", "make_b use_b make_a use_a join"),
        # what waits for the earliest runs first: both sources, then in the order of those
        ("bfs", "make_a make_b use_a use_b join"),
        # join touches 3 bytes, the least; before it use_b (31 bytes) and use_a (101)
        ("dfs", "make_b use_b make_a use_a join"),
    ],
)
def test_the_rules(name: str, order: str) -> None:
    problem = parse_problem(TWO_SIDES)
    assert names(problem, HEURISTICS[name](problem, 0)) == order


@pytest.mark.parametrize(
    ("out", "lpmf"),
    [
        # begin sets the peak, 15: both others would raise it, and slow makes less
        (1, "begin slow quick end"),
        # there is room below the 100 that the user gets: quick leaves less
        (100, "begin quick slow end"),
    ],
)
def test_lpmf_minds_the_peak_so_far(out: int, lpmf: str) -> None:
    problem = parse_problem(
        f"""
problem peaks
buffer begun size=15
buffer signal size=0
buffer slow size=10
buffer quick size=20
buffer out size={out} kind=output
op begin creates=begun,signal
op slow reads=signal creates=slow
op quick reads=begun creates=quick
op end reads=slow,quick creates=out
"""
    )
    assert names(problem, HEURISTICS["lpmf"](problem, 0)) == lpmf
    assert names(problem, HEURISTICS["lescea"](problem, 0)) == "begin quick slow end"


def test_bfs_goes_by_when_the_predecessors_ran() -> None:
    problem = parse_problem(
        """
problem levels
buffer a size=1
buffer b size=1
buffer c size=1
buffer d size=1
buffer out size=1 kind=output
op first creates=a
op second creates=b
op late reads=b creates=c
op early reads=a creates=d
op end reads=c,d creates=out
"""
    )
    assert names(problem, HEURISTICS["bfs"](problem, 0)) == "first second early late end"


def test_lescea_does_one_side_after_the_other() -> None:
    problem = graph("wide")
    peak = max(live_curve(problem, HEURISTICS["lescea"](problem, 0), {}))
    assert peak == 102  # program order: 201


def test_annealing_takes_phases_without_ops_and_buffers_without_bytes() -> None:
    buffers = (Buffer("t", 0), Buffer("out", 5, Kind.OUTPUT))
    ops = (
        Op("a", creates=(0,)),
        Op("b", reads=(0,)),
        Op("d", scratch=10),
        Op("c", creates=(1,)),
        Op("late", phase=2),
    )
    problem = Problem("p", buffers, ops)
    assert plain_annealing(problem, 1, 0.05) == []
    assert sorted(plain_annealing(problem, 0, 0.05)) == [0, 1, 2, 3]
