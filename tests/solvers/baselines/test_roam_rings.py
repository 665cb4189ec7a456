"""Key points and segments, against their definitions."""

from __future__ import annotations

import networkx
from hypothesis import given

from roam.bench.synthetic import training_graph
from roam.core.lifetime import live_curve
from roam.core.problem import OpId, Problem
from roam.solvers.baselines import roam_rings
from roam.solvers.baselines.roam_rings import NODES, _pieces, key_points, segments
from tests.core.strategies import problems


def comparable_with_all(problem: Problem, ops: list[OpId]) -> list[OpId]:
    graph = networkx.DiGraph()
    graph.add_nodes_from(ops)
    graph.add_edges_from((p, i) for i in ops for p in problem.predecessors[i] if p in graph)
    return [
        i
        for i in ops
        if len(networkx.ancestors(graph, i)) + len(networkx.descendants(graph, i)) == len(ops) - 1
    ]


@given(problem=problems(max_ops=9))
def test_key_points_are_comparable_with_every_other_op(problem: Problem) -> None:
    for ops in problem.phases:
        assert key_points(problem, ops) == comparable_with_all(problem, ops)
        assert key_points(problem, ops[1:]) == comparable_with_all(problem, ops[1:])


@given(problem=problems(max_ops=9))
def test_segments_in_turn_are_a_valid_order(problem: Problem) -> None:
    for phase, ops in enumerate(problem.phases):
        order = [i for part in segments(problem, phase) for i in part]
        place = {i: t for t, i in enumerate(order)}
        assert sorted(order) == ops
        assert all(place[p] < place[i] for i in ops for p in problem.predecessors[i] if p in place)


def test_folds_do_not_destroy_the_key_points() -> None:
    problem = training_graph(300)
    backward = problem.phases[1]
    kinds = {problem.ops[i].name.split("_")[0] for part in segments(problem, 1) for i in part[1:]}
    assert len(key_points(problem, backward)) < 3
    assert len(segments(problem, 1)) > 20
    assert "fold" in kinds  # they run in the segments, not after them


def test_segments_solved_are_better_than_program_order() -> None:
    problem = training_graph(200)
    forward = problem.phases[0]
    order = [*forward, *roam_rings(problem, 1, 5.0)]
    program = max(live_curve(problem, range(len(problem.ops)), {}))
    assert max(live_curve(problem, order, {})) < program / 2


def test_large_segments_are_cut() -> None:
    pieces = _pieces(list(range(130)))
    assert [len(p) for p in pieces] == [43, 43, 44]
    assert [i for p in pieces for i in p] == list(range(130))
    assert [len(p) for p in _pieces(list(range(NODES)))] == [NODES]
