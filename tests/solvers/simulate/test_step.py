"""When transfers begin and end: by hand, and by an event loop that only knows what is left."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from roam.core.edits import Load, Offload, apply
from roam.core.errors import UnpairedTransferError
from roam.core.problem import Buffer, Lane, Op, OpId, Problem, Tier
from roam.solvers.offload.timeline import Link
from roam.solvers.simulate.step import Timeline, simulate
from tests.solvers.offload.test_choose import chain

OUT, IN = Lane.COPY_OUT, Lane.COPY_IN


def spans(found: Timeline) -> dict[str, tuple[float, float, float]]:
    return {t.name: (t.begin, t.end, t.stall) for t in found.transfers}


def moved_step(*loads: tuple[str, str, str]) -> Problem:
    """Three layers of 100 bytes. Of a load: buffer, op of the write's wait, of the read's start."""
    problem = chain([100] * 3).problem
    edits = [
        Offload(name, Tier.FILE, (Load((f"b{name[1:]}",), start),), "", wait)
        for name, wait, start in loads
    ]
    return apply(problem, edits)


def test_a_slow_write_stalls_its_wait_and_the_step_ends_later() -> None:
    """h0 is written from second 1 to 5, and f2 waits for it from second 2 on."""
    problem = moved_step(("h0", "f2", "b1"))
    found = simulate(problem, range(len(problem.ops)), Link(25, 50))
    assert spans(found) == {"h0~file~1": (1, 5, 3), "h0~1": (7, 9, 1)}
    assert (found.stall, found.seconds) == (4, 6 + 4)
    names = [op.name for op in problem.ops]
    assert (found.begin[names.index("f2")], found.end[names.index("b0")]) == (5, 10)
    assert found.peak == 202  # two layers, a gradient and the tangent


def test_one_direction_is_a_queue_and_the_other_one_is_not_in_its_way() -> None:
    """Each write takes 1.5 s: h0 from 1 to 2.5, h1 then; h1 is back before h0 is asked for."""
    problem = moved_step(("h0", "tangents", "b1"), ("h1", "tangents", "b2"))
    found = simulate(problem, range(len(problem.ops)), Link(100 / 1.5, 100))
    assert spans(found) == {
        "h0~file~1": (1, 2.5, 0),
        "h1~file~1": (2.5, 4, 1),
        "h1~1": (4, 5, 0),
        "h0~1": (5, 6, 0),
    }


def test_half_duplex_shares_the_link_while_both_directions_are_busy() -> None:
    """The write of h1 has 3 s left when the read of h0 begins at 3 and needs 1: it takes 2."""
    ops = (
        Op("work", cost=0.0),
        Op("a.start", reads=(0,), lane=OUT),
        Op("three", cost=3.0),
        Op("b.start", reads=(1,), lane=IN),
        Op("b.wait", reads=(1,), lane=IN),
        Op("a.wait", reads=(0,), lane=OUT),
    )
    buffers = (Buffer("a", 6), Buffer("b", 1))
    ops = (replace(ops[0], creates=(0, 1)), *ops[1:])
    problem = Problem("shared", buffers, ops)
    assert spans(simulate(problem, range(6), Link(1, 1))) == {"a": (0, 6, 2), "b": (3, 4, 1)}
    shared = Link(1, 1, duplex=False)
    assert spans(simulate(problem, range(6), shared)) == {"a": (0, 7, 2), "b": (3, 5, 2)}


def test_an_unpaired_transfer_is_refused_by_name() -> None:
    ops = (Op("x", creates=(0,)), Op("a.start", reads=(0,), lane=OUT))
    problem = Problem("unpaired", (Buffer("a", 6),), ops)
    with pytest.raises(UnpairedTransferError, match=r"'a\.start': add 'a\.wait'"):
        simulate(problem, range(2), Link(1, 1))
    problem = replace(problem, ops=(ops[0], replace(ops[1], name="a.wait")))
    with pytest.raises(UnpairedTransferError, match=r"'a\.wait' waits"):
        simulate(problem, range(2), Link(1, 1))


@st.composite
def steps(draw: st.DrawFn) -> Problem:
    """Ops of whole seconds, and up to five transfers that start and end anywhere among them."""
    ops = [
        Op(f"op{i}", cost=float(draw(st.integers(0, 4)))) for i in range(draw(st.integers(1, 5)))
    ]
    sizes = draw(st.lists(st.integers(1, 9), max_size=5))
    for b, _ in enumerate(sizes):
        lane = draw(st.sampled_from((OUT, IN)))
        at = sorted(draw(st.lists(st.integers(0, len(ops)), min_size=2, max_size=2)))
        ops.insert(at[1], Op(f"t{b}.wait", reads=(b,), lane=lane))
        ops.insert(at[0], Op(f"t{b}.start", reads=(b,), lane=lane))
    made = Op("made", creates=tuple(range(len(sizes))))
    return Problem("random", tuple(Buffer(f"t{b}", n) for b, n in enumerate(sizes)), (made, *ops))


def by_what_is_left(
    problem: Problem, order: Sequence[OpId], rates: dict[Lane, int], *, duplex: bool
) -> tuple[Fraction, dict[str, Fraction]]:
    """Returns when the step ends and each transfer, by advancing all that runs together."""
    now, left_of_op = Fraction(0), Fraction(0)
    program = [problem.ops[i] for i in order]
    queue: dict[Lane, list[list[Any]]] = {OUT: [], IN: []}
    ended: dict[str, Fraction] = {}
    while True:
        while program and not left_of_op:
            op = program[0]
            name, _, what = op.name.partition(".")
            if what == "wait" and name not in ended:
                break
            if what == "start":
                size = problem.buffers[op.reads[0]].size
                queue[op.lane].append([name, Fraction(size, rates[op.lane])])
            left_of_op = Fraction(op.cost)
            program.pop(0)
        heads = [jobs[0] for jobs in queue.values() if jobs]
        if not program and not left_of_op:
            return now, ended
        slow = 2 if len(heads) == 2 and not duplex else 1
        times = [head[1] * slow for head in heads] + ([left_of_op] if left_of_op else [])
        passed = min(times)
        now += passed
        left_of_op -= passed if left_of_op else 0
        for head in heads:
            head[1] -= passed / slow
            if not head[1]:
                ended[head[0]] = now
        for jobs in queue.values():
            if jobs and not jobs[0][1]:
                jobs.pop(0)


@settings(max_examples=200, deadline=None)
@given(steps(), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_as_an_event_loop_that_advances_all_that_runs(
    problem: Problem, write: int, read: int, duplex: bool
) -> None:
    order = range(len(problem.ops))
    end, ended = by_what_is_left(problem, order, {OUT: write, IN: read}, duplex=duplex)
    found = simulate(problem, order, Link(write, read, duplex=duplex))
    assert found.seconds == pytest.approx(float(end))
    assert {t.name: t.end for t in found.transfers} == pytest.approx(
        {name: float(at) for name, at in ended.items()}
    )
    work = sum(op.cost for op in problem.ops)
    assert found.stall == pytest.approx(found.seconds - work)
