"""Is a plan valid, and are its numbers true? Written apart from all that makes plans.

It recomputes everything from the problem and the order alone, so that a mistake in a solver, in
a layout or in `lifetime.py` is caught rather than repeated. Every plan goes through it.

A buffer that is written over a dying one takes its place at the op where that happens. There the
dying one no longer counts: it is `counted` one op less than it is alive.

    time        0   1   2   3   4
    a alive     [-----------)             op 2 reads a for the last time and writes b over it
    a counted   [-------)
    b           ........[---------)

A plan with edits is checked against the unedited problem: the edits are applied again, which
refuses those that would change what the step computes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import isfinite

from roam.core.errors import (
    FigureError,
    OffsetError,
    OrderError,
    ReuseError,
)
from roam.core.plan import Arena, Plan
from roam.core.problem import LARGEST, BufferId, Home, Problem, Tier
from roam.core.proof import check_proof
from roam.core.rectangles import Rectangle, check_apart, find_around


@dataclass
class _Life:
    """Alive in [birth, death), and counted in [birth, counted). Op indices of the order."""

    birth: int
    death: int
    counted: int


Lives = dict[BufferId, _Life]  # of all buffers that the step makes


def check(problem: Problem, plan: Plan) -> None:
    """Returns if `plan` is a valid plan of `problem` with true numbers, and raises otherwise.

    Takes O((n + e) log n) for n ops and buffers and e precedences, beside what the edits take.

    Args:
        problem: the unedited problem.
        plan: its plan.

    Raises:
        GraphMismatchError, EditError, OrderError, ReuseError, OffsetError, OverlapError,
        FigureError: in this order of looking, naming the ops, buffers or figures that clash.
    """
    plan.check_names(problem)
    edited = plan.edited(problem)
    _check_order(edited, plan)
    lives = _replay(edited, plan)
    _check_reuse(edited, plan, lives)
    _check_placed(edited, plan, lives)
    for tier, arena in plan.arenas.items():
        _check_offsets(edited, plan, tier, arena)
    for tier, arena in plan.arenas.items():
        _check_blocks(edited, plan, tier, arena, lives)
    for arena in plan.arenas.values():
        _check_overlaps(edited, arena, lives)
    _check_figures(edited, plan, lives)


def _check_order(problem: Problem, plan: Plan) -> None:
    ops = problem.ops
    time: dict[int, int] = {}
    for t, i in enumerate(plan.order):
        if not 0 <= i < len(ops):
            raise OrderError(f"the order runs op {i}, and there are {len(ops)} ops")
        if i in time:
            raise OrderError(f"the order runs op {ops[i].name!r} twice")
        time[i] = t
    for i, op in enumerate(ops):
        if i not in time:
            raise OrderError(f"the order misses op {op.name!r}")
    for i, before in enumerate(problem.predecessors):
        for p in before:
            if time[p] > time[i]:
                raise OrderError(f"op {ops[i].name!r} runs before {ops[p].name!r}, which it needs")
    for p, i in pairwise(plan.order):
        if ops[p].phase > ops[i].phase:
            raise OrderError(
                f"op {ops[i].name!r} of phase {ops[i].phase} runs after "
                f"{ops[p].name!r} of phase {ops[p].phase}"
            )


def _replay(problem: Problem, plan: Plan) -> Lives:
    lives: Lives = {}
    for t, i in enumerate(plan.order):
        op = problem.ops[i]
        for b in op.creates:
            lives[b] = _Life(t, t + 1, t + 1)
        for b in (*op.reads, *op.mutates):
            if b in lives:
                lives[b].death = lives[b].counted = t + 1
    for b, life in lives.items():
        if problem.buffers[b].kept:
            life.death = life.counted = len(plan.order)
    return lives


def _check_reuse(problem: Problem, plan: Plan, lives: Lives) -> None:
    heir: dict[BufferId, BufferId] = {}
    for made, dying in plan.reuse.items():
        why = _why_not_over(problem, plan, lives, made, dying)
        if why is None and dying in heir:
            why = f"{_name(problem, heir[dying])} is already"
        if why is not None:
            names = f"{_name(problem, made)} is written over {_name(problem, dying)}"
            raise ReuseError(f"{names}: {why}")
        heir[dying] = made
        lives[dying].counted = lives[made].birth


def _why_not_over(
    problem: Problem, plan: Plan, lives: Lives, made: BufferId, dying: BufferId
) -> str | None:
    """Why one buffer may not be written over another, None when it may."""
    if made not in lives or dying not in lives:
        return "the step does not make both"
    op = problem.ops[plan.order[lives[made].birth]]
    a, b = problem.buffers[made], problem.buffers[dying]
    if (made, dying) not in op.over:
        return f"op {op.name!r} does not allow it"
    if b.kept or b.home is Home.USER:
        return f"{b.name!r} is the user's"
    if lives[dying].death != lives[made].birth + 1:
        return f"{b.name!r} is still needed after op {op.name!r}"
    if a.size != b.size:
        return f"their sizes are {a.size} and {b.size} bytes"
    if a.align > b.align:
        return f"their alignments are {a.align} and {b.align}"
    if a.tier is not b.tier:
        return f"their tiers are {a.tier} and {b.tier}"
    return None


def _check_placed(problem: Problem, plan: Plan, lives: Lives) -> None:
    """Only the device allocates apart: elsewhere every buffer has an address."""
    if Tier.DEVICE in plan.elsewhere:
        raise OffsetError("the plan has a second arena for the device")
    for b in lives:
        buffer = problem.buffers[b]
        if buffer.tier is Tier.DEVICE or not buffer.size:
            continue
        if b not in plan.elsewhere.get(buffer.tier, Arena()).offsets:
            raise OffsetError(f"{buffer.name!r} lies in the tier {buffer.tier}, without an address")


def _check_offsets(problem: Problem, plan: Plan, tier: Tier, arena: Arena) -> None:
    for b, offset in arena.offsets.items():
        if not 0 <= b < len(problem.buffers):
            raise OffsetError(f"the plan places {_name(problem, b)}, which does not exist")
        buffer = problem.buffers[b]
        if buffer.home is not Home.ARENA or buffer.kept:
            what = f"{buffer.kind} of home {buffer.home}"
            raise OffsetError(f"{buffer.name!r} is placed in the arena, and is {what}")
        if buffer.tier is not tier:
            raise OffsetError(f"{buffer.name!r} of the tier {buffer.tier} is placed in {tier}")
        if offset < 0 or offset % buffer.align:
            raise OffsetError(f"{buffer.name!r} is at {offset}, its alignment is {buffer.align}")
    for made, dying in plan.reuse.items():
        over, under = arena.offsets.get(made), arena.offsets.get(dying)
        if over != under:
            raise OffsetError(
                f"{_name(problem, made)} is written over {_name(problem, dying)}, "
                f"and they are at {over} and {under}"
            )


def _check_blocks(problem: Problem, plan: Plan, tier: Tier, arena: Arena, lives: Lives) -> None:
    """Blocks lie apart, and every placed buffer is inside one of them all its life."""
    whose = "" if tier is Tier.DEVICE else f" of {tier}"
    blocks = [
        Rectangle(f"block {n}{whose}", b.lower, b.upper, b.offset, b.size)
        for n, b in enumerate(arena.blocks)
    ]
    for block in blocks:
        if not (0 <= block.lower <= block.upper <= len(plan.order)) or block.offset < 0:
            raise OffsetError(f"{block.name} is not within the arena and the step: {block}")
        if block.size < 0:
            raise OffsetError(f"{block.name} has a negative size: {block.size}")
        if block.end > LARGEST:
            raise OffsetError(f"{block.name} ends beyond 2^62 bytes: {block.end}")
    check_apart(blocks)

    births = [(lives[b].birth, offset) for b, offset in arena.offsets.items()]
    homes = find_around(blocks, births)
    for (b, offset), home in zip(arena.offsets.items(), homes, strict=True):
        life, buffer = lives[b], problem.buffers[b]
        end = offset + max(buffer.size, 1)  # an empty buffer, too, has its address in a block
        if home is None or home.end < end or not home.holds(life.birth, life.death):
            raise OffsetError(
                f"{buffer.name!r} is at [{offset}, {end}) during [{life.birth}, {life.death}), "
                "and no block holds it there all that time"
            )
        if (offset - home.offset) % buffer.align:
            raise OffsetError(
                f"{buffer.name!r} is {offset - home.offset} bytes into {home.name}, "
                f"its alignment is {buffer.align}"
            )


def _check_overlaps(problem: Problem, arena: Arena, lives: Lives) -> None:
    check_apart(
        Rectangle(_name(problem, b), lives[b].birth, lives[b].counted, at, problem.buffers[b].size)
        for b, at in arena.offsets.items()
    )


def _check_figures(problem: Problem, plan: Plan, lives: Lives) -> None:
    device = {b: x for b, x in lives.items() if problem.buffers[b].tier is Tier.DEVICE}
    live = [(x.birth, x.counted, problem.buffers[b].size) for b, x in device.items()]
    outside = [
        (x.birth, x.counted, problem.buffers[b].size)
        for b, x in device.items()
        if b not in plan.offsets
    ]
    blocks = [(k.lower, k.upper, k.size) for k in plan.blocks]
    scratch = [problem.ops[i].scratch for i in plan.order]
    users = (b for b in problem.buffers if b.home is Home.USER and b.tier is Tier.DEVICE)
    persistent = sum(b.size for b in users)
    for what, stated, true in (
        ("a live peak", plan.live_peak, _highest(live, scratch)),
        ("a peak", plan.peak, _highest(outside + blocks, scratch)),
        ("persistent memory", plan.persistent, persistent),
    ):
        if stated != true:
            raise FigureError(f"the plan states {what} of {stated} bytes, it is {true}")
    for bound in (plan.lower_bound, plan.stated):
        if not 0 <= bound <= plan.live_peak:
            raise FigureError(
                f"the plan states a lower bound of {bound} bytes, its live peak is {plan.live_peak}"
            )
    check_proof(plan.proof, problem)
    if not (isfinite(plan.seconds) and plan.seconds >= 0):
        raise FigureError(f"the plan states that it took {plan.seconds} seconds")


def _highest(counted: Iterable[tuple[int, int, int]], scratch: Sequence[int]) -> int:
    """The most bytes at any op, of (lower, upper, size) and the ops' own scratch space."""
    change = [0] * (len(scratch) + 1)
    for lower, upper, size in counted:
        change[lower] += size
        change[upper] -= size
    now = accumulate(change[:-1])
    return max((live + own for live, own in zip(now, scratch, strict=True)), default=0)


def _name(problem: Problem, b: BufferId) -> str:
    return repr(problem.buffers[b].name) if 0 <= b < len(problem.buffers) else f"buffer {b}"
