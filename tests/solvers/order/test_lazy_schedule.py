"""Greedy orders within a limit in bytes. `test_greedy.py` compares the rule with the others."""

from __future__ import annotations

from roam.core.problem import Problem
from roam.core.text import parse_problem
from roam.solvers.order.greedy import least_peak_first
from roam.solvers.order.lazy_schedule import lazy, schedule

# `spike` frees 30 bytes, and takes 40 while it runs; `slim` frees the 30 bytes of c without that
SPIKE = """
problem spike
buffer a size=50
buffer b size=20
buffer c size=30
buffer d size=1
op make creates=a,c
op spike reads=a creates=b scratch=20
op slim reads=c creates=d
"""


def names(problem: Problem, order: list[int]) -> list[str]:
    return [problem.ops[i].name for i in order]


def test_an_op_above_the_limit_waits() -> None:
    problem = parse_problem(SPIKE)
    assert names(problem, least_peak_first(problem, 0)) == ["make", "spike", "slim"]
    assert schedule(problem, 0) == ([0, 1, 2], 120)
    assert schedule(problem, 0, 119) == ([0, 2, 1], 90)
    assert schedule(problem, 0, 89) is None
    assert lazy(problem, 0) == [0, 2, 1]
