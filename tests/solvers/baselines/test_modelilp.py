"""MODeL's program finds what trying every order finds."""

from __future__ import annotations

from hypothesis import given, settings
from msgspec.structs import replace

from roam.bench.synthetic import training_graph
from roam.core.lifetime import live_curve
from roam.core.problem import OpId, Problem
from roam.solvers.answer import Outcome
from roam.solvers.baselines import modelilp
from roam.solvers.baselines.modelilp import LARGEST, UNIT, Part, solve
from tests.core.strategies import all_orders, problems


def in_units(problem: Problem) -> Problem:
    """The same in multiples of what the program counts in, so that nothing is rounded."""
    return Problem(
        problem.name,
        tuple(replace(b, size=b.size * UNIT) for b in problem.buffers),
        tuple(replace(op, scratch=op.scratch * UNIT) for op in problem.ops),
    )


def peak(problem: Problem, order: tuple[OpId, ...]) -> int:
    return max(live_curve(problem, order, {}))


@settings(max_examples=40, deadline=None)
@given(problem=problems(max_ops=5).map(in_units))
def test_the_optimum(problem: Problem) -> None:
    order: list[OpId] = []
    for ops in problem.phases:
        found = solve(Part(problem, ops, list(order)), 10.0, workers=1)
        assert found.status is Outcome.OPTIMAL
        order += found.found
    assert peak(problem, tuple(order)) == min(peak(problem, o) for o in all_orders(problem))


def test_a_part_keeps_what_later_ops_need() -> None:
    problem = training_graph(30)
    ops = problem.phases[1]
    head = Part(problem, ops[:6], range(ops[0]))
    held = [b for b in head.buffers if head.outlives(b)]
    assert held == [
        b
        for b in head.buffers
        if max(problem.users[b], default=-1) >= ops[6] or problem.buffers[b].kept
    ]
    assert sorted(solve(head, 5.0).found) == ops[:6]


def test_windows_are_the_longest_paths() -> None:
    problem = training_graph(30)
    part = Part(problem, problem.phases[0])
    before: dict[OpId, int] = {}
    for i in part.ops:
        before[i] = max((before[p] + 1 for p in problem.predecessors[i]), default=0)
    assert part.first == before
    assert all(part.first[i] <= part.place[i] <= part.last[i] for i in part.ops)


def test_a_phase_that_is_too_large_keeps_program_order() -> None:
    problem = training_graph(1000)
    assert Part(problem, problem.phases[1]).size > LARGEST
    assert modelilp(problem, 1) == problem.phases[1]
    small = Part(problem, problem.phases[0][:10])
    assert solve(small, 0.0).found == list(small.ops)  # no time
