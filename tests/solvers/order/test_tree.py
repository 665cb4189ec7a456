"""The tree of segments of an order: what it is made of, and that its leaves are the order."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roam.core.bounds import must_live
from roam.core.lifetime import find_reuse, live_curve, live_peak
from roam.core.problem import Buffer, Kind, Op, Problem
from roam.solvers.order.best_order import best_order
from roam.solvers.order.leaf import INSIDE, cut_out
from roam.solvers.order.leaf_stages import Searches
from roam.solvers.order.tree import STEP, Node, key_times, leaves, tree, walk
from roam.solvers.work import Work
from tests.core.strategies import dense_problems, orders, problems
from tests.solvers.order.test_valleys import layers, least


@given(problems(max_ops=8) | dense_problems(), st.data())
def test_a_tree_is_true_of_its_order(problem: Problem, data: st.DataObject) -> None:
    order = data.draw(orders(problem))
    graph = tree(problem, order)
    assert nx.is_arborescence(graph)
    assert walk(graph) == list(order)
    curve = live_curve(problem, order, find_reuse(problem, order))
    for node, found in graph.nodes(data=True):
        times = range(found["start"], found["start"] + len(found["ops"]))
        assert found["ops"] == order[times.start : times.stop]
        assert found["peak"] == max((curve[t] for t in times), default=0)
        parts = [graph.nodes[part] for part in sorted(graph.successors(node))]
        if parts:
            assert sum((part["ops"] for part in parts), ()) == found["ops"]
            assert all(a["exit"] == b["entry"] for a, b in pairwise(parts))
        if len(node) > 1:
            own = [i for i in order[: times.start] if problem.ops[i].phase == node[0]]
            leaf = cut_out(problem, node[0], found["ops"], own)
            assert found["bound"] <= max(least(leaf.problem, INSIDE), found["entry"], found["exit"])
    assert graph.nodes[STEP]["bound"] <= graph.nodes[STEP]["peak"] == live_peak(problem, order)


def test_key_times() -> None:
    """Falling and rising minima part the segment; those under a higher one are within it."""
    after = [9, 12, 6, 9, 7, 8, 2, 6, 5, 9, 8, 9, 4, 8]
    #               x     .     x     .     .     x        times 2, 4, 6, 8, 10, 12
    assert key_times(after, range(13)) == [2, 6, 12]
    assert key_times(after, range(2, 6)) == [4]
    assert key_times(after, range(6, 12)) == [8, 10]
    assert key_times([3, 5, 3, 5, 3], range(4)) == [2]
    assert key_times([1, 4, 2, 4, 2, 4, 2, 5], range(7)) == [2, 4, 6]
    assert key_times([], range(0)) == []


def mirrored(n: int) -> Problem:
    """A forward of n layers that save two tensors each, and a backward in the opposite order."""
    buffers = [Buffer("x", 5)]
    ops = [Op("start", creates=(0,))]
    saved: list[tuple[int, int]] = []
    x = 0
    for k in range(n):
        wide, kept, out = range(len(buffers), len(buffers) + 3)
        buffers += [Buffer(f"wide{k}", 50), Buffer(f"kept{k}", 7, Kind.SAVED), Buffer(f"x{k}", 5)]
        ops.append(Op(f"grow{k}", (x,), (wide,)))
        ops.append(Op(f"shrink{k}", (wide, x), (kept, out)))
        saved.append((kept, out))
        x = out
    for k in reversed(range(n)):
        wide, dx = range(len(buffers), len(buffers) + 2)
        buffers += [Buffer(f"dwide{k}", 40), Buffer(f"dx{k}", 5)]
        ops.append(Op(f"dgrow{k}", (x, *saved[k]), (wide,), phase=1))
        ops.append(Op(f"dshrink{k}", (wide, x), (dx,), phase=1))
        x = dx
    return Problem("mirrored", tuple(buffers), tuple(ops))


def segments_of(graph: nx.DiGraph, phase: int) -> list[Node]:
    return sorted(graph.successors((phase,)))


def test_forward_segments_carry_their_mirrors() -> None:
    problem = mirrored(4)
    graph = tree(problem, range(len(problem.ops)))
    forward, backward = (segments_of(graph, phase) for phase in (0, 1))
    assert len(forward) == len(backward) == 4
    assert [graph.nodes[node]["mirror"] for node in forward] == backward[::-1]
    assert all(graph.nodes[node]["mirror"] is None for node in (*backward, (0,), STEP))


def test_equal_segments_are_named_after_the_first() -> None:
    problem = layers(5)
    graph = tree(problem, range(len(problem.ops)))
    like = [graph.nodes[node]["like"] for node in segments_of(graph, 0)]
    assert like == [None, None, (0, 1), (0, 1), None]
    assert {graph.nodes[node]["bound"] for node in segments_of(graph, 0)[:4]} == {35}


def test_a_segment_has_segments_within() -> None:
    """Each layer's branches are two hills: the minimum between is above those between layers."""
    problem = layers(3)
    order = [0]
    for k in range(3):
        order += [5 * k + d for d in (1, 3, 2, 4, 5)]
    graph = tree(problem, order)
    assert [len(graph.nodes[node]["ops"]) for node in segments_of(graph, 0)] == [3, 2, 5, 3, 3]
    within = sorted(graph.successors((0, 2)))
    assert [len(graph.nodes[node]["ops"]) for node in within] == [3, 2]
    assert len(graph) == 1 + 1 + 5 + 2
    shallow = tree(problem, order, depth=1)
    assert sorted(shallow) == [(), (0,)]


def test_the_planners_segments_come_first() -> None:
    problem = layers(4)
    answer = best_order(problem, searches=Searches())
    graph = tree(problem, answer.found.order, answer.found.segments, bound=answer.bound)
    assert walk(graph) == answer.found.order
    assert graph.nodes[STEP]["bound"] == graph.nodes[STEP]["peak"] == answer.value == 35
    assert {graph.nodes[node]["solver"] for node in leaves(graph)} == {answer.found.method}


def test_without_work_bounds_are_what_must_be_alive() -> None:
    problem = layers(4)
    searched, unsearched = (
        tree(problem, range(len(problem.ops)), work=work) for work in (None, Work(limit=0))
    )
    assert searched.nodes[STEP]["bound"] == 35
    assert unsearched.nodes[STEP]["bound"] == must_live(problem) == 34


@pytest.mark.parametrize("phase", [0, 2])
def test_empty_phases_and_steps(phase: int) -> None:
    graph = tree(Problem("empty", (), ()), [])
    assert (walk(graph), list(graph)) == ([], [STEP])
    buffers, ops = (Buffer("x", 8),), (Op("only", creates=(0,), phase=phase),)
    graph = tree(Problem("late", buffers, ops), [0])
    assert walk(graph) == [0]
    assert graph.out_degree(STEP) == phase + 1
