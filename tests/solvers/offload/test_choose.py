"""Which tensors leave, on a chain whose optimum is known, and on random ones."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roam.core.build import ProblemBuilder
from roam.core.problem import Home, Kind
from roam.solvers.offload.bound import least_live
from roam.solvers.offload.choose import choose_moves
from roam.solvers.offload.contenders import largest_first, last_made_stays, most_benefit, prefix
from roam.solvers.offload.movable import Timed
from roam.solvers.offload.moved import with_transfers
from roam.solvers.offload.swaps import swapped
from roam.solvers.offload.timeline import Link, Transfer, late, live_with, peak_with, transfers
from roam.solvers.simulate.step import Timeline, simulate

FAST = Link(write=1e6, read=1e6)
CAREFUL = (last_made_stays, largest_first, most_benefit)  # what they return stalls no op


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
    assert (peak_with(step, found), least_live(step, movable, FAST)) == (202, 202)
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


@settings(max_examples=25, deadline=None)
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
    assert bound <= lowest == peak_with(step, found)
    simulated = run(step, found, link)
    assert simulated.peak == peak_with(step, found)
    assert simulated.seconds == pytest.approx(step.seconds)
    assert all(late(step, transfers(step, r(step, movable, link), link)) == [] for r in CAREFUL)


def run(step: Timed, found: Sequence[Transfer], link: Link) -> Timeline:
    problem = with_transfers(step, found)
    return simulate(problem, range(len(problem.ops)), link)


def test_ssdtrains_prefix_ends_where_its_code_says() -> None:
    """Of h1 on: 100 + 2 * 100 bytes are more than 20 a second for 3 * 5 - 2 * 1 seconds."""
    step = chain([100] * 5)
    movable = step.movable(smallest=1)

    def moved(write: float) -> list[int]:
        found = prefix(step, [[m] for m in movable], Link(write, 1e6))
        return [m.buffer for m in found]

    assert moved(20) == [1]
    assert moved(300 / 13) == [1, 2]
    assert moved(1e6) == [1, 2, 3, 4, 5]


def test_swaps_find_what_no_rule_does() -> None:
    """Of no choice of these the peak is lower; the test of all subsets has others."""
    step = chain([40, 60, 30, 20, 60])
    movable, link = step.movable(smallest=1), Link(30, 30)
    moved = [rule(step, movable, link) for rule in CAREFUL]
    assert [peak_with(step, transfers(step, m, link)) for m in moved] == [172] * 3
    better = swapped(step, movable, moved[0], link)
    assert peak_with(step, transfers(step, better, link)) == 152
    assert swapped(step, movable, moved[0], link, limit=172) == moved[0]


def test_the_best_of_the_rules_is_taken() -> None:
    """h0 is large, but away for so short that h1, which is small, lowers the peak by more."""
    step = chain([60, 10, 60, 20])
    movable, link = step.movable(smallest=1), Link(30, 20)
    peaks = [peak_with(step, transfers(step, rule(step, movable, link), link)) for rule in CAREFUL]
    assert peaks == [152, 152, 142]
    assert peak_with(step, choose_moves(step, movable, link, caution=1.0)) == 142


@pytest.mark.parametrize("delay", [0.0, 10.0])
def test_the_time_that_each_transfer_takes_beside_counts(delay: float) -> None:
    step = chain([100] * 5)
    found = choose_moves(step, step.movable(smallest=1), Link(1e6, 1e6, delay))
    assert bool(found) == (delay == 0)
