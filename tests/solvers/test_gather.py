"""Small folds run together where the peak has room for their gradients, and nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from roam.core.lifetime import live_peak
from roam.core.problem import Buffer, Home, Kind, Op, Problem
from roam.solvers.gather import SMALL, gather
from tests.core.strategies import dense_problems, orders

LAYERS = 4


def layers(*, peak_at: int | None = None, gradient: int = 10, scratch: int = 0) -> Problem:
    """Every layer makes a gradient and folds it; one of them also takes all that the peak has."""
    buffers = [Buffer(f"state{i}", 1, Kind.STATE, Home.USER) for i in range(LAYERS)]
    ops: list[Op] = []
    for i in range(LAYERS):
        made = [len(buffers)]
        buffers.append(Buffer(f"g{i}", gradient, Kind.RELEASED))
        if i == peak_at:
            made.append(len(buffers))
            buffers.append(Buffer("large", 3 * gradient))
        ops.append(Op(f"mm{i}", creates=tuple(made)))
        ops.append(Op(f"fold{i}", reads=(made[0],), mutates=(i,), scratch=scratch))
    return Problem("layers", tuple(buffers), tuple(ops))


def gathered(problem: Problem) -> list[str]:
    order = gather(problem, range(len(problem.ops)))
    return [problem.ops[i].name for i in order]


def in_turn(*names: str) -> list[str]:
    return [f"{name}{i}" for i in range(LAYERS) for name in names]


def test_a_peak_somewhere_leaves_room_for_some() -> None:
    assert gathered(layers(peak_at=0)) == [
        *("mm0", "mm1", "mm2", "mm3", "fold0", "fold1", "fold2", "fold3"),
    ]
    assert gathered(layers(peak_at=2)) == [
        *("mm0", "mm1", "fold0", "fold1", "mm2", "mm3", "fold2", "fold3"),
    ]


def test_without_room_nobody_waits() -> None:
    assert gathered(layers()) == in_turn("mm", "fold")


@pytest.mark.parametrize("how", [{"gradient": SMALL + 1}, {"scratch": 1}])
def test_a_large_fold_and_one_that_allocates_stay(how: dict[str, int]) -> None:
    assert gathered(layers(peak_at=2, **how)) == in_turn("mm", "fold")


def test_a_gradient_that_others_read_after_its_fold_is_counted_all_the_same() -> None:
    """A part of what an op returned is held until its last other part was taken out."""
    problem = layers(peak_at=2)
    late = replace(problem.ops[2], reads=(LAYERS,))  # mm1 reads the gradient of fold0
    ops = (*problem.ops[:2], late, *problem.ops[3:])
    assert gathered(replace(problem, ops=ops)) == [
        *("mm0", "mm1", "fold0", "fold1", "mm2", "mm3", "fold2", "fold3"),
    ]


def test_a_reader_that_is_no_fold_stays() -> None:
    """As a part of what an op returned: later ops wait for it."""
    problem = layers(peak_at=0)
    ops = tuple(replace(op, mutates=()) for op in problem.ops)
    assert gathered(replace(problem, ops=ops)) == in_turn("mm", "fold")


def test_who_waits_for_a_fold_does_not_wait_longer() -> None:
    problem = layers(peak_at=0)
    read_again = replace(problem.ops[4], after=(1,))  # mm2, after fold0
    ops = (*problem.ops[:4], read_again, *problem.ops[5:])
    assert gathered(replace(problem, ops=ops)) == [
        *("mm0", "mm1", "fold0", "fold1", "mm2", "mm3", "fold2", "fold3"),
    ]


def test_a_fold_stays_in_its_phase() -> None:
    problem = layers(peak_at=0)
    ops = (*problem.ops[:4], *(replace(op, phase=1) for op in problem.ops[4:]))
    assert gathered(replace(problem, ops=ops)) == [
        *("mm0", "mm1", "fold0", "fold1", "mm2", "mm3", "fold2", "fold3"),
    ]


@st.composite
def folding(draw: st.DrawFn) -> Problem:
    """Problems with gradients among what is made, and folds among what reads them."""
    problem = draw(dense_problems())
    made = tuple(
        b if b.kept else replace(b, kind=draw(st.sampled_from((b.kind, Kind.RELEASED))))
        for b in problem.buffers
    )
    state = Buffer("state", 1, Kind.STATE, Home.USER)
    ops = tuple(
        op if op.creates else replace(op, mutates=draw(st.sampled_from(((), (len(made),)))))
        for op in problem.ops
    )
    return replace(problem, buffers=(*made, state), ops=ops)


@given(st.data())
def test_a_valid_order_with_no_higher_peak(data: st.DataObject) -> None:
    problem = data.draw(folding())
    order = data.draw(orders(problem))
    found = gather(problem, order)
    place = {i: t for t, i in enumerate(found)}
    assert sorted(found) == sorted(order)
    for i, before in enumerate(problem.predecessors):
        assert all(place[p] < place[i] for p in before)
    assert live_peak(problem, found) <= live_peak(problem, order)
