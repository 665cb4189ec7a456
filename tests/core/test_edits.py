"""Copies of ops, smaller stand-ins, and what all edits have in common."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roam.core.bounds import must_live
from roam.core.check import check
from roam.core.edits import AnyEdit, Load, Offload, Recompute, Shrink, Split, apply
from roam.core.errors import EditError
from roam.core.lifetime import live_curve, live_peak
from roam.core.plan import Plan
from roam.core.problem import Buffer, Home, Kind, Lane, Op, Problem, Tier
from roam.core.text import parse_problem, problem_to_text
from tests.core.refusals import refused
from tests.core.strategies import (
    dense_problems,
    edited_plans,
    graph,
    orders,
    problems,
    stacked_plan,
)
from tests.core.symbolic import assert_same


def chain(n: int) -> Problem:
    """f1 .. fn make a1 .. an of 10 bytes, each of the one before; then bn .. b1 read them all.

    A backward op also reads what the one before it made, of 1 byte.
    """
    buffers = [Buffer("x", 1000, Kind.INPUT, Home.USER)]
    buffers += [Buffer(f"a{i}", 10, Kind.SAVED) for i in range(1, n + 1)]
    buffers += [Buffer(f"g{i}", 1) for i in range(n, 0, -1)]
    ops = [Op(f"f{i}", reads=(i - 1,), creates=(i,)) for i in range(1, n + 1)]
    for i in range(n, 0, -1):
        made = 2 * n + 1 - i
        reads = (i,) if i == n else (i, made - 1)
        ops.append(Op(f"b{i}", reads=reads, creates=(made,), phase=1))
    return Problem("chain", tuple(buffers), tuple(ops))


def peak(problem: Problem) -> int:
    return live_peak(problem, range(len(problem.ops)))


def recomputed(*names: str) -> list[AnyEdit]:
    """A copy of each op f1, f2, ..., from the last to the first, for its backward op and the copy
    of the next one."""
    edits: list[AnyEdit] = []
    for name, above in zip(reversed(names), ("", *reversed(names)), strict=False):
        readers = (f"b{name[1:]}", f"{above}~1") if above else (f"b{name[1:]}",)
        edits.append(Recompute(name, readers))
    return edits


def test_no_edits_are_no_change() -> None:
    problem = chain(3)
    assert apply(problem, []) is problem


def test_a_chain_keeps_two_of_eight() -> None:
    """Without copies all eight and g8 are there at b8. With copies of 5, 6 and 7 it is a4, the
    three of them, g8 and g7 at b7; with copies of 1, 2 and 3 likewise three and a4 at b4."""
    problem = chain(8)
    assert peak(problem) == 8 * 10 + 1
    edited = apply(problem, recomputed("f5", "f6", "f7") + recomputed("f1", "f2", "f3"))
    assert peak(edited) == 10 + 3 * 10 + 2
    assert must_live(edited) <= 42
    kinds = {b.name: b.kind for b in edited.buffers if b.name.startswith("a")}
    assert [name for name, kind in kinds.items() if kind is Kind.SAVED] == ["a4", "a8"]
    assert [op.name for op in edited.ops][8:13] == ["b8", "f5~1", "f6~1", "f7~1", "b7"]


def test_a_chain_of_its_own_for_every_reader() -> None:
    """Several copies of one op: nothing but a4 is saved. At f2~1 are a1, a2 and g4."""
    problem = chain(4)
    edits = recomputed("f1", "f2", "f3")[:1]
    edits += [Recompute("f2", ("f3~1",)), Recompute("f1", ("f2~1",))]
    edits += [Recompute("f2", ("b2",)), Recompute("f1", ("f2~2",)), Recompute("f1", ("b1",))]
    assert peak(problem) == 41
    edited = apply(problem, edits)
    assert peak(edited) == 21
    assert [op.name for op in edited.ops][4:] == [
        "b4", "f1~1", "f2~1", "f3~1", "b3", "f1~2", "f2~2", "b2", "f1~3", "b1",
    ]  # fmt: skip
    assert_same(problem, edited, range(len(edited.ops)))


def test_a_copy_of_a_copy_reads_what_that_one_reads() -> None:
    edits = [Recompute("f2", ("b2",)), Recompute("f1", ("f2~1",)), Recompute("f2~1", ("b3",))]
    message = refused(chain(3), edits, "b3", "f2~1")
    assert "reads nothing" in message
    problem = parse_problem(
        "problem p\nbuffer x size=8 home=user\nbuffer a size=8\nbuffer b size=8\n"
        "op f reads=x creates=a\nop g reads=a creates=b\nop u reads=b\nop v reads=b\n"
    )
    edited = apply(
        problem, [Recompute("g", ("u",)), Recompute("f", ("g~1",)), Recompute("g~1", ("v",))]
    )
    assert problem_to_text(edited).split("\n")[-8:-1] == [
        "op f reads=x creates=a",
        "op g reads=a creates=b",
        "op f~1 reads=x creates=a~1",
        "op g~1 reads=a~1 creates=b~1",
        "op u reads=b~1",
        "op g~2 reads=a~1 creates=b~2",
        "op v reads=b~2",
    ]


def test_names_that_are_taken() -> None:
    problem = chain(2)
    buffers = (*problem.buffers, Buffer("a1~1", 0, home=Home.USER))
    taken = Problem("taken", buffers, problem.ops)
    assert apply(taken, [Recompute("f1", ("b1",))]).buffers[-1].name == "a1~2"


def test_a_copy_makes_all_results_and_may_take_the_place_of_its_operand() -> None:
    problem = parse_problem(
        "problem p\nbuffer x size=8 home=user\nbuffer h size=8\nbuffer a size=8\n"
        "buffer stats size=4 kind=output\nbuffer y size=8\n"
        "op load reads=x creates=h scratch=3 cost=0.5\n"
        "op norm reads=h creates=a,stats over=a<h\nop use reads=a creates=y over=y<a\n"
    )
    edited = apply(problem, [Recompute("norm", ("use",)), Recompute("load", ("norm~1",))])
    assert problem_to_text(edited).split("\n")[-6:-1] == [
        "op load reads=x creates=h scratch=3 cost=0.5",
        "op norm reads=h creates=a,stats over=a<h",
        "op load~1 reads=x creates=h~1 scratch=3 cost=0.5",
        "op norm~1 reads=h~1 creates=a~1,stats~1 over=a~1<h~1",
        "op use reads=a~1 creates=y over=y<a~1",
    ]
    assert not edited.buffers[-2].kept, "the copy of an output is nobody's"


def test_copies_in_the_backward_wait_for_its_tangents() -> None:
    problem = graph("mlp_step")
    edited = apply(problem, [Recompute("relu", ("mm_1",)), Recompute("addmm", ("relu~1",))])
    ops = {op.name: op for op in edited.ops}
    (tangents,) = ops["relu~1"].after
    assert edited.ops[tangents].name == "tangents"
    assert ops["addmm~1"].after == ops["relu~1"].after
    assert ops["addmm~1"].phase == 1


CHANGED = parse_problem(
    "problem p\nbuffer w size=8 kind=parameter home=user\nbuffer a size=8\nbuffer b size=8\n"
    "op make reads=w creates=a\nop early reads=a creates=b\nop update reads=b mutates=w\n"
    "op late reads=a\nop change mutates=a\nop last reads=a\n"
)


@pytest.mark.parametrize(
    ("edits", "named", "why"),
    [
        ([Recompute("make", ("late",))], ["make~1", "w"], "1 changes"),
        ([Recompute("make", ("last",))], ["make~1", "w"], "1 changes"),
        ([Recompute("make", ("last",), before="early")], ["last", "a~1"], "after 0 changes"),
        ([Recompute("update", ("late",))], ["update", "w"], "cannot be copied"),
        ([Recompute("nothing", ("late",))], ["nothing"], "does not exist"),
        ([Recompute("make", ("nobody",))], ["nobody"], "does not exist"),
        ([Recompute("make", ("late",), before="no op")], ["no op"], "does not exist"),
        ([Recompute("make", ("update",))], ["update", "make"], "reads nothing"),
        ([Recompute("make", ())], ["make"], "no readers"),
        ([Recompute("make", ("early",), before="update")], ["early", "a~1"], "before any op makes"),
        ([Recompute("make~1", ("early",)), Recompute("make", ("early",))], ["make~1"], "not exist"),
        ([Shrink("a", 8, "int8", ("late",))], ["a"], "from 8 to 8 bytes"),
        ([Shrink("a", -1, "int8", ("late",))], ["a"], "from 8 to -1 bytes"),
        ([Shrink("c", 1, "int8", ("late",))], ["c"], "does not exist"),
        ([Shrink("a", 1, "int8", ())], ["a"], "no op"),
        ([Shrink("a", 1, "int8", ("late", "last"))], ["late", "last", "a"], "in between"),
        ([Shrink("a", 1, "int8", ("update",))], ["update", "a"], "does not use"),
    ],
)
def test_what_is_no_edit(edits: list[AnyEdit], named: list[str], why: str) -> None:
    assert why in refused(CHANGED, edits, *named)


def test_a_copy_before_the_change_of_what_it_reads() -> None:
    edited = apply(CHANGED, [Recompute("make", ("late",), before="update")])
    for order in ((0, 1, 2, 3, 4, 5, 6), (0, 2, 1, 3, 4, 5, 6)):
        assert_same(CHANGED, edited, order)
    assert 2 in edited.predecessors[3], "the update waits for the copy"


@pytest.mark.parametrize(
    "op",
    [
        Op("f", (0,), (1,), once=True),
        Op("f", (0,), (1,), lane=Lane.COMMUNICATION),
        Op("f", (0,), (1,), mutates=(2,)),
    ],
)
def test_what_is_never_copied(op: Op) -> None:
    buffers = (Buffer("x", 8, home=Home.USER), Buffer("a", 8), Buffer("s", 8, home=Home.USER))
    problem = Problem("p", buffers, (op, Op("use", (1,))))
    assert "cannot be copied" in refused(problem, [Recompute("f", ("use",))], "f")


def test_readers_of_a_smaller_buffer() -> None:
    """At b2 are a1, a2 and g2; a1 of 3 bytes is there in place of a1."""
    problem = chain(2)
    edited = apply(problem, [Shrink("a1", 3, "sampled", ("b1",))])
    assert peak(problem) == 21
    assert live_curve(edited, range(5), {}) == [10, 13, 23, 14, 5]
    assert [op.name for op in edited.ops] == ["f1", "a1~sampled~1", "f2", "b2", "b1"]
    assert edited.buffers[-1].kind is Kind.SAVED
    assert edited.ops[1].once, "it may draw random numbers"


def test_readers_of_what_a_smaller_buffer_was_restored_to() -> None:
    shrink = Shrink("a1", 3, "int8", ("b1",), True, 0.5, 0.25)
    edited = apply(chain(2), [shrink])
    assert live_curve(edited, range(6), {}) == [10, 13, 23, 14, 14, 12]
    assert [(op.name, op.cost) for op in edited.ops if op.cost] == [
        ("a1~int8~1", 0.5),
        ("a1~int8~1.whole", 0.25),
    ]
    again = apply(chain(2), [shrink, Recompute("a1~int8~1.whole", ("b1",))])
    assert [op.name for op in again.ops][-2:] == ["a1~int8~1.whole~1", "b1"]


@given(edited_plans())
def test_edits_change_no_result_whatever_the_order(drawn: tuple[Problem, Plan]) -> None:
    problem, plan = drawn
    assert_same(problem, plan.edited(problem), plan.order)
    check(problem, plan)


@given(dense_problems(), st.data())
def test_where_nothing_is_changed_every_op_can_be_copied(
    problem: Problem, data: st.DataObject
) -> None:
    read = [i for i, op in enumerate(problem.ops) if any(problem.users[b] for b in op.creates)]
    i = data.draw(st.sampled_from(read)) if read else None
    if i is not None:
        users = sorted({u for b in problem.ops[i].creates for u in problem.users[b]})
        readers = data.draw(st.lists(st.sampled_from(users), min_size=1, unique=True))
        edit = Recompute(problem.ops[i].name, tuple(problem.ops[u].name for u in readers))
        edited = apply(problem, [edit])
        assert_same(problem, edited, data.draw(orders(edited)))


@given(st.one_of(problems(), dense_problems()), st.data())
def test_whatever_the_edits_say_they_are_applied_or_refused(
    problem: Problem, data: st.DataObject
) -> None:
    ops = [op.name for op in problem.ops]
    names = [*ops, *(b.name for b in problem.buffers), "op0~1", "op1#1", "b1~1", "b1~file~1"]
    name, one_op, size = st.sampled_from(names), st.sampled_from(ops), st.integers(-1, 70)
    some = st.lists(name, max_size=3).map(tuple)
    place = st.one_of(st.just(""), one_op)
    load = st.builds(Load, some, place, place)
    edit = st.one_of(
        st.builds(Recompute, name, some, place),
        st.builds(Offload, name, st.sampled_from(Tier), st.lists(load, max_size=2).map(tuple)),
        st.builds(Shrink, name, size, st.just("int8"), some, st.booleans(), st.just(1.0)),
        st.builds(Split, some, st.lists(size, max_size=3).map(tuple), some, some),
    )
    edits = data.draw(st.lists(edit, min_size=1, max_size=3))
    try:
        edited = apply(problem, edits)
    except EditError:
        return
    check(problem, stacked_plan(problem, tuple(range(len(edited.ops))), edits))


@given(edited_plans(), st.data())
def test_edits_can_be_applied_in_parts(drawn: tuple[Problem, Plan], data: st.DataObject) -> None:
    """The edited problem is a problem like any other: it can be planned under its own name."""
    problem, plan = drawn
    edited = plan.edited(problem)
    assert apply(problem, plan.edits) == edited
    own = stacked_plan(edited, data.draw(orders(edited)))
    check(edited, own)
    check(problem, own.of_unedited(problem, plan.edits))
