"""Which tensors leave, on a chain whose optimum is known, and on random ones."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roam.core.build import ProblemBuilder
from roam.core.problem import Home, Kind
from roam.solvers.offload.bound import least_live
from roam.solvers.offload.choose import choose_moves
from roam.solvers.offload.movable import Timed
from roam.solvers.offload.timeline import Link, late, live_with, peak_with, transfers

FAST = Link(write=1e6, read=1e6)


def chain(sizes: list[int], costs: list[float] | None = None) -> Timed:
    """A forward that saves a tensor an op, and a backward that reads them from the last one on.

    forward   f0 ── h0 ── f1 ── h1 ── ...          backward  ... ── b1(h1) ── b0(h0)
    """
    build = ProblemBuilder(align=1)
    x = build.add_buffer("x", 1, Kind.INPUT, Home.USER)
    costs = costs or [1.0] * (2 * len(sizes))
    saved: list[int] = []
    for i, size in enumerate(sizes):
        h = build.add_buffer(f"h{i}", size, Kind.TEMPORARY, Home.ARENA)
        build.add_op(f"f{i}", reads=saved[-1:] or [x], creates=[h], cost=costs[i])
        saved.append(h)
    t = build.add_buffer("tangent", 1, Kind.TEMPORARY)
    build.begin_phase(1, [t])
    for i in reversed(range(len(sizes))):
        g = build.add_buffer(f"g{i}", 1, Kind.TEMPORARY, Home.ARENA)
        build.add_op(f"b{i}", reads=[saved[i], t], creates=[g], cost=costs[2 * len(sizes) - 1 - i])
        t = g
    build.keep(t, Kind.GRADIENT, Home.EXTERNAL)
    problem = build.problem("chain")
    return Timed.of(problem, len(sizes))


def test_on_a_fast_link_all_but_the_ends_leave() -> None:
    """While f2 runs, h1 and h2 are there; h0 was written while f1 ran."""
    step = chain([100] * 5)
    movable = step.movable(smallest=1)
    found = choose_moves(step, movable, FAST)
    assert max(step.live) == 502
    assert (peak_with(step, found), least_live(step, movable, FAST)) == (202, 200)
    # h3 is read by f4 and needed again soon: it never has to leave
    assert [t.moved.buffer for t in found] == [1, 2, 3]


def test_on_a_slow_link_fewer_leave_and_nothing_stalls() -> None:
    """A transfer takes 1.5 s: in the four seconds of a forward behind f0, two are written."""
    step = chain([100] * 5)
    link = Link(write=100 / 1.5, read=100 / 1.5)
    movable = step.movable(smallest=1)
    found = choose_moves(step, movable, link, caution=1.0)
    assert late(step, transfers(step, [t.moved for t in found], link)) == []
    assert 1 <= len(found) <= 2
    assert least_live(step, movable, link) <= peak_with(step, found) < max(step.live)


def test_a_limit_that_is_reached_early_leaves_the_rest_where_it_is() -> None:
    step = chain([100] * 5)
    movable = step.movable(smallest=1)

    def written(limit: int) -> int:
        return sum(t.moved.size for t in choose_moves(step, movable, FAST, limit=limit))

    assert written(502) == 0
    assert written(402) == 100
    assert written(302) == 200


def test_what_is_changed_after_it_was_made_and_what_the_user_has_stays() -> None:
    build = ProblemBuilder(align=1)
    x = build.add_buffer("x", 9, Kind.INPUT, Home.USER)
    h, y = (build.add_buffer(n, 9, Kind.TEMPORARY, Home.ARENA) for n in "hy")
    build.add_op("f", reads=[x], creates=[h])
    build.add_op("in_place", reads=[h], mutates=[h])
    build.add_op("out", reads=[h], creates=[y])
    t = build.add_buffer("tangent", 1, Kind.TEMPORARY)
    build.begin_phase(1, [t])
    build.add_op("b", reads=[x, h, y, t])
    build.keep(y, Kind.OUTPUT, Home.EXTERNAL)
    problem = build.problem("step")
    step = Timed.of(problem, 3)
    assert step.movable(smallest=1) == []


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 50), st.floats(0.1, 2), st.floats(0.1, 2)), min_size=2, max_size=5
    ),
    st.floats(1, 200),
    st.floats(1, 200),
)
def test_no_subset_without_a_stall_goes_below_the_bound(
    layers: list[tuple[int, float, float]], write: float, read: float
) -> None:
    sizes = [size for size, _, _ in layers]
    costs = [f for _, f, _ in layers] + [b for _, _, b in reversed(layers)]
    step, link = chain(sizes, costs), Link(write, read)
    movable = step.movable(smallest=1)
    bound = least_live(step, movable, link)
    lowest = peak_with(step, [])
    for chosen in range(1 << len(movable)):
        some = [m for j, m in enumerate(movable) if chosen >> j & 1]
        found = transfers(step, some, link)
        if not late(step, found):
            lowest = min(lowest, peak_with(step, found))
            assert live_with(step, found).min() >= 0
    assert bound <= lowest
    found = choose_moves(step, movable, link, caution=1.0)
    assert bound <= lowest <= peak_with(step, found) <= peak_with(step, [])


@pytest.mark.parametrize("delay", [0.0, 10.0])
def test_the_time_that_each_transfer_takes_beside_counts(delay: float) -> None:
    step = chain([100] * 5)
    found = choose_moves(step, step.movable(smallest=1), Link(1e6, 1e6, delay))
    assert bool(found) == (delay == 0)
