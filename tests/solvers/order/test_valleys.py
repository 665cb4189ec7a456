"""From valley to valley, against all orders there are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roam.core.lifetime import find_reuse, live_curve, live_peak
from roam.core.plan import Plan
from roam.core.problem import Buffer, Home, Kind, Op, OpId, Problem
from roam.core.text import parse_problem
from roam.solvers.answer import Outcome
from roam.solvers.bound.min_cut import own_bytes
from roam.solvers.order.bisection import settle
from roam.solvers.order.progress import Phase, State
from roam.solvers.order.valleys import keeps_within, meet
from roam.solvers.work import Work
from tests.core.strategies import dense_problems, edited_plans, problems


def alive_after(problem: Problem, done: set[OpId]) -> int:
    """Bytes of what was made and is still wanted, in the plainest way."""
    return sum(
        buffer.transient
        for b, buffer in enumerate(problem.buffers)
        if problem.maker[b] in done and (buffer.kept or not done.issuperset(problem.users[b]))
    )


def least(problem: Problem, phase: int) -> int:
    """The lowest peak of a phase over all orders, all reuse granted: by the sets of ops that have
    run, from the smaller to the larger.
    """
    before = {i for ops in problem.phases[:phase] for i in ops}
    ops = problem.phases[phase]
    lowest: dict[frozenset[OpId], int] = {frozenset(): 0}
    for _ in ops:
        longer: dict[frozenset[OpId], int] = {}
        for ran, peak in lowest.items():
            live = alive_after(problem, before | ran)
            for i in ops:
                if i not in ran and before | ran >= {*problem.predecessors[i]}:
                    new = max(peak, live + own_bytes(problem, i))
                    after = ran | {i}
                    longer[after] = min(new, longer.get(after, new))
        lowest = longer
    return lowest[frozenset(ops)]


ENDS = st.sampled_from([(False,), (True,), (False, True), (True, False)])  # which are mirrored


@given(problems(max_ops=6) | dense_problems(), ENDS, st.integers(-20, 100), st.sampled_from((1, 4)))
def test_the_answer_is_right_from_either_end_and_both(
    problem: Problem, ends: tuple[bool, ...], off: int, patience: int
) -> None:
    for phase in range(len(problem.phases)):
        lowest = least(problem, phase)
        for most in (lowest - 1, lowest, lowest + off):
            sides = [Phase(problem, phase, mirrored=m) for m in ends]
            found = meet(sides, most, 10**6, Work(), patience)
            if most >= lowest:
                assert found.found is not None
                assert peak_of(problem, found.found) <= most
            else:
                assert found.found is None
                assert most < found.bound <= lowest


def peak_of(problem: Problem, order: list[OpId]) -> int:
    """The peak of a phase in this order, all reuse granted."""
    phase = problem.ops[order[0]].phase
    done = {i for ops in problem.phases[:phase] for i in ops}
    assert sorted(order) == problem.phases[phase]
    peak = 0
    for i in order:
        assert done >= {*problem.predecessors[i]}
        peak = max(peak, alive_after(problem, done) + own_bytes(problem, i))
        done.add(i)
    return peak


@given(edited_plans().filter(lambda found: len(found[0].ops) <= 8))
def test_what_lies_in_another_tier_takes_no_bytes_of_the_device(
    found: tuple[Problem, Plan],
) -> None:
    problem = found[1].edited(found[0])
    for phase, ops in enumerate(problem.phases):
        if 0 < len(ops) <= 10:
            lowest = least(problem, phase)
            assert keeps_within(problem, phase, lowest).found is not None
            assert keeps_within(problem, phase, lowest - 1).bound == lowest


def test_a_set_that_was_left_for_a_valley_may_be_reached_again_from_it() -> None:
    """The search once took what it had dropped for done with, and so refused limits that can be
    kept: from the end of this graph, the way down from the valley leads through such a set.
    """
    problem = parse_problem(REACHED_AGAIN)
    assert least(problem, 1) == 60
    for mirrored in (False, True):
        sides = [Phase(problem, 1, mirrored=mirrored)]
        assert meet(sides, 60, 10**4, Work()).found is not None
        assert meet(sides, 59, 10**4, Work()).bound == 60


REACHED_AGAIN = """
problem reached-again
buffer s0 size=20
buffer b1 size=25
buffer b2 size=5
buffer b3 size=10 kind=gradient home=external
buffer b4 size=10
buffer b5 size=10
buffer b6 size=10
buffer b7 size=1
op f creates=s0
op o0 reads=s0 creates=b1 scratch=3 phase=1
op o1 reads=s0,b1 creates=b2 phase=1
op o2 reads=s0,b2 creates=b3 phase=1
op o3 reads=s0,b1 creates=b4 scratch=3 phase=1
op o4 creates=b5 phase=1
op o5 reads=b2,b4,b5 creates=b6 phase=1
op o6 reads=b5,b6 creates=b7 scratch=15 phase=1
op o7 reads=b5 scratch=3 phase=1
"""


@given(problems(max_ops=8))
def test_every_op_comes_after_those_it_waits_for(problem: Problem) -> None:
    for phase in range(len(problem.phases)):
        order = keeps_within(problem, phase, 2**60).found
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
    assert some.found is not None
    assert twice.found is not None
    assert twice.work <= 2.1 * some.work
    assert keeps_within(layers(50), 0, 34).bound == 35


def test_it_gives_up_where_it_is_told_to() -> None:
    assert keeps_within(layers(50), 0, 35, runs=3).status is Outcome.UNKNOWN
    assert keeps_within(layers(50), 0, 34, runs=3).bound == 0


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
    assert meet([phase], best, 10**5, Work()).found is not None
    no = meet([phase], best - 1, 10**4, Work())
    assert no.found is None
    assert no.bound == (best if mirrored else 0)  # forward, all subsets have to be looked at


def recomputed(n: int) -> Problem:
    """n layers from the last to the first, each with a wide hill, and each with something made
    again from what was saved, which may be made at any time before.

    saved (9) ── again (9) ──┐
    gradient (8) ── wide (30) ── gradient of the layer below (8)
    """
    buffers = [Buffer(f"saved{k}", 9) for k in range(n)]
    buffers += [Buffer("gradient", 8)]
    ops = [Op("forward", creates=tuple(range(n + 1)))]
    gradient = n
    ops += [Op(f"again{k}", reads=(k,), creates=(n + 1 + k,), phase=1) for k in range(n)]
    buffers += [Buffer(f"again{k}", 9) for k in range(n)]
    for k in range(n):
        wide, below = len(buffers), len(buffers) + 1
        buffers += [Buffer(f"wide{k}", 30), Buffer(f"gradient{k}", 8)]
        ops.append(Op(f"wide{k}", reads=(gradient, k), creates=(wide,), phase=1))
        ops.append(Op(f"below{k}", reads=(wide, n + 1 + k), creates=(below,), phase=1))
        gradient = below
    return Problem("recomputed", tuple(buffers), tuple(ops))


def test_idle_ops_wait_for_who_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = recomputed(40)
    forward = Phase(problem, 1)
    best = 40 * 9 + 30 + 9
    found, no = (meet([forward], most, 1000, Work()) for most in (best, best - 1))
    assert found.found is not None
    assert peak_of(problem, found.found) == best
    assert no.bound == best
    monkeypatch.setattr(State, "idle", property(lambda _: set(), lambda *_: None), raising=False)
    assert meet([forward], best - 1, 10_000, Work()).bound == 0  # it has not found out by then


def shrunk_and_kept(n: int) -> Problem:
    """What was saved is made smaller, in any order; then n gradients pile up as in `kept`.

    Going down is easy, and so is going up from behind: one half is so from either end.
    """
    sizes = [4] * n + [10 + k for k in range(n)] + [2] * n + [1]
    buffers = [Buffer(f"b{b}", size) for b, size in enumerate(sizes)]
    buffers += [Buffer(f"g{k}", 20, Kind.GRADIENT, Home.EXTERNAL) for k in range(n)]
    ops = [Op("forward", creates=tuple(range(2 * n)))]
    ops += [Op(f"shrink{k}", reads=(k,), creates=(2 * n + k,), phase=1) for k in range(n)]
    ops += [Op("join", reads=tuple(range(2 * n, 3 * n)), creates=(3 * n,), phase=1)]
    for k in range(n):
        made = (3 * n + 1 + k,)
        ops.append(Op(f"back{k}", reads=(n + k, 3 * n), creates=made, scratch=5, phase=1))
    return Problem("shrunk and kept", tuple(buffers), tuple(ops))


def test_what_ran_from_one_end_is_out_of_the_way_of_the_other() -> None:
    problem = shrunk_and_kept(14)
    best = 14 * 20 + 10 + 1 + 5  # at the last gradient, of the smallest
    start, end = (Phase(problem, 1, mirrored=m) for m in (False, True))
    found, no = (meet([start, end], most, 2000, Work()) for most in (best, best - 1))
    assert found.found is not None
    assert peak_of(problem, found.found) == best
    assert no.bound == best
    for alone in (start, end):
        assert meet([alone], best, 10_000, Work()).found is None


def test_the_bound_and_the_order_meet() -> None:
    problem = layers(10)
    program = [*problem.phases[0]]
    assert live_peak(problem, program) == 64
    found = settle(problem, 0, program, lambda order: live_peak(problem, order), 31)
    assert found.value == found.bound == live_peak(problem, found.found) == 35


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
        found = settle(problem, phase, [*problem.phases[phase]], peak_of, 0)
        assert found.bound <= least(problem, phase) <= found.value <= known
        assert peak_of(found.found) == found.value
