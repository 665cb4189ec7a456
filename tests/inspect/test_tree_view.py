"""The tree of a plan in words."""

from __future__ import annotations

import networkx as nx
import pytest
from hypothesis import given
from msgspec.structs import replace
from rich.console import Console

from roam.core.plan import Plan
from roam.core.problem import Op, Problem
from roam.inspect.tree_view import node_name, plan_tree, show_tree
from roam.planner import plan
from roam.solvers.order.tree import STEP, walk
from tests.core.strategies import edited_plans, stacked_plan
from tests.inspect.steps import chain, step
from tests.solvers.order.test_valleys import layers


def printed(problem: Problem, plan: Plan, depth: int | None = None) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(show_tree(problem, plan, depth))
    return capture.get()


@given(edited_plans())
def test_any_plan_has_a_tree(found: tuple[Problem, Plan]) -> None:
    problem, edited = found[1].to_edited(found[0])
    graph = plan_tree(problem, edited)
    assert nx.is_arborescence(graph)
    assert walk(graph) == list(edited.order)
    lines = printed(problem, edited, depth=9).splitlines()
    assert len(lines) == len(graph)


def test_what_is_printed() -> None:
    [[problem, made]] = step().planned
    assert printed(problem, made) == EXPECTED


EXPECTED = """\
step: 4 ops, 0 B → 1.00 MiB, peak 6.00 MiB, bound 6.00 MiB, by hand
├── forward: 2 ops, 0 B → 6.00 MiB, peak 6.00 MiB, bound 6.00 MiB, mirror backward
└── backward: 2 ops, 6.00 MiB → 1.00 MiB, peak 6.00 MiB, bound 6.00 MiB
"""


def test_nothing_to_run() -> None:
    empty = Problem("empty", (), ())
    assert printed(empty, plan(empty)) == "empty: 0 ops, 0 B → 0 B, peak 0 B, bound 0 B\n"


def test_the_plans_method_says_who_ordered_a_phase() -> None:
    problem = layers(3)
    found = plan(problem)
    graph = plan_tree(problem, found)
    assert {graph.nodes[node]["solver"] for node in graph} == {found.method.partition(", ")[0]}
    # as many names as phases, or nobody knows whose they are
    strange = replace(found, method="a / b, first fit")
    assert {d["solver"] for node, d in plan_tree(problem, strange).nodes(data=True) if node} == {""}


@pytest.mark.parametrize(
    ("node", "phases", "name"),
    [
        ((0,), 2, "forward"),
        ((1, 2), 2, "backward 3"),
        ((1, 2, 0), 2, "backward 3.1"),
        ((0,), 1, "phase 0"),
        ((2, 9), 3, "phase 2 10"),
    ],
)
def test_names(node: tuple[int, ...], phases: int, name: str) -> None:
    assert node_name(node, phases) == name


def test_long_levels_are_abbreviated() -> None:
    problem = layers(40)
    found = plan(problem)
    segments = len(list(plan_tree(problem, found).successors((0,))))
    lines = printed(problem, found).splitlines()
    assert f"... {segments - 18} more: --depth 2 prints all" in "\n".join(lines)
    assert len(lines) == 2 + 18 + 1
    assert len(printed(problem, found, depth=2).splitlines()) == 2 + segments
    assert len(printed(problem, found, depth=1).splitlines()) == 2


def test_mirrors_and_equal_segments_are_named() -> None:
    [[problem, made]] = chain(3).planned
    assert "mirror backward" in printed(problem, made)
    equal = layers(4)
    program = stacked_plan(equal, tuple(range(len(equal.ops))))
    assert "as phase 0 2" in printed(equal, program)


def test_the_plans_bound_is_the_steps() -> None:
    problem = layers(2)
    found = plan(problem)
    assert found.lower_bound == 35
    assert plan_tree(problem, found, 0).nodes[STEP]["bound"] == 35
    ops = (*problem.ops, Op("after", after=(len(problem.ops) - 1,)))
    longer = Problem("longer", problem.buffers, ops)
    assert plan_tree(longer, plan(longer)).nodes[STEP]["bound"] == 35
