"""The bound on the time of recomputing, against all schedules with copies there are."""

from __future__ import annotations

import heapq
from itertools import chain, combinations, count
from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from roam.core.lifetime import can_take, find_reuse, live_curve
from roam.core.problem import Buffer, Home, Kind, Op, Problem
from roam.solvers.bound.priced_cut import PricedCuts
from roam.solvers.bound.time_bound import least_bytes, time_bound
from roam.solvers.form import Form, as_they_are
from roam.solvers.work import Work

Held = frozenset[int]


@st.composite
def steps(draw: st.DrawFn) -> Problem:
    """Up to seven ops in two phases, with a parameter, kept results, folds and in-place results."""
    sizes = st.sampled_from((1, 2, 3, 5, 8))
    buffers = [Buffer("w", 4, Kind.PARAMETER, Home.USER)]
    ops: list[Op] = []
    n = draw(st.integers(3, 7))
    phase = draw(st.integers(2, n))
    for i in range(n):
        there = range(1, len(buffers))
        reads = draw(st.lists(st.sampled_from([*there, 0]), max_size=3, unique=True))
        fold = i > 2 and draw(st.integers(0, 7)) == 0
        new = [] if fold else [len(buffers)]
        if new:
            kept = draw(st.integers(0, 7)) == 0
            buffers.append(Buffer(f"b{i}", draw(sizes), Kind.OUTPUT if kept else Kind.TEMPORARY))
        random = bool(new) and draw(st.integers(0, 5)) == 0
        if random:
            new.append(len(buffers))
            buffers.append(Buffer(f"mask{i}", draw(sizes), Kind.TEMPORARY))
        over = tuple((new[0], b) for b in reads if new and b and draw(st.booleans()))
        ops.append(
            Op(
                f"op{i}",
                tuple(b for b in reads if not (fold and b == 0)),
                tuple(new),
                (0,) if fold else (),
                over,
                scratch=draw(st.sampled_from((0, 0, 2))),
                phase=int(i >= phase),
                cost=float(draw(st.integers(0, 5))),
                once=random or draw(st.integers(0, 9)) == 0,
            )
        )
    return Problem("step", tuple(buffers), tuple(ops))


def forms_of(problem: Problem) -> dict[int, Form]:
    """What runs again: an op as it is, or what a random op makes from its mask and one input."""
    forms = as_they_are(problem)
    for i, op in enumerate(problem.ops):
        if len(op.creates) == 2:
            made, mask = op.creates
            forms[i] = Form((*op.reads[:1], mask), (made,), 0, op.cost + 1)
    return forms


def cheapest(problem: Problem, budget: int) -> float:
    """Returns the least extra time of any schedule within the budget, inf if there is none.

    Dijkstra over states: which ops have run, and which buffers are held.
    """
    ops, sizes, forms = problem.ops, [b.transient for b in problem.buffers], forms_of(problem)
    every = frozenset(range(len(ops)))
    kept = {b for b, buffer in enumerate(problem.buffers) if buffer.kept}
    tie = count()
    start: tuple[Held, Held] = (frozenset(), frozenset())
    queue, done = [(0.0, next(tie), start)], set()
    while queue:
        spent, _, state = heapq.heappop(queue)
        if state in done:
            continue
        done.add(state)
        ran, held = state
        if ran == every and kept <= held:
            return spent - sum(op.cost for op in ops)
        for i, op in enumerate(ops):
            form = forms.get(i) if i in ran else Form.of(op)
            if form is None or not may_run(problem, ran, held, i, form):
                continue
            after = held | set(form.creates)
            for dropped in subsets(after):
                shared = in_place(problem, form, dropped)
                live = sum(sizes[b] for b in held - set(form.creates))
                live += sum(sizes[b] for b in form.creates) + form.scratch - shared
                if live <= budget:
                    new = (ran | {i}, frozenset(after - dropped))
                    heapq.heappush(queue, (spent + form.cost, next(tie), new))
    return inf


def may_run(problem: Problem, ran: Held, held: Held, i: int, form: Form) -> bool:
    op = problem.ops[i]
    if any(j not in ran and other.phase < op.phase for j, other in enumerate(problem.ops)):
        return False
    if any(p not in ran for p in problem.predecessors[i]):
        return False
    if 0 in op.reads and any(j in ran and 0 in problem.ops[j].mutates and j > i for j in ran):
        return False  # the parameter it read is no longer what it was
    return all(problem.buffers[b].home is Home.USER or b in held for b in form.reads)


def in_place(problem: Problem, form: Form, dropped: set[int]) -> int:
    for new, old in form.over:
        if old in dropped and can_take(problem, new, old):
            return problem.buffers[new].transient
    return 0


