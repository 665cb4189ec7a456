"""Steps of several graphs, by hand: sizes in units of one."""

from __future__ import annotations

import pytest

from roam.core.budget import Beside
from roam.core.plan import Plan, measure
from roam.core.problem import Buffer, Home, Kind, Op, Problem
from roam.inspect.nesting import beside, held_at_worst, persistent_buffers
from roam.inspect.record import GraphRecord, HandedOver


def graph(
    name: str,
    *,
    saved: int = 0,
    gradient: int = 0,
    output: int = 0,
    inputs: tuple[Buffer, ...] = (),
    handed: tuple[HandedOver, ...] = (),
) -> GraphRecord:
    """A forward and a backward of an op each, where they have something to do.

    time        0    1
    saved       [---------)
    output      [---------)---    kept
    gradient         [----)---    kept
    """
    buffers = (
        Buffer("saved", saved, Kind.SAVED, align=1),
        Buffer("output", output, Kind.OUTPUT, align=1),
        Buffer("gradient", gradient, Kind.GRADIENT, align=1),
        *inputs,
    )
    forward = Op(f"{name}_forward", creates=(0, 1))
    backward = Op(f"{name}_backward", reads=(0,), creates=(2,), phase=1)
    problem = (
        Problem(name, buffers, (forward, backward))
        if gradient
        else Problem(name, (*buffers[:2], *inputs), (forward,))
    )
    order = tuple(range(len(problem.ops)))
    peak, live = measure(problem, order, {}, {}, ())
    plan = Plan(name, problem.fingerprint, order, {}, {}, (), peak, live, live, 0)
    return GraphRecord(name, problem, plan, handed=handed)


def worst(*graphs: GraphRecord) -> tuple[int, list[str]]:
    found = held_at_worst(graphs)
    return sum(held.size for held in found), [held.op.partition("_")[0] for held in found]


def test_one_graph_is_its_own_worst() -> None:
    alone = graph("a", saved=2, gradient=3, output=1)
    assert alone.plan is not None
    assert worst(alone) == (alone.plan.peak, ["a"] * 3)


def test_what_the_first_has_saved_is_there_while_the_next_one_runs() -> None:
    # a: 5 saved, then 5 + 1; b beside a's 5: 4 + 2
    pair = graph("a", saved=5, gradient=1), graph("b", saved=4, gradient=2)
    assert worst(*pair) == (5 + 4 + 2, ["b", "b", "a"])


def test_a_backward_runs_beside_the_gradients_of_the_later_ones() -> None:
    # b: 1 + (1 + 4); a: (1 + 4) + 4 that b leaves
    pair = graph("a", saved=1, gradient=4), graph("b", saved=1, gradient=4)
    assert worst(*pair) == (1 + 4 + 4, ["a", "a", "b"])
    assert worst(*pair, graph("c", saved=1, gradient=4))[0] == 1 + 4 + 4 + 4


@pytest.mark.parametrize("n", [1, 2, 3])
def test_without_a_backward_only_what_is_returned_stays(n: int) -> None:
    evaluated = [graph(str(i), saved=7, output=1) for i in range(n)]
    assert worst(*evaluated)[0] == (n - 1) + 7 + 1


def test_a_graph_of_no_ops() -> None:
    empty = Problem("empty", (), ())
    plan = Plan("empty", empty.fingerprint, (), {}, {}, (), 0, 0, 0, 0)
    nothing = GraphRecord("empty", empty, plan)
    assert worst(nothing) == (0, [])
    assert worst() == (0, [])
    assert worst(nothing, graph("a", saved=2, gradient=3), nothing)[0] == 5


def test_a_gradient_that_goes_to_an_earlier_graph_counts_there() -> None:
    """It counted twice: as a result of the later graph, and as an input of that backward."""
    first, last = graph("a", saved=1, gradient=4), graph("c", saved=1, gradient=4)

    def between(*handed: HandedOver) -> int:
        return worst(first, graph("b", saved=1, gradient=4, handed=handed), last)[0]

    assert between() == (1 + 4) + 4 + 4  # a's backward, beside what b and c leave
    assert between(HandedOver("primals_1", "a", "gradient")) == 1 + (1 + 4) + 4  # b's backward
    assert between(HandedOver("primals_1", "nobody", "gradient")) == 13


def given(name: str, size: int) -> Buffer:
    return Buffer(name, size, Kind.INPUT, home=Home.USER, align=1)


def test_what_a_graph_has_made_is_no_persistent_input_of_the_next() -> None:
    first = graph("a", output=8, inputs=(given("primals_1", 1), given("mask", 2)))
    inputs = given("primals_1", 8), given("primals_2", 4), given("mask", 2)
    handed = HandedOver("primals_1", "a")
    second = graph("b", output=1, inputs=inputs, handed=(handed,))
    found = persistent_buffers([first, second])
    assert sorted(b.size for b in found.values()) == [1, 2, 4]
    assert sum(b.size for b in persistent_buffers([second]).values()) == 8 + 4 + 2
    assert second.problem is not None
    assert beside([first], second.problem) == Beside(now=8, without=8, persistent=1)
