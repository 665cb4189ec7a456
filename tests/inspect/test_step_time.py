"""How long the ops take, in the words of the report."""

from __future__ import annotations

from dataclasses import replace as changed

import pytest
from msgspec.structs import replace

from roam.core.problem import Problem
from roam.inspect.step_plan import StepPlan
from roam.inspect.step_time import StepTime, show_seconds
from tests.inspect.steps import step

COSTS = {"embed": 0.5, "mm": 0.75, "mul": 0.1716, "mm_1": 0.0}


def priced(*estimated: str) -> StepPlan:
    """The step made by hand, with costs."""
    (graph,) = step().graphs
    assert graph.problem is not None
    ops = tuple(replace(op, cost=COSTS[op.name]) for op in graph.problem.ops)
    problem = Problem(graph.problem.name, graph.problem.buffers, ops)
    return StepPlan((changed(graph, problem=problem, estimated_costs=estimated),))


@pytest.mark.parametrize(
    ("estimated", "how"),
    [
        ((), "measured"),
        (("mul",), "measured; 12 % estimated"),
        (("embed", "mm"), "measured; 88 % estimated"),
        (("embed", "mm", "mul"), "estimated"),
    ],
)
def test_the_line(estimated: tuple[str, ...], how: str) -> None:
    line = f"  the step's ops take 1.42 s ({how})"
    found = priced(*estimated)
    assert str(found).splitlines()[-1] == line
    assert str(found.explain()).splitlines()[2] == line


def test_a_little_is_never_none() -> None:
    assert str(StepTime(1.0, 1e-9)) == "the step's ops take 1.00 s (measured; 1 % estimated)"
    assert str(StepTime(1.0, 1 - 1e-9)) == "the step's ops take 1.00 s (measured; 99 % estimated)"


def test_the_graphs_of_a_step_add_up() -> None:
    one, two = priced("mul"), priced()
    together = StepPlan((*one.graphs, *two.graphs)).time
    assert together == StepTime(pytest.approx(2 * 1.4216), pytest.approx(0.1716))


def test_where_nobody_asked_nothing_is_said() -> None:
    assert step().time is None
    assert "ops take" not in str(step()) + str(step().explain())


def test_costs_are_in_the_file_and_not_in_the_fingerprint() -> None:
    found = priced("mul")
    read = StepPlan.from_json(found.to_json())
    assert read == found
    assert str(read.time) == str(found.time)
    ((before, _),), ((after, _),) = step().planned, found.planned
    assert before.fingerprint == after.fingerprint
    assert before != after


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (1.4321, "1.43 s"),
        (83.26, "83.3 s"),
        (7200.0, "7200 s"),
        (0.0123, "12.3 ms"),
        (2e-7, "0.20 µs"),
    ],
)
def test_seconds(seconds: float, shown: str) -> None:
    assert show_seconds(seconds) == shown
