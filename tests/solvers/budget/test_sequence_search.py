"""Schedules within a budget, against all schedules of small graphs."""

from __future__ import annotations

import random
from math import inf

import pytest

from roam.bench.layered import layered_graph
from roam.core.errors import BudgetError, UnplannableError
from roam.core.lifetime import live_curve
from roam.core.node_link import NodeLinkGraph
from roam.core.problem import Buffer, Op, Problem
from roam.core.replay import replay
from roam.solvers.budget.sequence_search import schedule
from roam.solvers.work import Work
from tests.solvers.bound.test_priced_cut import cheapest, two_uses

LITTLE = 0.1  # seconds of work


def small_graph(seed: int) -> NodeLinkGraph:
    draw = random.Random(seed)
    nodes = range(draw.randint(3, 7))
    reads = {v: tuple(u for u in range(v) if draw.random() < 0.4) for v in nodes}
    sizes = {v: draw.randint(1, 8) for v in nodes}
    times = {v: float(draw.randint(0, 5)) for v in nodes}
    return NodeLinkGraph("small", tuple(nodes), sizes, times, reads)


def test_small_graphs_get_the_best_schedule_or_a_refusal_that_is_right() -> None:
    refused = copied = 0
    for seed in range(60):
        graph = small_graph(seed)
        problem = graph.problem()
        budget = replay(graph, graph.order).peak - 2 - seed % 5
        best = cheapest(problem, budget)
        try:
            found = schedule(problem, budget, Work.worth(LITTLE))
        except BudgetError as error:
            refusal = error
            assert best == inf
            assert cheapest(problem, refusal.least - 1) == inf
            refused += 1
            continue
        time = sum(graph.times.values()) + found.extra_time
        assert replay(graph, found.runs) == (found.peak, time)
        assert found.peak <= budget
        assert found.bound <= best == found.extra_time
        copied += found.extra_time > 0
    assert refused > 2
    assert copied > 3


def test_a_wide_graph_keeps_its_budget_and_gets_the_same_schedule_again() -> None:
    graph = layered_graph(60, width=0.27, seed=3)
    ops = tuple(
        Op(op.name, op.reads, op.creates, cost=1.0 + i % 7) for i, op in enumerate(graph.ops)
    )
    problem = Problem("wide", graph.buffers, ops)
    peak = max(live_curve(problem, range(len(ops)), {}))
    one, two = (schedule(problem, int(0.85 * peak), Work.worth(0.3)) for _ in range(2))
    assert one == two
    assert one.peak <= 0.85 * peak
    assert len(one.runs) >= len(ops)


def test_what_fits_costs_nothing() -> None:
    found = schedule(two_uses_with_results(), 22)
    assert (found.extra_time, found.bound, found.runs) == (0.0, 0.0, (0, 1, 2, 3, 4))


def test_an_infeasible_budget_names_the_least() -> None:
    with pytest.raises(BudgetError, match="raise the budget") as raised:
        schedule(two_uses_with_results(), 10)
    assert (raised.value.budget, raised.value.least) == (10, 12)


def test_an_op_without_a_result_is_refused() -> None:
    with pytest.raises(UnplannableError, match="end"):
        schedule(two_uses(), 21)


def two_uses_with_results() -> Problem:
    problem = two_uses()
    end = Op("end", (0, 3), (4,), cost=1.0)
    return Problem("two uses", (*problem.buffers, Buffer("out", 1)), (*problem.ops[:4], end))
