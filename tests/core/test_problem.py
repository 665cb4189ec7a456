from __future__ import annotations

import pytest
from msgspec.structs import replace

from roam.core.errors import (
    CycleError,
    DuplicateNameError,
    ProblemError,
    ReadBeforeWriteError,
    SizeError,
    UnknownReferenceError,
)
from roam.core.problem import Buffer, Home, Kind, Lane, Op, Problem, Tier
from tests.core.strategies import graph

X = Buffer("x", 8, Kind.INPUT, Home.USER)
A = Buffer("a", 8)
B = Buffer("b", 8)
MAKE_A = Op("make_a", reads=(0,), creates=(1,))


@pytest.mark.parametrize(
    ("buffers", "ops", "error", "named"),
    [
        pytest.param(
            [X, A],
            [Op("p", creates=(1,), after=(1,)), Op("q", after=(0,))],
            CycleError,
            ["p", "q"],
            id="cycle",
        ),
        pytest.param(
            [X, A], [Op("p", after=(1,)), MAKE_A], ProblemError, ["p", "make_a"], id="not in order"
        ),
        pytest.param([X, Buffer("a", -1)], [MAKE_A], SizeError, ["a"], id="negative size"),
        pytest.param([X, Buffer("a", 8, align=48)], [MAKE_A], SizeError, ["a"], id="align of 48"),
        pytest.param([X, Buffer("a", 8, align=0)], [MAKE_A], SizeError, ["a"], id="align of 0"),
        pytest.param([X], [Op("p", scratch=-1)], SizeError, ["p"], id="negative scratch"),
        pytest.param([X], [Op("p", cost=-1.0)], SizeError, ["p"], id="negative cost"),
        pytest.param([X], [Op("p", phase=-1)], SizeError, ["p"], id="negative phase"),
        pytest.param(
            [X, A],
            [Op("early", reads=(1,)), MAKE_A],
            ReadBeforeWriteError,
            ["early", "a"],
            id="read before made",
        ),
        pytest.param(
            [X, A],
            [Op("early", mutates=(1,)), MAKE_A],
            ReadBeforeWriteError,
            ["early", "a"],
            id="changed before made",
        ),
        pytest.param(
            [X, A],
            [MAKE_A, Op("again", creates=(1,))],
            ReadBeforeWriteError,
            ["again", "a"],
            id="made twice",
        ),
        pytest.param(
            [X], [Op("p", creates=(0,))], ReadBeforeWriteError, ["p", "x"], id="the user's made"
        ),
        pytest.param([X, A], [], ReadBeforeWriteError, ["a"], id="never made"),
        pytest.param([X, X], [], DuplicateNameError, ["x"], id="two buffers of a name"),
        pytest.param([X], [Op("p"), Op("p")], DuplicateNameError, ["p"], id="two ops of a name"),
        pytest.param([X], [Op("p", reads=(7,))], UnknownReferenceError, ["p"], id="no such buffer"),
        pytest.param([X], [Op("p", reads=(-1,))], UnknownReferenceError, ["p"], id="buffer -1"),
        pytest.param([X], [Op("p", after=(7,))], UnknownReferenceError, ["p"], id="no such op"),
        pytest.param([X], [Op("p", after=(0,))], UnknownReferenceError, ["p"], id="after itself"),
        pytest.param(
            [X, A, B],
            [MAKE_A, Op("p", creates=(2,), over=((2, 1),))],
            ProblemError,
            ["p", "a", "b"],
            id="over a buffer it does not read",
        ),
        pytest.param(
            [X, Buffer("a", 8, tier=Tier.HOST)], [MAKE_A], ProblemError, ["make_a", "a"], id="tier"
        ),
        pytest.param(
            [X], [Op("p", phase=1), Op("q")], ProblemError, ["q"], id="phases out of order"
        ),
    ],
)
def test_no_program(
    buffers: list[Buffer], ops: list[Op], error: type[ProblemError], named: list[str]
) -> None:
    with pytest.raises(ProblemError) as caught:
        Problem("wrong", tuple(buffers), tuple(ops))
    assert type(caught.value) is error
    for name in named:
        assert repr(name) in str(caught.value)


def test_readers_wait_for_the_maker_and_changes_for_the_readers() -> None:
    ops = (
        MAKE_A,
        Op("read", reads=(1,)),
        Op("read_too", reads=(1,)),
        Op("change", mutates=(1,)),
        Op("read_changed", reads=(1,)),
        Op("change_again", reads=(1,), mutates=(1,)),
        Op("unrelated", after=(1,)),
    )
    problem = Problem("mutation", (X, A), ops)
    assert [set(p) for p in problem.predecessors] == [set(), {0}, {0}, {0, 1, 2}, {3}, {3, 4}, {1}]
    assert problem.successors == [[1, 2, 3], [3, 6], [3], [4, 5], [5], [], []]


def test_what_a_problem_says_of_itself() -> None:
    step = graph("training_step")
    assert step.phases == [[0, 1, 2], [3, 4]]
    assert step.spans == [range(3), range(3, 5)]
    assert step.maker == [None, None, None, 0, 1, 2, 3, 3, 4]
    assert step.users == [[0, 4], [0], [1, 3], [1, 3], [2, 3], [], [], [4], []]
    assert step.persistent == 500 + 30 + 40
    assert [b.name for b in step.buffers if b.kept] == ["loss", "g2", "g1"]


def test_the_empty_problem() -> None:
    empty = Problem("empty", (), ())
    assert empty.phases == []
    assert empty.spans == []
    assert empty.persistent == 0


def test_the_fingerprint_is_of_the_graph_and_not_of_its_name() -> None:
    one = Problem("one", (X, A), (MAKE_A,))
    assert one.fingerprint == Problem("two", (X, A), (MAKE_A,)).fingerprint
    assert one.fingerprint != Problem("one", (X, B), (MAKE_A,)).fingerprint
    assert one.fingerprint == "872f86703e4cae65", "the same in every process"


def test_the_fingerprint_knows_tiers_and_lanes() -> None:
    """And leaves them out where they say nothing: see the one above."""
    there = Problem("p", (X, A), (replace(MAKE_A, lane=Lane.COPY_IN),))
    away = Problem("p", (X, replace(A, tier=Tier.FILE)), there.ops)
    once = Problem("p", (X, A), (replace(MAKE_A, once=True),))
    plain = Problem("p", (X, A), (MAKE_A,))
    assert len({p.fingerprint for p in (plain, there, away, once)}) == 4


def test_bytes_of_other_tiers_are_not_the_device_s() -> None:
    buffers = [Buffer("x", 8, home=home, tier=tier) for home in Home for tier in Tier]
    assert [b.transient for b in buffers] == [8, 0, 0, 8, 0, 0, 0, 0, 0]
    assert [b.persistent for b in buffers] == [0, 0, 0, 0, 0, 0, 8, 0, 0]


def test_networkx_has_the_precedences_and_the_bytes_between() -> None:
    nx_graph = graph("diamond").to_networkx()
    assert dict(nx_graph["left"]) == {"join": {"bytes": 100}}
    assert sorted(nx_graph.edges) == [
        ("left", "join"),
        ("right", "join"),
        ("split", "left"),
        ("split", "right"),
    ]


def test_another_order_keeps_who_waits_for_whom() -> None:
    ops = tuple(Op(name, after=after) for name, after in (("a", ()), ("b", ()), ("c", (0,))))
    moved = Problem("p", (), ops).in_order((1, 0, 2))
    assert [(op.name, op.after) for op in moved.ops] == [("b", ()), ("a", ()), ("c", (1,))]