def subsets(buffers: set[int] | Held) -> list[set[int]]:
    some = sorted(buffers)
    return [
        set(s) for s in chain.from_iterable(combinations(some, k) for k in range(len(some) + 1))
    ]


def curve(problem: Problem) -> list[int]:
    order = range(len(problem.ops))
    return live_curve(problem, order, find_reuse(problem, order))


@settings(max_examples=60, deadline=None)
@given(steps(), st.integers(0, 10))
def test_no_schedule_is_faster_than_the_bound(problem: Problem, saved: int) -> None:
    given, order = curve(problem), range(len(problem.ops))
    budget = max(given) - saved
    best = cheapest(problem, budget)
    forms = forms_of(problem)
    bound = time_bound(problem, order, given, budget, forms=forms)
    assert bound.seconds <= best
    least = least_bytes(problem, order, given, forms=forms)
    assert budget >= least or best == inf
    cuts = PricedCuts(problem, forms)
    assert all(cuts.extra(i, budget).seconds <= best for i in order)


def two_uses() -> Problem:
    """`a` is read at both ends, and is in the way in the middle: 10 + 10 + 1.

    a 10 ──┬── b 1 ── c 10 ── d 1 ──┬── end
           └────────────────────────┘
    """
    sizes = {"a": 10, "b": 1, "c": 10, "d": 1}
    buffers = tuple(Buffer(name, size) for name, size in sizes.items())
    return Problem(
        "two uses",
        buffers,
        (
            Op("a", (), (0,), cost=3.0),
            Op("b", (0,), (1,), cost=1.0),
            Op("c", (1,), (2,), cost=1.0),
            Op("d", (2,), (3,), cost=1.0),
            Op("end", (0, 3), (), cost=1.0),
        ),
    )


def test_what_is_in_the_way_must_be_computed_again() -> None:
    problem = two_uses()
    given, order = curve(problem), range(5)
    assert max(given) == 21
    assert time_bound(problem, order, given, 21).seconds == 0
    bound = time_bound(problem, order, given, 11)
    assert (bound.seconds, bound.op) == (3.0, 2)
    assert {0} in [m.again for m in bound.moments]
    assert time_bound(problem, order, given, 20).seconds == 1.0  # a tenth of it, rounded up
    assert time_bound(problem, order, given, 10).seconds == inf
    assert least_bytes(problem, order, given) == 11


def test_what_may_not_be_copied_has_to_stay() -> None:
    problem = two_uses()
    given = curve(problem)
    forms = as_they_are(problem)
    del forms[0]
    assert time_bound(problem, range(5), given, 20, forms=forms).seconds == inf
    assert least_bytes(problem, range(5), given, forms=forms) == 21


def test_what_only_the_first_run_makes_stays_for_a_run_again() -> None:
    """Dropout runs again from its mask of 2: at `c` the input of 10 or the result is in the way."""
    problem = two_uses()
    buffers = (*problem.buffers, Buffer("mask", 2))
    first = Op("a", (), (0, 4), cost=3.0, once=True)
    problem = Problem("dropout", buffers, (first, *problem.ops[1:]))
    forms = {0: Form((4,), (0,), cost=1.0)}
    given, order = curve(problem), range(5)
    assert least_bytes(problem, order, given, forms=forms) == 13  # 11 without the mask
    bound = time_bound(problem, order, given, 13, forms=forms)
    assert (bound.seconds, bound.op) == (1.0, 2)


def test_without_work_nothing_is_proven() -> None:
    problem = two_uses()
    assert time_bound(problem, range(5), curve(problem), 20, Work(limit=0)).seconds == 0


def test_states_on_either_side_of_a_time_are_best_for_their_bytes() -> None:
    """Three saved tensors of 10 bytes, each again at another cost: 0, 1, 2 or 3 of them."""
    buffers = [Buffer("x", 1, Kind.INPUT, Home.USER), *(Buffer(f"a{i}", 10) for i in range(3))]
    buffers += [Buffer("y", 1), *(Buffer(f"g{i}", 1) for i in range(3))]
    ops = [Op(f"f{i}", (0,), (i + 1,), cost=float(i + 1)) for i in range(3)]
    ops.append(Op("turn", (0,), (4,), phase=1))
    ops += [Op(f"b{i}", (4, i + 1), (i + 5,), phase=1) for i in range(3)]
    cuts = PricedCuts(Problem("three", tuple(buffers), tuple(ops)), in_order=True)
    found = {(float(m.seconds), m.live) for m in cuts.within(3, 3.0)}
    assert {(0.0, 31), (6.0, 1)} < found
    assert found <= {(0.0, 31), (1.0, 21), (3.0, 11), (6.0, 1)}
    assert any(0 < seconds <= 3 for seconds, _ in found)
    assert {float(m.seconds) for m in cuts.within(3, 100.0)} == {0.0, 6.0}
