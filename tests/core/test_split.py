"""Groups of ops that run block by block."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roam.core.check import check
from roam.core.edits import AnyEdit, Recompute, Split, apply
from roam.core.lifetime import live_peak
from roam.core.problem import Buffer, Home, Kind, Op, Problem
from roam.core.text import parse_problem, problem_to_text
from tests.core.refusals import refused
from tests.core.strategies import stacked_plan

Term = Any  # a name, or what an op makes of terms; of a buffer in rows, a dict of them

MLP = parse_problem("""
problem mlp
buffer x size=80 kind=input home=user
buffer w size=40 kind=parameter home=user
buffer h size=400
buffer a size=400
buffer y size=80
buffer total size=4 kind=output
op up reads=x,w creates=h scratch=10 cost=1.0
op gelu reads=h creates=a over=a<h
op other reads=x
op down reads=a,w creates=y
op sum reads=y creates=total
""")
GROUP = ("up", "gelu", "down")


def test_what_is_between_exists_in_blocks_only() -> None:
    """Whole: h, then a over it, then a and y: 480. In blocks of 1, 1 and 2 rows: 200 of a and y."""
    edited = apply(MLP, [Split(GROUP, (1, 1, 2), joined=("y",))])
    ops = [line for line in problem_to_text(edited).split("\n") if line.startswith("op")]
    assert ops == [
        "op up#1 reads=x,w creates=h#1 scratch=3 cost=0.25",
        "op gelu#1 reads=h#1 creates=a#1 over=a#1<h#1",
        "op down#1 reads=a#1,w creates=y",
        "op up#2 reads=x,w creates=h#2 scratch=3 cost=0.25",
        "op gelu#2 reads=h#2 creates=a#2 over=a#2<h#2",
        "op down#2 reads=a#2,w mutates=y",
        "op up#3 reads=x,w creates=h#3 scratch=5 cost=0.5",
        "op gelu#3 reads=h#3 creates=a#3 over=a#3<h#3",
        "op down#3 reads=a#3,w mutates=y",
        "op other reads=x",
        "op sum reads=y creates=total",
    ]
    sizes = {b.name: b.size for b in edited.buffers}
    assert [sizes.get(name) for name in ("h", "h#1", "a#2", "a#3", "y")] == [
        None,
        100,
        100,
        200,
        80,
    ]
    assert live_peak(MLP, range(5)) == 480
    assert live_peak(edited, range(11)) == 80 + 200 + 5
    check(MLP, stacked_plan(MLP, tuple(range(11)), [Split(GROUP, (1, 1, 2), joined=("y",))]))


FOLDED = parse_problem("""
problem folded
buffer x size=40 kind=input home=user
buffer w size=40 kind=parameter home=user
buffer m size=40 kind=state home=user
buffer g size=40
buffer dw size=400 kind=released
op loss reads=x creates=g
op product reads=x,g creates=dw
op fold reads=dw mutates=w,m
op next reads=w
""")


def test_a_fold_block_by_block() -> None:
    edited = apply(FOLDED, [Split(("product", "fold"), (5, 5))])
    assert [op.name for op in edited.ops] == [
        "loss", "product#1", "fold#1", "product#2", "fold#2", "next",
    ]  # fmt: skip
    assert live_peak(FOLDED, range(4)) == 440
    assert live_peak(edited, range(6)) == 240
    assert {b.kind for b in edited.buffers if "#" in b.name} == {Kind.RELEASED}
    assert 4 in edited.predecessors[5], "who reads w waits for the last block"


def test_the_group_moves_behind_what_it_waits_for() -> None:
    problem = parse_problem(
        "problem p\nbuffer x size=8 home=user\nbuffer a size=8\nbuffer b size=8\nbuffer y size=8\n"
        "op first reads=x creates=a\nop user reads=x creates=b\nop last reads=a,b creates=y\n"
        "op late reads=y after=first\n"
    )
    edited = apply(problem, [Split(("first", "last"), (1, 1), joined=("y",))])
    assert [op.name for op in edited.ops] == ["user", "first#1", "last#1", "first#2", "last#2",
                                              "late"]  # fmt: skip
    assert edited.ops[5].after == (1, 3), "all blocks stand for the op"


def test_copies_are_split_with_the_group() -> None:
    edits: list[AnyEdit] = [
        Recompute("up", ("down",), before="down"),
        Recompute("gelu", ("down",), before="down"),
    ]
    message = refused(MLP, edits, "down", "up")
    assert "reads nothing" in message
    edits = [Recompute("gelu", ("down",)), Recompute("up", ("gelu~1",))]
    edited = apply(MLP, [*edits, Split(("up~1", "gelu~1", "down"), (2, 2), joined=("y",))])
    assert [op.name for op in edited.ops] == [
        "up", "gelu", "other", "up~1#1", "gelu~1#1", "down#1", "up~1#2", "gelu~1#2", "down#2",
        "sum",
    ]  # fmt: skip


TWO_PHASES = parse_problem("""
problem two
buffer x size=8 home=user
buffer h size=8 kind=saved
buffer loss size=4 kind=output
buffer g size=8
op f reads=x creates=h
op mean reads=h creates=loss
op back reads=h creates=g phase=1
op use reads=g phase=1
""")


def test_forward_and_backward_of_a_block_together() -> None:
    edit = Split(("f", "mean", "back"), (1, 1), joined=("g",), summed=("loss",))
    edited = apply(TWO_PHASES, [edit])
    assert [(op.name, op.phase) for op in edited.ops] == [
        ("f#1", 0), ("mean#1", 0), ("back#1", 0), ("f#2", 0), ("mean#2", 0), ("back#2", 0),
        ("use", 1),
    ]  # fmt: skip
    kinds = {b.name: b.kind for b in edited.buffers}
    assert kinds["h#1"] is Kind.TEMPORARY
    assert kinds["g"] is Kind.SAVED


ONCE = Problem(
    "once", (Buffer("a", 8),), (Op("draw", creates=(0,), once=True), Op("use", reads=(0,)))
)


@pytest.mark.parametrize(
    ("problem", "edit", "named", "why"),
    [
        (MLP, Split(GROUP, (4,), joined=("y",)), [], "two blocks"),
        (MLP, Split(GROUP, (4, 0), joined=("y",)), [], "two blocks"),
        (MLP, Split((), (1, 1)), [], "without ops"),
        (MLP, Split(("nothing",), (1, 1)), ["nothing"], "does not exist"),
        (MLP, Split(GROUP, (1, 1), joined=("z",)), ["z"], "does not exist"),
        (MLP, Split(GROUP, (1, 1), joined=("total",)), ["total"], "does not make"),
        (MLP, Split(GROUP, (1, 1)), ["y", "sum"], "needs it whole"),
        (MLP, Split(("sum",), (1, 1)), ["total"], "the user needs it whole"),
        (MLP, Split(GROUP, (1, 2), joined=("y",)), ["h"], "no multiple of 3 rows"),
        (MLP, Split(("up", "down"), (1, 1), joined=("h", "y")), ["gelu"], "comes between"),
        (MLP, Split(GROUP, (1, 1), joined=("y",), summed=("a",)), ["down", "a"], "before all"),
        (FOLDED, Split(("loss", "fold"), (1, 1), joined=("g",)), ["product"], "comes between"),
        (
            FOLDED,
            Split(("product", "fold", "next"), (1, 1)),
            ["fold", "w", "next"],
            "block by block",
        ),
        (ONCE, Split(("draw", "use"), (1, 1)), ["draw"], "cannot be split"),
    ],
)
def test_what_cannot_be_split(problem: Problem, edit: Split, named: list[str], why: str) -> None:
    assert why in refused(problem, [edit], *named)


def test_a_part_is_not_what_a_copy_stands_for() -> None:
    edits: list[AnyEdit] = [Split(GROUP, (2, 2), joined=("y",)), Recompute("down#1", ("sum",))]
    refused(MLP, edits, "sum", "y~1")


def computed(problem: Problem, rows: dict[str, range]) -> dict[str, Term]:
    """What is in every buffer at the end; of a group's buffers, row by row.

    rows: the rows that each op of the group works on.
    """
    memory: dict[str, Term] = {b.name: b.name for b in problem.buffers if b.home is Home.USER}
    for op in problem.ops:
        reads = [problem.buffers[b].name for b in op.reads]
        stem = op.name.partition("#")[0]
        for b in (*op.creates, *op.mutates):
            name = problem.buffers[b].name
            if op.name not in rows:
                memory[name] = (stem, tuple(memory[r] for r in reads))
                continue
            values = {
                r: (stem, r, tuple(_row(memory[name], r) for name in reads)) for r in rows[op.name]
            }
            memory[name] = {**memory.get(name, {}), **values}
    return memory


def _row(value: Term, r: int) -> Term:
    return value[r] if isinstance(value, dict) else value


@given(st.integers(1, 4), st.lists(st.integers(1, 3), min_size=2, max_size=4), st.data())
def test_blocks_compute_what_the_group_computes(
    length: int, rows: list[int], data: st.DataObject
) -> None:
    total = sum(rows)
    buffers = [Buffer("x", 8, home=Home.USER), Buffer("pre", 8)]
    ops = [Op("before", reads=(0,), creates=(1,))]
    for i in range(length):
        there = range(1, len(buffers))
        reads = data.draw(st.lists(st.sampled_from(there), min_size=1, max_size=2, unique=True))
        buffers.append(Buffer(f"b{i}", 12 * total))
        ops.append(Op(f"op{i}", reads=tuple(reads), creates=(len(buffers) - 1,)))
    used = data.draw(st.lists(st.sampled_from(range(2, len(buffers))), min_size=1, unique=True))
    buffers.append(Buffer("end", 8, Kind.OUTPUT))
    ops.append(Op("after", reads=tuple(used), creates=(len(buffers) - 1,)))
    problem = Problem("group", tuple(buffers), tuple(ops))
    group = tuple(op.name for op in ops[1:-1])

    edited = apply(problem, [Split(group, tuple(rows), tuple(buffers[b].name for b in used))])
    starts = [sum(rows[:k]) for k in range(len(rows))]
    parts = {
        f"{name}#{k + 1}": range(start, start + rows[k])
        for name in group
        for k, start in enumerate(starts)
    }
    whole = computed(problem, dict.fromkeys(group, range(total)))
    assert computed(edited, parts)["end"] == whole["end"]
