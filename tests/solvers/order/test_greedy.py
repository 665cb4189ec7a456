from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from msgspec.structs import replace

from roam.core.lifetime import can_take, live_peak
from roam.core.problem import BufferId, Home, Op, OpId, Problem
from roam.core.text import parse_problem
from roam.solvers.order.greedy import CANDIDATES, demand, free_early, least_peak_first
from tests.core.strategies import GRAPHS, graph, problems

every_candidate = pytest.mark.parametrize("name", CANDIDATES)


def whole_order(name: str, problem: Problem) -> list[OpId]:
    phases = range(len(problem.phases))
    return [i for phase in phases for i in CANDIDATES[name](problem, phase)]


def peak(name: str, problem: Problem) -> int:
    order = whole_order(name, problem)
    return live_peak(problem, order)


@every_candidate
@given(problem=problems(max_ops=9))
def test_every_op_once_after_those_it_waits_for(name: str, problem: Problem) -> None:
    for phase, members in enumerate(problem.phases):
        order = CANDIDATES[name](problem, phase)
        assert sorted(order) == members
        place = {i: t for t, i in enumerate(order)}
        for i in order:
            assert all(place[p] < place[i] for p in problem.predecessors[i] if p in place)


@every_candidate
@given(problem=problems(max_ops=9))
def test_the_same_order_every_time(name: str, problem: Problem) -> None:
    again = Problem("again", problem.buffers, problem.ops)
    assert whole_order(name, problem) == whole_order(name, again)


@every_candidate
@given(problem=problems(max_ops=9))
def test_the_order_does_not_hang_on_names(name: str, problem: Problem) -> None:
    buffers = tuple(replace(b, name=f"z{99 - i}") for i, b in enumerate(problem.buffers))
    ops = tuple(replace(o, name=f"z{99 - i}", where="") for i, o in enumerate(problem.ops))
    assert whole_order(name, problem) == whole_order(name, Problem("p", buffers, ops))


@every_candidate
@pytest.mark.parametrize("of", GRAPHS)
def test_peaks_of_tiny_graphs(name: str, of: str) -> None:
    better_than_program = {"wide": dict.fromkeys(set(CANDIDATES) - {"program"}, 102)}
    program = {"chain": 300, "diamond": 140, "in_place": 80, "training_step": 344, "wide": 201}
    assert peak(name, graph(of)) == better_than_program.get(of, {}).get(name, program[of])


# the backward of three layers: each y can be made at any time, but only mul reads it
EARLY = """
problem early
buffer g size=10
buffer y0 size=4
buffer y1 size=4
buffer y2 size=4
buffer g0 size=10
buffer g1 size=10
buffer g2 size=10
buffer m0 size=10
buffer m1 size=10
buffer m2 size=10
op start creates=g
op tanh0 creates=y0
op tanh1 creates=y1
op tanh2 creates=y2
op dx0 reads=g creates=g0
op mul0 reads=g0,y0 creates=m0
op dx1 reads=m0 creates=g1
op mul1 reads=g1,y1 creates=m1
op dx2 reads=m1 creates=g2
op mul2 reads=g2,y2 creates=m2
"""

