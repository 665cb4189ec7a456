"""From valley to valley, against all orders there are."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roam.core.lifetime import find_reuse, live_curve
from roam.core.problem import Buffer, Home, Kind, Op, OpId, Problem
from roam.solvers.cut_bound import own_bytes
from roam.solvers.progress import Phase, State
from roam.solvers.settle import settle
from roam.solvers.valleys import Search, keeps_within
from tests.core.strategies import all_orders, problems


def alive_after(problem: Problem, done: set[OpId]) -> int:
    """Bytes of what was made and is still wanted, in the plainest way."""
    return sum(
        buffer.size
        for b, buffer in enumerate(problem.buffers)
        if buffer.home is not Home.USER
        and problem.maker[b] in done
        and (buffer.kept or not done.issuperset(problem.users[b]))
    )


def least(problem: Problem, phase: int) -> int:
    """The lowest peak of a phase over all orders, all reuse granted."""
    lowest = 2**60
    for order in all_orders(problem):
        peak = 0
        done: set[OpId] = set()
        for i in order:
            if problem.ops[i].phase == phase:
                peak = max(peak, alive_after(problem, done) + own_bytes(problem, i))
            done.add(i)
        lowest = min(lowest, peak)
    return lowest


@given(problems(max_ops=6), st.booleans(), st.integers(-100, 100))
def test_the_answer_is_right_from_both_sides(problem: Problem, mirrored: bool, off: int) -> None:
    for phase in range(len(problem.phases)):
        lowest = least(problem, phase)
        for most in (lowest - 1, lowest, lowest + off):
            found = Search(Phase(problem, phase, mirrored=mirrored), most, 10**6, inf).answer()
            if most >= lowest:
                assert found.order is not None
                assert sorted(found.order) == problem.phases[phase]
            else:
                assert found.order is None
                assert most < found.needed <= lowest


@given(problems(max_ops=8))
def test_every_op_comes_after_those_it_waits_for(problem: Problem) -> None:
    for phase in range(len(problem.phases)):
        order = keeps_within(problem, phase, 2**60).order
        assert order is not None
        place = {i: t for t, i in enumerate(order)}
        assert all(
            place[p] < place[i] for i in order for p in problem.predecessors[i] if p in place
        )


@given(problems(max_ops=8), st.booleans(), st.data())
def test_undoing_leaves_no_trace(problem: Problem, mirrored: bool, data: st.DataObject) -> None:
    for phase in range(len(problem.phases)):
        state = State(Phase(problem, phase, mirrored=mirrored))
        trail = []
        while state.ready:
            before = (state.live, set(state.ready), set(state.light), dict(state.left))
            k = data.draw(st.sampled_from(sorted(state.ready)))
            state.run(k)
            after = (state.live, set(state.ready), set(state.light), dict(state.left))
            state.undo(k)
            assert before == (state.live, state.ready, state.light, state.left)
            state.run(k)
            assert after == (state.live, state.ready, state.light, state.left)
            trail.append(k)
        assert len(trail) == len(problem.phases[phase])


def layers(n: int) -> Problem:
    """n layers one after another, each a hill: two branches that grow before they shrink.

    x ──┬── a (30) ── c (1) ──┬── x     running both `a`s first takes 65, one after the other 35
        └── b (30) ── d (1) ──┘
    """
    buffers = [Buffer("x0", 4)]
    ops = [Op("start", creates=(0,))]
    x = 0
    for k in range(n):
        a, b, c, d, y = range(len(buffers), len(buffers) + 5)
        buffers += [
            Buffer(f"{name}{k}", s) for name, s in zip("abcdy", (30, 30, 1, 1, 4), strict=True)
        ]
        ops += [
            Op(f"a{k}", reads=(x,), creates=(a,)),
            Op(f"b{k}", reads=(x,), creates=(b,)),
            Op(f"c{k}", reads=(a,), creates=(c,)),
            Op(f"d{k}", reads=(b,), creates=(d,)),
            Op(f"y{k}", reads=(c, d), creates=(y,)),
        ]
        x = y
    return Problem("layers", tuple(buffers), tuple(ops))


def test_work_grows_with_the_layers_and_not_with_their_orders() -> None:
    """Each layer ends in a valley: its orders are forgotten there, not multiplied."""
    some, twice = keeps_within(layers(25), 0, 35), keeps_within(layers(50), 0, 35)
    assert some.order is not None
    assert twice.order is not None
    assert twice.work <= 2.1 * some.work
    assert keeps_within(layers(50), 0, 34).needed == 35


def test_it_gives_up_where_it_is_told_to() -> None:
    assert keeps_within(layers(50), 0, 35, work=3).order is None
    assert keeps_within(layers(50), 0, 34, work=3).needed == 0


def kept(n: int) -> Problem:
    """n gradients that pile up, each made out of something larger: a hill from the start, and a
    slope from the end.
    """
    buffers = [Buffer(f"s{k}", 10 + k) for k in range(n)]
    buffers += [Buffer(f"g{k}", 20, Kind.GRADIENT, Home.EXTERNAL) for k in range(n)]
    ops = [Op("forward", creates=tuple(range(n)))]
    ops += [Op(f"back{k}", reads=(k,), creates=(n + k,), scratch=5, phase=1) for k in range(n)]
    return Problem("kept", tuple(buffers), tuple(ops))


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_slope_is_walked_from_either_end(mirrored: bool) -> None:
    problem = kept(12)
    phase = Phase(problem, 1, mirrored=mirrored)
    best = 12 * 20 + 10 + 5  # the smallest one last, and all gradients there
    assert Search(phase, best, 10**5, inf).answer().order is not None
    no = Search(phase, best - 1, 10**4, inf).answer()
    assert no.order is None
    assert no.needed == (best if mirrored else 0)  # forward, all subsets have to be looked at


def peak(problem: Problem, order: list[OpId]) -> int:
    return max(live_curve(problem, order, find_reuse(problem, order)), default=0)


def test_the_bound_and_the_order_meet() -> None:
    problem = layers(10)
    program = [*problem.phases[0]]
    assert peak(problem, program) == 64
    found = settle(problem, 0, lambda order: peak(problem, order), 64, 31)
    assert found.order is not None
    assert found.peak == found.bound == peak(problem, found.order) == 35


@given(problems(max_ops=6))
def test_what_is_settled_lies_between_the_bound_and_the_peak(problem: Problem) -> None:
    for phase in range(len(problem.phases)):
        others = [i for i in range(len(problem.ops)) if problem.ops[i].phase < phase]

        def peak_of(order: list[OpId], others: list[OpId] = others, phase: int = phase) -> int:
            later = [i for i in range(len(problem.ops)) if problem.ops[i].phase > phase]
            whole = [*others, *order, *later]
            curve = live_curve(problem, whole, find_reuse(problem, whole))
            return max(curve[len(others) : len(others) + len(order)], default=0)

        known = peak_of(problem.phases[phase])
        found = settle(problem, phase, peak_of, known, 0)
        assert found.bound <= least(problem, phase) <= found.peak <= known
        if found.order is not None:
            assert peak_of(found.order) == found.peak
