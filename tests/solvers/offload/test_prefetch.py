"""Loads of states: ordered with their ops, and moved apart as far as memory allows."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roam.core.build import ProblemBuilder
from roam.core.lifetime import live_peak
from roam.core.problem import Home, Kind, Lane, Problem, Tier
from roam.planner import Settings, plan
from roam.solvers.offload.loads import find_loads, without_loads
from roam.solvers.offload.prefetch import prefetch
from roam.solvers.offload.timeline import Link
from roam.solvers.simulate.step import simulate

LINK = Link(write=10.0, read=10.0)  # bytes a second; an op of the tests takes a second


def folds(sizes: list[int], room: int = 0) -> Problem:
    """Returns a backward that makes gradients, each folded into a state that lies in a file.

    room: bytes that a first op takes, so that later ones may take as many.
    """
    build = ProblemBuilder(align=1)
    x = build.add_buffer("x", 1, Kind.INPUT, Home.USER)
    y = build.add_buffer("y", 1, Kind.GRADIENT, Home.EXTERNAL)
    build.add_op("first", reads=[x], creates=[y], scratch=room, cost=1.0)
    for n, size in enumerate(sizes):
        g = build.add_buffer(f"g{n}", 1, Kind.TEMPORARY, Home.ARENA)
        build.add_op(f"b{n}", reads=[y], creates=[g], cost=1.0)
        m = build.add_buffer(f"m{n}", size, Kind.STATE, Home.USER, tier=Tier.FILE)
        back = build.add_buffer(f"m{n}~1", size, Kind.STATE, Home.ARENA)
        load, store = (f"m{n}~{way}1" for way in ("", "back~"))
        build.add_op(f"{load}.start", reads=[m], creates=[back], lane=Lane.COPY_IN)
        build.add_op(f"{load}.wait", reads=[m], mutates=[back], lane=Lane.COPY_IN)
        build.add_fold(f"w{n}", [g], [], mutates=[back], cost=1.0)
        build.add_op(f"{store}.start", reads=[back], mutates=[m], lane=Lane.COPY_OUT)
        build.add_op(f"{store}.wait", reads=[back], mutates=[m], lane=Lane.COPY_OUT)
    z = build.add_buffer("z", 1, Kind.GRADIENT, Home.EXTERNAL)
    build.add_op("last", reads=[y], creates=[z], cost=1.0)
    return build.problem("folds")


def names(problem: Problem, order: list[int]) -> list[str]:
    return [problem.ops[i].name for i in order]


def apart(problem: Problem, link: Link = LINK) -> list[int]:
    bare = without_loads(problem)
    assert bare is not None
    return prefetch(problem, bare, range(len(bare.ops)), link)


def beside(problem: Problem) -> list[int]:
    bare = without_loads(problem)
    assert bare is not None
    return bare.with_loads(range(len(bare.ops)))


def test_the_bare_problem_has_the_loaded_bytes_as_scratch_space() -> None:
    bare = without_loads(folds([7, 5]))
    assert bare is not None
    assert [op.name for op in bare.problem.ops] == [
        "first",
        "b0",
        "fold_w0",
        "b1",
        "fold_w1",
        "last",
    ]
    assert [op.scratch for op in bare.problem.ops] == [0, 0, 7, 0, 5, 0]
    assert without_loads(bare.problem) is None


def test_with_room_a_read_starts_as_late_as_it_can_and_nothing_waits() -> None:
    problem = folds([10, 10], room=100)
    order = apart(problem)
    assert names(problem, order) == [
        "first", "m0~1.start", "b0", "m0~1.wait", "fold_w0", "m0~back~1.start",
        "m1~1.start", "b1", "m0~back~1.wait", "m1~1.wait", "fold_w1", "m1~back~1.start",
        "last", "m1~back~1.wait",
    ]  # fmt: skip
    assert simulate(problem, order, LINK).stall == 0
    assert simulate(problem, order, LINK).seconds == 6
    assert simulate(problem, beside(problem), LINK).stall == 4


def test_without_room_transfers_stay_beside_their_op() -> None:
    problem = folds([10, 30, 10])
    order = apart(problem)
    assert live_peak(problem, order) == live_peak(problem, beside(problem))
    at = names(problem, order).index
    assert at("m1~1.start") > at("b1")
    assert at("m0~1.start") < at("b0")  # beside the small ones there is room


def test_a_slow_tier_is_waited_for_and_the_timing_says_how_long() -> None:
    problem = folds([40], room=100)
    found = simulate(problem, apart(problem), LINK)
    assert (found.seconds, found.stall) == (1 + 1 + 3 + 1 + 1 + 3, 6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 80))
def test_the_peak_is_no_higher_and_the_time_no_longer(sizes: list[int], room: int) -> None:
    problem = folds(sizes, room)
    first, then = beside(problem), apart(problem)
    assert live_peak(problem, then) <= live_peak(problem, first)
    assert simulate(problem, then, LINK).seconds <= simulate(problem, first, LINK).seconds + 1e-9


@pytest.mark.parametrize("link", [None, LINK])
def test_a_plan_with_loads_is_proven_as_one_without(link: Link | None) -> None:
    problem = folds([10, 30, 10], room=20)
    found = plan(problem, Settings(seconds=0.5, link=link))
    assert found.peak == found.lower_bound == 32
    assert len(find_loads(problem)) == 3
    assert found.persistent == 1
