"""A segment as a Problem of its own, against the step that it is cut out of."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from roam.core.bounds import must_live_bound
from roam.core.lifetime import find_reuse, live_curve
from roam.core.problem import Buffer, Op, OpId, Problem
from roam.solvers.answer import Outcome
from roam.solvers.bound.min_cut import cut_bound
from roam.solvers.order.leaf import INSIDE, Leaf, cut_out
from roam.solvers.order.local_search import Effort, local_search
from roam.solvers.order.valleys import keeps_within
from tests.core.strategies import dense_problems, orders, problems
from tests.solvers.order.test_valleys import layers, least, peak_of

some_problems = problems(max_ops=8) | dense_problems()


@st.composite
def cut_steps(draw: st.DrawFn) -> tuple[Problem, list[OpId], int, list[int]]:
    """A problem, an order, a phase, and times at which the order of the phase is cut."""
    problem = draw(some_problems)
    order = list(draw(orders(problem)))
    phase = draw(st.integers(0, len(problem.phases) - 1))
    n = len(problem.phases[phase])
    cuts = draw(st.lists(st.integers(0, n), max_size=3, unique=True))
    return problem, order, phase, sorted({0, *cuts, n})


def leaves_of(problem: Problem, own: list[OpId], phase: int, cuts: list[int]) -> list[Leaf]:
    return [cut_out(problem, phase, own[a:b], set(own[:a])) for a, b in pairwise(cuts)]


@given(cut_steps())
def test_every_moment_of_a_segment_is_that_of_the_step(
    given_step: tuple[Problem, list[OpId], int, list[int]],
) -> None:
    """So the peak of the joined order is the highest peak of its leaves."""
    problem, order, phase, cuts = given_step
    own = [i for i in order if problem.ops[i].phase == phase]
    curve = live_curve(problem, order, find_reuse(problem, order))
    times = problem.spans[phase]
    found: list[int] = []
    for leaf, start in zip(leaves_of(problem, own, phase, cuts), cuts, strict=False):
        inner = leaf.from_step(own[start : start + len(leaf.ops)])
        assert leaf.to_step(inner) == own[start : start + len(leaf.ops)]
        whole = [0, *inner, len(leaf.problem.ops) - 1]
        found += live_curve(leaf.problem, whole, find_reuse(leaf.problem, whole))[1:-1]
        assert leaf.peak(inner) == max(found[start:])
    assert found == curve[times.start : times.stop]


@given(some_problems, st.data())
def test_a_leaf_grants_the_reuse_that_the_step_grants(
    problem: Problem, data: st.DataObject
) -> None:
    """The whole phase as one leaf has the lowest peak that the phase has."""
    phase = data.draw(st.integers(0, len(problem.phases) - 1))
    if problem.phases[phase]:
        leaf = cut_out(problem, phase, problem.phases[phase], ())
        assert least(leaf.problem, INSIDE) == least(problem, phase)


@given(cut_steps())
def test_every_search_takes_a_leaf(
    given_step: tuple[Problem, list[OpId], int, list[int]],
) -> None:
    problem, order, phase, cuts = given_step
    own = [i for i in order if problem.ops[i].phase == phase]
    for leaf, start in zip(leaves_of(problem, own, phase, cuts), cuts, strict=False):
        inner = leaf.from_step(own[start : start + len(leaf.ops)])
        lowest = least(leaf.problem, INSIDE)
        assert peak_of(leaf.problem, inner) >= lowest
        fits = keeps_within(leaf.problem, INSIDE, lowest)
        assert fits.found is not None
        assert sorted(leaf.to_step(fits.found)) == sorted(leaf.ops)
        assert keeps_within(leaf.problem, INSIDE, lowest - 1).status is Outcome.DOES_NOT_FIT
        searched = local_search(leaf.problem, INSIDE, inner, effort=Effort(100, 1, 0))
        assert lowest <= leaf.peak(searched.found) == searched.value <= leaf.peak(inner)
        whole = [0, *inner, len(leaf.problem.ops) - 1]
        curve = live_curve(leaf.problem, whole, find_reuse(leaf.problem, whole))
        bound = cut_bound(leaf.problem, whole, curve, must_live_bound(leaf.problem)).bound
        assert bound <= max(curve)


def renamed(problem: Problem) -> Problem:
    buffers = tuple(replace(b, name=f"{b.name}'") for b in problem.buffers)
    return Problem("other", buffers, tuple(replace(op, name=f"{op.name}'") for op in problem.ops))


def test_equal_segments_have_equal_keys_whatever_is_alive_beside_them() -> None:
    problem = layers(3)
    more = len(problem.buffers)
    ops = [*problem.ops, Op("end", reads=(more,))]
    ops[0] = replace(ops[0], creates=(*ops[0].creates, more))
    saving = Problem("saving", (*problem.buffers, Buffer("saved", 1000)), tuple(ops))
    first, *others, beside = (
        cut_out(step, 0, range(1 + 5 * k, 6 + 5 * k), range(1 + 5 * k))
        for step in (problem, renamed(problem), saving)
        for k in (0, 1)  # not the last one: nobody reads what it leaves
    )
    assert {leaf.key for leaf in (*others, beside)} == {first.key}
    assert (first.constant, beside.constant) == (0, 1000)
    assert beside.peak([1, 2, 3, 4, 5]) == first.peak([1, 2, 3, 4, 5]) + 1000


@pytest.mark.parametrize(
    "change",
    [
        lambda ops, sizes: sizes.__setitem__(2, 31),
        lambda ops, sizes: ops.__setitem__(2, replace(ops[2], scratch=1)),
        lambda ops, sizes: ops.__setitem__(2, replace(ops[2], after=(1,))),
        lambda ops, sizes: ops.__setitem__(4, replace(ops[4], over=((4, 2),))),
        lambda ops, sizes: ops.__setitem__(5, replace(ops[5], reads=(*ops[5].reads, 1))),
    ],
)
def test_segments_that_differ_have_other_keys(
    change: Callable[[list[Op], list[int]], None],
) -> None:
    problem = layers(1)
    ops, sizes = list(problem.ops), [b.size for b in problem.buffers]
    sizes[4] = sizes[2]  # so that one may be written over the other
    one = with_sizes(problem, ops, sizes)
    change(ops, sizes)
    other = with_sizes(problem, ops, sizes)
    keys = [cut_out(step, 0, range(1, len(ops)), (0,)).key for step in (one, other)]
    assert keys[0] != keys[1]


def with_sizes(problem: Problem, ops: list[Op], sizes: list[int]) -> Problem:
    pairs = zip(problem.buffers, sizes, strict=True)
    return Problem("changed", tuple(replace(b, size=size) for b, size in pairs), tuple(ops))
