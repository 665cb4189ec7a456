"""Ops that share a call run together where the peak has room for that, and nowhere else."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from roam.core.lifetime import live_peak
from roam.core.problem import Buffer, Home, Kind, Op, OpId, Problem
from roam.core.text import parse_problem
from roam.solvers.order.adjacent_calls import SMALL, gather, small_folds
from tests.core.strategies import dense_problems, orders

LAYERS = 4


def layers(
    n: int = LAYERS, *, peak_at: int | None = None, gradient: int = 10, scratch: int = 0
) -> Problem:
    """Every layer makes a gradient and folds it; one of them also takes all that the peak has."""
    buffers = [Buffer(f"state{i}", 1, Kind.STATE, Home.USER) for i in range(n)]
    ops: list[Op] = []
    for i in range(n):
        made = [len(buffers)]
        buffers.append(Buffer(f"g{i}", gradient, Kind.RELEASED))
        if i == peak_at:
            made.append(len(buffers))
            buffers.append(Buffer("large", 3 * gradient))
        ops.append(Op(f"mm{i}", creates=tuple(made)))
        ops.append(Op(f"fold{i}", reads=(made[0],), mutates=(i,), scratch=scratch))
    return Problem("layers", tuple(buffers), tuple(ops))


def gathered(problem: Problem) -> list[str]:
    order = gather(problem, range(len(problem.ops)), small_folds(problem))
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


def test_room_is_given_away_once() -> None:
    """Three gradients may wait beside the last layer's, and not a fourth."""
    assert gathered(layers(5, peak_at=0)) == [
        *("mm0", "fold0", "mm1", "mm2", "mm3", "mm4", "fold1", "fold2", "fold3", "fold4"),
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
        *("mm0", "fold0", "mm1", "mm2", "mm3", "fold1", "fold2", "fold3"),
    ]


def test_a_fold_stays_in_its_phase() -> None:
    problem = layers(peak_at=0)
    ops = (*problem.ops[:4], *(replace(op, phase=1) for op in problem.ops[4:]))
    assert gathered(replace(problem, ops=ops)) == [
        *("mm0", "mm1", "fold0", "fold1", "mm2", "mm3", "fold2", "fold3"),
    ]


KERNELS = """
problem kernels
buffer x size=9 home=user kind=input
buffer m1 size=4 home=user kind=state
buffer m2 size=4 home=user kind=state
buffer a size=8
buffer b size=8
buffer bias1 size=1 kind=gradient
buffer w1 size=4 kind=released
buffer w2 size=4 kind=released
buffer c size=8
buffer d size=8
buffer bias2 size=1 kind=gradient
buffer e size=8
buffer y size=8 kind=gradient
op top reads=x
op gelu reads=x creates=a
op mm1 reads=a creates=b
op sum1 reads=a creates=bias1
op mm2 reads=b creates=w1
op fold1 reads=w1 mutates=m1
op mm3 reads=b creates=w2,c
op fold2 reads=w2 mutates=m2
op mm4 reads=c creates=d
op sum2 reads=d creates=bias2
op mm5 reads=c creates=e
op relu reads=e creates=y
"""
SHARING = {"gelu", "sum1", "sum2", "relu"}


def in_groups(peak: int, more: str = "") -> list[str]:
    """The kernels with the folds gathered, then what is generated; `top` holds the peak."""
    problem = parse_problem(KERNELS + more)
    top, *others = problem.ops
    ops = (replace(top, scratch=peak), *others)
    problem = replace(problem, ops=ops)
    folded = gather(problem, range(len(ops)), small_folds(problem))
    sharing = frozenset(i for i, op in enumerate(ops) if op.name in SHARING)
    return [ops[i].name for i in gather(problem, folded, sharing)]


def test_the_picture() -> None:
    assert in_groups(100) == [
        *("top", "gelu", "sum1", "mm1", "mm2", "mm3", "fold1", "fold2", "mm4", "mm5"),
        *("sum2", "relu"),
    ]


@pytest.mark.parametrize(
    ("peaks", "moved"),
    [
        # 21 is the program's own, at mm3: the 1 byte of bias1 has room at mm1
        (range(21, 25), {"sum1"}),
        (range(25, 26), {"sum1", "fold1"}),  # 4 bytes of w1 wait at mm3
        (range(26, 40), {"sum1", "fold1", "sum2"}),  # 8 bytes of d wait at mm5, which takes 18
    ],
)
def test_each_joins_another_as_soon_as_there_is_room(peaks: range, moved: set[str]) -> None:
    order = [op.name for op in parse_problem(KERNELS).ops]
    joins = {"sum1": "mm1", "fold1": "fold2", "sum2": "relu"}  # before whom each then runs
    for name in moved:
        order.remove(name)
        order.insert(order.index(joins[name]), name)
    for peak in peaks:
        assert in_groups(peak) == order


def test_what_is_alive_anyway_needs_no_room() -> None:
    """Its own peak is 26, at mm5 too: d waits for the last op whether the sum does or not."""
    found = in_groups(26, more="op last reads=d")
    assert found[-4:] == ["mm5", "sum2", "relu", "last"]


FREES = """
problem frees
buffer x size=9 home=user kind=input
buffer a size=20
buffer b size=4
buffer bias size=1 kind=gradient
op top reads=x scratch=30
op relu reads=x creates=a
op mm reads=a creates=b
op sum reads=x creates=bias scratch={scratch}
op last reads=b
"""


@pytest.mark.parametrize(("scratch", "joins"), [(5, True), (6, False)])
def test_scratch_space_needs_room_where_an_op_goes(scratch: int, joins: bool) -> None:
    """The mm takes 24 bytes and frees most of them: after it there is room for more."""
    problem = parse_problem(FREES.format(scratch=scratch))
    order = gather(problem, range(len(problem.ops)), {1, 3})
    assert order == ([0, 1, 3, 2, 4] if joins else [0, 1, 2, 3, 4])


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
    sharing = data.draw(
        st.one_of(st.just(small_folds(problem)), st.frozensets(st.sampled_from(order)))
    )
    found = gather(problem, order, sharing)
    place = {i: t for t, i in enumerate(found)}
    assert sorted(found) == sorted(order)
    for i, before in enumerate(problem.predecessors):
        assert all(place[p] < place[i] for p in before)
    assert live_peak(problem, found) <= live_peak(problem, order)
    assert runs(problem, found, sharing) <= runs(problem, order, sharing)


def runs(problem: Problem, order: list[OpId], sharing: frozenset[OpId]) -> int:
    """How many calls the ops that share some make."""
    kinds = groupby((problem.ops[i].phase, i in sharing) for i in order)
    return sum(shares for (_, shares), _ in kinds)
