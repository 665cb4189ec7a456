"""What is said of a peak adds up, and is so."""

from __future__ import annotations

import pytest
from hypothesis import given
from msgspec.structs import replace

from roam.core.lifetime import find_reuse, live_curve
from roam.core.plan import Plan
from roam.core.problem import Buffer, Home, Kind, Op, Problem
from roam.inspect.explain import explain
from roam.planner import plan
from tests.core.strategies import all_orders, graph, plans


@given(plans(max_ops=6))
def test_the_groups_add_up_to_the_peak(both: tuple[Problem, Plan]) -> None:
    found = explain(*both)
    assert sum(g.size for g in found.groups) == found.peak == both[1].peak
    assert found.certain + found.chosen == found.peak
    assert all(g.certain <= g.size for g in found.groups)


@given(plans(max_ops=5))
def test_what_is_certain_is_held_at_that_op_in_every_order(both: tuple[Problem, Plan]) -> None:
    problem, made = both
    found = explain(problem, made)
    op = made.order[found.time]
    for order in all_orders(problem):
        curve = live_curve(problem, order, find_reuse(problem, order))
        assert curve[order.index(op)] >= found.certain - _shareable(problem, op)


def _shareable(problem: Problem, op: int) -> int:
    """Bytes of what may be written over something: here it may have its own place."""
    return sum(problem.buffers[b].size for b in {made for made, _ in problem.ops[op].over})


def test_a_training_step() -> None:
    problem = graph("training_step")
    made = plan(problem)
    found = explain(problem, made)
    text = str(found)
    assert problem.ops[made.order[found.time]].name == found.op
    assert f"at op {found.time}, {found.op}" in text
    assert f"({made.status})" in text


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Kind.GRADIENT, "roam.optim folds them"),
        (Kind.SAVED, "torch.utils.checkpoint"),
        (Kind.OUTPUT, "should not be returned"),
    ],
)
def test_advice_names_what_takes_most(kind: Kind, words: str) -> None:
    home = Home.ARENA if kind is Kind.SAVED else Home.EXTERNAL
    buffers = (Buffer("large", 1000, kind, home, where="net.3"), Buffer("small", 10))
    ops = (Op("make", creates=(0,)), Op("use", reads=(0,), creates=(1,), phase=1))
    problem = Problem("p", buffers, ops)
    advice = explain(problem, plan(problem)).advice
    assert advice[0] == "another order or layout would not lower it: this one is proven optimal"
    assert len(advice) == 2
    assert words in advice[1]


def test_a_gap_is_stated() -> None:
    problem = graph("diamond")
    made = plan(problem)
    short = replace(made, lower_bound=made.peak // 2)
    assert "another order might lower it" in explain(problem, short).advice[0]