# For each rule a graph on which it is better than all the others: (text, peaks by name).
WINS = {
    # `big` and its use stand together, the small one and its use around them
    "demand": (
        """
        problem nested
        buffer small size=20
        buffer big size=50
        buffer big_out size=10 kind=output
        buffer small_out size=20 kind=output
        op make_small creates=small
        op make_big creates=big
        op use_big reads=big creates=big_out
        op use_small reads=small creates=small_out
        """,
        {"program": 80, "free early": 80, "demand": 60, "least peak first": 80, "lazy": 80},
    ),
    # the last op frees 80 and makes 10: as soon as it can is right after the first
    "free early": (
        """
        problem freeing
        buffer a size=80
        buffer b size=50 kind=output
        buffer c size=10
        op make_a creates=a
        op make_b creates=b
        op use_a reads=a creates=c
        """,
        {"program": 140, "free early": 90, "demand": 140, "least peak first": 140, "lazy": 140},
    ),
    # the temporary of 80 costs nothing afterwards, what is kept does
    "least peak first": (
        """
        problem lone_temporary
        buffer a size=20 kind=output
        buffer b size=50 kind=output
        buffer c size=80
        op make_a creates=a
        op make_b creates=b
        op make_c creates=c
        """,
        {"program": 150, "free early": 150, "demand": 150, "least peak first": 80, "lazy": 80},
    ),
    # freeing the 80 early means keeping the 50 while f is made
    "program": (
        """
        problem patient
        buffer a size=80
        buffer b size=30
        buffer c size=30
        buffer d size=20
        buffer e size=50 kind=output
        buffer f size=50
        op make_a creates=a
        op make_b reads=a creates=b
        op make_c reads=b creates=c
        op make_d reads=c creates=d
        op make_e reads=a creates=e
        op make_f reads=d creates=f
        """,
        {"program": 150, "free early": 160, "demand": 160, "least peak first": 160, "lazy": 150},
    ),
    "lazy": (
        EARLY,
        {"program": 32, "free early": 32, "demand": 32, "least peak first": 32, "lazy": 24},
    ),
}


@pytest.mark.parametrize("winner", WINS)
def test_where_each_rule_is_the_best(winner: str) -> None:
    text, expected = WINS[winner]
    problem = parse_problem(text.strip())
    peaks = {name: peak(name, problem) for name in CANDIDATES}
    assert peaks == expected
    assert min(peaks, key=lambda name: peaks[name]) == winner


def dies_with(problem: Problem, b: BufferId, i: OpId, done: Sequence[OpId]) -> bool:
    """Whether nobody needs the buffer any more once op `i` has run as well."""
    buffer = problem.buffers[b]
    mine = buffer.home is Home.USER or buffer.kept
    return not mine and set(problem.users[b]) <= {*done, i}


def effect(problem: Problem, i: OpId, done: Sequence[OpId]) -> tuple[int, int]:
    """What the op leaves in use beyond what was, and what it takes while it runs: in bytes."""
    op: Op = problem.ops[i]
    made = sum(problem.buffers[b].size for b in op.creates)
    gone = [b for b in op.touches if dies_with(problem, b, i, done)]
    net = made - sum(problem.buffers[b].size for b in gone)
    pairs = [a for a, b in op.over if b in gone and can_take(problem, a, b)]
    return net, made + op.scratch - (problem.buffers[pairs[0]].size if pairs else 0)


def by_trying_all(problem: Problem, phase: int, frees_first: bool) -> list[OpId]:
    """The greedy rule as it is said: look at every ready op, each time anew."""
    done = [i for earlier in problem.phases[:phase] for i in earlier]
    waiting = list(problem.phases[phase])
    order: list[OpId] = []
    while waiting:
        ready = [i for i in waiting if not set(problem.predecessors[i]) & set(waiting)]
        ranks = {i: effect(problem, i, done) for i in ready}
        if frees_first:
            chosen = min(ready, key=lambda i: (ranks[i][0] >= 0, i))
        else:
            chosen = min(ready, key=lambda i: (*ranks[i], i))
        waiting.remove(chosen)
        done.append(chosen)
        order.append(chosen)
    return order


@given(problem=problems(max_ops=12))
def test_the_heap_agrees_with_trying_all(problem: Problem) -> None:
    for phase in range(len(problem.phases)):
        assert least_peak_first(problem, phase) == by_trying_all(problem, phase, False)
        assert free_early(problem, phase) == by_trying_all(problem, phase, True)


def asked_for(problem: Problem, phase: int) -> list[OpId]:
    """Whoever nobody waits for, in program order, and before each what it needs, likewise."""
    members = problem.phases[phase]
    order: list[OpId] = []

    def run(i: OpId) -> None:
        for p in sorted(set(problem.predecessors[i]) & set(members)):
            run(p)
        if i not in order:
            order.append(i)

    for i in members:
        if not set(problem.successors[i]) & set(members):
            run(i)
    return order


@given(problem=problems(max_ops=12))
def test_demand_runs_what_is_asked_for(problem: Problem) -> None:
    for phase in range(len(problem.phases)):
        assert demand(problem, phase) == asked_for(problem, phase)
