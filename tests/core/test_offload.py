"""Buffers that go to another tier and come back."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from roam.core.bounds import must_live
from roam.core.check import check
from roam.core.edits import AnyEdit, Load, Offload, Recompute, apply
from roam.core.errors import EditError, OffsetError, OverlapError, PlanError, ProblemError
from roam.core.lifetime import live_curve
from roam.core.plan import Arena, Block, Plan
from roam.core.problem import Buffer, Home, Kind, Lane, Op, Problem, Tier
from roam.core.text import parse_problem, problem_to_text
from tests.core.refusals import refused
from tests.core.strategies import stacked_plan
from tests.core.symbolic import assert_same

STEP = parse_problem("""
problem step
buffer x size=1000 kind=input home=user
buffer w size=40 kind=parameter home=user
buffer m size=80 kind=state home=user
buffer h size=64 kind=saved
buffer a size=64 kind=saved
buffer big size=256
buffer loss size=4 kind=output
buffer ga size=64
buffer gw size=40 kind=released
op up reads=x,w creates=h
op relu reads=h creates=a
op wide reads=a creates=big
op mean reads=big creates=loss
op relu_backward reads=h,a creates=ga phase=1
op up_backward reads=x,ga creates=gw phase=1
op fold reads=gw mutates=m,w phase=1
""")
H = Offload("h", Tier.FILE, (Load(("relu_backward",)),))


def written(edits: list[AnyEdit]) -> list[str]:
    """The ops of the edited step, as text without what they leave at its default."""
    text = problem_to_text(apply(STEP, edits))
    return [line[3:] for line in text.split("\n") if line.startswith("op ")]


def test_there_after_the_last_use_and_back_before_the_next() -> None:
    assert written([H])[1:7] == [
        "h~file~1.start reads=h creates=h~file~1 lane=copy_out",
        "relu reads=h creates=a",
        "h~file~1.wait reads=h mutates=h~file~1 lane=copy_out",
        "wide reads=a creates=big",
        "mean reads=big creates=loss",
        "h~1.start reads=h~file~1 creates=h~1 phase=1 lane=copy_in",
    ]
    edited = apply(STEP, [H])
    assert_same(STEP, edited, range(len(edited.ops)))
    buffers = {b.name: b for b in edited.buffers}
    assert buffers["h"].kind is Kind.TEMPORARY
    assert (buffers["h~file~1"].tier, buffers["h~file~1"].size) == (Tier.FILE, 64)
    assert buffers["h~1"].tier is Tier.DEVICE


def test_the_bytes_are_gone_while_they_are_away() -> None:
    """At `wide` are h, a and big; without h the 64 bytes are free."""
    assert live_curve(STEP, range(7), {}) == [64, 128, 384, 388, 196, 108, 44]
    edited = apply(STEP, [H])
    curve = live_curve(edited, range(11), {})
    assert curve == [64, 64, 128, 128, 320, 324, 132, 132, 196, 108, 44]
    assert must_live(edited) == 324


def test_where_the_edit_says() -> None:
    load = Load(("relu_backward",), start="mean", wait="relu_backward")
    found = written([Offload("h", Tier.HOST, (load,), start="relu", wait="wide")])
    assert [line.split()[0] for line in found] == [
        "up", "h~host~1.start", "relu", "h~host~1.wait", "wide", "h~1.start", "mean", "h~1.wait",
        "relu_backward", "up_backward", "fold",
    ]  # fmt: skip


def test_written_once_and_loaded_twice() -> None:
    edit = Offload("a", Tier.FILE, (Load(("wide",)), Load(("relu_backward",))))
    edited = apply(STEP, [edit])
    names = [op.name for op in edited.ops]
    assert [n for n in names if "." in n] == [
        "a~file~1.start", "a~file~1.wait", "a~1.start", "a~1.wait", "a~2.start", "a~2.wait",
    ]  # fmt: skip
    assert_same(STEP, edited, range(len(names)))


def test_a_copy_may_read_what_was_loaded() -> None:
    offload = Offload("h", Tier.FILE, (Load(("relu~1", "relu_backward")),))
    edited = apply(STEP, [Recompute("relu", ("relu_backward",)), offload])
    (copy,) = (op for op in edited.ops if op.name == "relu~1")
    assert [edited.buffers[b].name for b in copy.reads] == ["h~1"]
    assert_same(STEP, edited, range(len(edited.ops)))


def test_states_stay_in_the_tier_and_are_written_back() -> None:
    edited = apply(STEP, [Offload("m", Tier.FILE, (Load(("fold",), start="up_backward"),))])
    assert "buffer m size=80 kind=state home=user tier=file\n" in problem_to_text(edited)
    assert [op.name for op in edited.ops][5:] == [
        "m~1.start", "up_backward", "m~1.wait", "fold", "m~back~1.start", "m~back~1.wait",
    ]  # fmt: skip
    assert STEP.persistent == 1000 + 40 + 80
    assert edited.persistent == 1000 + 40
    assert_same(STEP, edited, range(len(edited.ops)))


def test_what_is_only_read_is_not_written_back() -> None:
    found = written([Offload("x", Tier.HOST, (Load(("up",)), Load(("up_backward",))))])
    assert not [line for line in found if "copy_out" in line]


@pytest.mark.parametrize(
    ("edit", "named", "why"),
    [
        (Offload("h", Tier.DEVICE, H.loads), ["h"], "from device to device"),
        (Offload("h", Tier.FILE, ()), ["h"], "no reader"),
        (Offload("h", Tier.FILE, (Load(()),)), ["h"], "no reader"),
        (Offload("nothing", Tier.FILE, H.loads), ["nothing"], "does not exist"),
        (Offload("h", Tier.FILE, (Load(("mean",)),)), ["mean", "h"], "does not use"),
        (Offload("h", Tier.FILE, H.loads, wait="up_backward"), ["h~1.start", "h~file~1"], "transf"),
        (
            Offload("h", Tier.FILE, (Load(("relu_backward",), wait="fold"),)),
            ["relu_backward", "h~1"],
            "before any op makes it",
        ),
        (
            Offload("h", Tier.FILE, (Load(("relu_backward",), "wide", "fold"),)),
            ["relu_backward", "h~1"],
            "a transfer of",
        ),
        (Offload("h", Tier.FILE, H.loads, start="up"), ["h~file~1.start", "h"], "before any op"),
        (Offload("x", Tier.FILE, (Load(("up",)),)), ["up_backward", "x"], "which lies in the tier"),
    ],
)
def test_what_is_no_transfer(edit: Offload, named: list[str], why: str) -> None:
    assert why in refused(STEP, [edit], *named)


def test_who_changes_what_another_reads_from_the_tier() -> None:
    """w is read by `up` and changed by `fold`: a load for each, or the state would be lost."""
    apply(STEP, [Offload("w", Tier.FILE, (Load(("up",)), Load(("fold",))))])
    refused(STEP, [Offload("w", Tier.FILE, (Load(("up",)),))], "fold", "w")


def test_a_change_between_the_start_and_the_wait() -> None:
    text = (
        "problem p\nbuffer h size=8\nop make creates=h\nop change mutates=h\nop use reads=h\n"
        "op end reads=h\n"
    )
    problem = parse_problem(text)
    loads = (Load(("end",)),)
    with pytest.raises(EditError, match=r"'h~file~1\.start' would find .* after 0 changes in 'h'"):
        apply(problem, [Offload("h", Tier.FILE, loads, start="change")])
    edited = apply(problem, [Offload("h", Tier.FILE, loads)])
    assert_same(problem, edited, range(len(edited.ops)))


def test_ops_compute_with_what_is_on_the_device() -> None:
    buffers = (Buffer("h", 8, tier=Tier.FILE),)
    with pytest.raises(ProblemError, match=r"'f' of the lane 'compute' uses 'h'.* tier 'file'"):
        Problem("p", buffers, (Op("f", creates=(0,)),))
    Problem("p", buffers, (Op("f", creates=(0,), lane=Lane.COPY_OUT),))


def planned() -> Plan:
    return stacked_plan(STEP, tuple(range(11)), [H])


def test_every_tier_has_an_arena() -> None:
    plan = planned()
    check(STEP, plan)
    slot = plan.edited(STEP).buffers.index(
        next(b for b in plan.edited(STEP).buffers if b.name == "h~file~1")
    )
    assert plan.elsewhere == {Tier.FILE: Arena({slot: 0}, (Block(0, 64, 0, 11),))}
    assert list(plan.arenas) == [Tier.DEVICE, Tier.FILE]
    assert plan.arenas[Tier.DEVICE].extent == plan.arena > 0
    assert max(plan.committed(STEP)) == plan.peak


def file_arena(**changes: object) -> dict[Tier, Arena]:
    return {Tier.FILE: replace(planned().elsewhere[Tier.FILE], **changes)}


SLOT = 9  # h~file~1


@pytest.mark.parametrize(
    ("elsewhere", "error", "message"),
    [
        ({}, OffsetError, "'h~file~1' lies in the tier file, without an address"),
        ({Tier.HOST: Arena({SLOT: 0})}, OffsetError, "'h~file~1' lies in the tier file, without"),
        (file_arena(offsets={SLOT: 32}), OffsetError, "'h~file~1' is at 32, its alignment"),
        (file_arena(offsets={SLOT: 64}), OffsetError, "'h~file~1' is at .64, 128., and|'h~file~1'"),
        (file_arena(offsets={SLOT: 0, 3: 0}), OffsetError, "'h' of the tier device is placed in f"),
        (file_arena(blocks=(Block(0, 64, 0, 4),)), OffsetError, "no block holds it"),
        (file_arena(blocks=(Block(0, 64, 0, 12),)), OffsetError, "block 0 of file"),
        (file_arena(blocks=2 * (Block(0, 64, 0, 11),)), OverlapError, "block 0 of file"),
        (file_arena() | {Tier.DEVICE: Arena()}, OffsetError, "second arena for the device"),
    ],
)
def test_what_is_wrong_with_the_arena_of_a_tier(
    elsewhere: dict[Tier, Arena], error: type[PlanError], message: str
) -> None:
    with pytest.raises(error, match=message):
        check(STEP, replace(planned(), elsewhere=elsewhere))


def test_two_buffers_in_one_slot() -> None:
    """h and a are both away from `wide` on."""
    edits = [H, Offload("a", Tier.FILE, (Load(("relu_backward",)),))]
    plan = stacked_plan(STEP, tuple(range(15)), edits)
    check(STEP, plan)
    arena = plan.elsewhere[Tier.FILE]
    one = replace(arena, offsets=dict.fromkeys(arena.offsets, 0))
    with pytest.raises(OverlapError, match=r"'h~file~1' at .*'a~file~1'"):
        check(STEP, replace(plan, elsewhere={Tier.FILE: one}))


def test_a_user_buffer_of_a_tier_is_not_on_the_device() -> None:
    plan = stacked_plan(STEP, tuple(range(11)), [Offload("m", Tier.FILE, (Load(("fold",)),))])
    check(STEP, plan)
    assert plan.persistent == 1040
    assert STEP.buffers[2].home is Home.USER
