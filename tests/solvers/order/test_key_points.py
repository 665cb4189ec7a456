"""Safe key points, against all orders there are."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roam.bench.layered import layered_graph
from roam.core.problem import Buffer, Kind, Op, Problem
from roam.solvers.bound.min_cut import Network
from roam.solvers.order.key_points import Cutter, curve_of, local_minima
from roam.solvers.order.leaf import INSIDE, cut_out
from roam.solvers.work import Work
from tests.core.strategies import dense_problems, orders, problems
from tests.solvers.order.test_valleys import kept, layers, least, peak_of


@st.composite
def narrow_problems(draw: st.DrawFn) -> Problem:
    """A chain of ops, with side branches that run at any time: it has many key points."""
    sizes = st.integers(1, 30)
    buffers = [Buffer("x0", draw(sizes))]
    ops = [Op("start", creates=(0,))]
    x = 0
    for k in range(draw(st.integers(2, 4))):
        branch = draw(st.sampled_from(("none", "kept", "read later")))
        buffers.append(Buffer(f"x{k + 1}", draw(sizes)))
        made = len(buffers) - 1
        if branch == "none":
            over = ((made, x),) if draw(st.booleans()) else ()
            ops.append(Op(f"op{k}", (x,), (made,), over=over, scratch=draw(st.integers(0, 9))))
        else:
            kind = Kind.GRADIENT if branch == "kept" else Kind.TEMPORARY
            buffers.append(Buffer(f"side{k}", draw(sizes), kind))
            ops.append(Op(f"side{k}", (x,), (made + 1,), scratch=draw(st.integers(0, 20))))
            ops.append(Op(f"op{k}", (x,), (made,)))
        x = made
    left = [b for b, buffer in enumerate(buffers) if buffer.name.startswith("side")]
    ops.append(Op("end", (x, *left)))
    return Problem("narrow", tuple(buffers), tuple(ops))


@given(narrow_problems() | problems(max_ops=8) | dense_problems(), st.data())
def test_the_best_leaves_make_the_best_order(problem: Problem, data: st.DataObject) -> None:
    """No order takes less than the highest of what the segments take at least, above an aim."""
    order = data.draw(orders(problem))
    for phase, ops in enumerate(problem.phases):
        if not ops:
            continue
        own = [i for i in order if problem.ops[i].phase == phase]
        lowest = least(problem, phase)
        aim = data.draw(st.sampled_from((0, lowest - 1, lowest, lowest + 5)))
        times = Cutter(problem, phase).cut(own, aim)
        leaves = [cut_out(problem, phase, own[a:b], set(own[:a])) for a, b in pairwise(times)]
        assert max(aim, *(least(leaf.problem, INSIDE) for leaf in leaves)) == max(aim, lowest)


@given(narrow_problems(), st.data())
def test_the_curve_of_an_order_grants_all_reuse(problem: Problem, data: st.DataObject) -> None:
    order = list(data.draw(orders(problem)))
    during, after = curve_of(problem, 0, order)
    assert max(during) == peak_of(problem, order)
    assert all(live <= top for live, top in zip(after, during, strict=False))
    assert after[0] == 0


@pytest.mark.parametrize(
    ("after", "minima"),
    [
        ([], []),
        ([3], []),
        ([1, 2, 3], []),
        ([3, 2, 1], []),
        ([2, 1, 2], [1]),
        ([0, 5, 2, 2, 2, 5, 1, 6], [4, 6]),
        ([0, 5, 5, 4, 5, 5], [3]),
        ([2, 2, 3, 3], []),
    ],
)
def test_a_local_minimum_has_more_on_both_sides(after: list[int], minima: list[int]) -> None:
    assert local_minima(after) == minima


def test_layers_are_cut_between_one_another() -> None:
    """Every op of a layer waits for all of the layer before: no order passes by."""
    problem = layers(4)
    assert Cutter(problem, 0).cut(problem.phases[0], 0) == [0, 5, 10, 15, 21]


def test_what_keeps_within_the_aim_is_not_cut() -> None:
    problem = layers(4)
    program = problem.phases[0]
    assert Cutter(problem, 0).cut(program, 64) == [0, 21]
    best = [0, 1, 3, 2, 4, 5, 6, 8, 7, 9, 10, *program[11:]]  # two layers at 35
    assert Cutter(problem, 0).cut(best, 35) == [0, 10, 15, 21]


def test_an_op_that_may_run_at_any_time_makes_a_key_point_unsafe() -> None:
    """Kept gradients pile up: it may pay to make a later one earlier, until an order shows not."""
    problem = kept(6)
    program = problem.phases[1]
    assert Cutter(problem, 1).cut(program, 0) == [0, 6]


@given(narrow_problems(), st.data())
def test_no_set_between_two_peaks_has_fewer_bytes_than_the_minimum(
    problem: Problem, data: st.DataObject
) -> None:
    order = list(data.draw(orders(problem)))
    after = curve_of(problem, 0, order).after
    minima = local_minima(after)
    network = Network(problem, 0, 10**6)
    ends = [0, *minima, len(order)]
    peaks = [max(range(a, b + 1), key=after.__getitem__) for a, b in pairwise(ends)]
    for t, (start, end) in zip(minima, pairwise(peaks), strict=True):
        assert network.least(order[:start], order[end:]).live == after[t]


def test_without_work_nothing_is_cut() -> None:
    problem = layered_graph(40, seed=1)
    order = problem.phases[0]
    assert Cutter(problem, 0, Work(limit=0)).cut(order, 0) == [0, len(order)]
