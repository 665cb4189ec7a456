"""Is a plan valid, and are its numbers true? Written apart from all that makes plans.

It recomputes everything from the problem and the order alone, so that a mistake in a solver, in
a layout or in `lifetime.py` is caught rather than repeated. Every plan goes through it.

A buffer that is written over a dying one takes its place at the op where that happens. There the
dying one no longer counts: it is `held` one op less than it is alive.

    time        0   1   2   3   4
    a alive     [-----------)             op 2 reads a for the last time and writes b over it
    a held      [-------)
    b           ........[---------)
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import isfinite

from roam.core.errors import (
    FigureError,
    OffsetError,
    OrderError,
    OverlapError,
    ReuseError,
)
from roam.core.plan import Plan
from roam.core.problem import LARGEST, BufferId, Home, Problem


@dataclass
class _Life:
    """Alive from birth to before death, and counted to before `held`. Op indices of the order."""

    birth: int
    death: int
    held: int


Lives = dict[BufferId, _Life]  # of all buffers that the step makes


@dataclass(frozen=True)
class _Rectangle:
    name: str
    lower: int
    upper: int
    offset: int
    size: int

    @property
    def end(self) -> int:
        return self.offset + self.size

    def holds(self, birth: int, death: int) -> bool:
        return self.lower <= birth and death <= self.upper


def check(problem: Problem, plan: Plan) -> None:
    """Returns when `plan` is a valid plan of `problem` with true numbers, and raises otherwise.

    Raises GraphMismatchError, OrderError, ReuseError, OffsetError, OverlapError or FigureError,
    in this order of looking, naming the ops, buffers or figures that clash. Takes
    O((n + e) log n) for n ops and buffers and e precedences.
    """
    plan.check_names(problem)
    _check_order(problem, plan)
    lives = _replay(problem, plan)
    _check_reuse(problem, plan, lives)
    _check_offsets(problem, plan)
    _check_blocks(problem, plan, lives)
    _check_overlaps(problem, plan, lives)
    _check_figures(problem, plan, lives)


def _check_order(problem: Problem, plan: Plan) -> None:
    ops = problem.ops
    place: dict[int, int] = {}
    for t, i in enumerate(plan.order):
        if not 0 <= i < len(ops):
            raise OrderError(f"the order runs op {i}, and there are {len(ops)} ops")
        if i in place:
            raise OrderError(f"the order runs op {ops[i].name!r} twice")
        place[i] = t
    for i, op in enumerate(ops):
        if i not in place:
            raise OrderError(f"the order misses op {op.name!r}")
    for i, before in enumerate(problem.predecessors):
        for p in before:
            if place[p] > place[i]:
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
                lives[b].death = lives[b].held = t + 1
    for b, life in lives.items():
        if problem.buffers[b].kept:
            life.death = life.held = len(plan.order)
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
        lives[dying].held = lives[made].birth


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
    return None


def _check_offsets(problem: Problem, plan: Plan) -> None:
    for b, offset in plan.offsets.items():
        if not 0 <= b < len(problem.buffers):
            raise OffsetError(f"the plan places {_name(problem, b)}, which does not exist")
        buffer = problem.buffers[b]
        if buffer.home is not Home.ARENA or buffer.kept:
            what = f"{buffer.kind} of home {buffer.home}"
            raise OffsetError(f"{buffer.name!r} is placed in the arena, and is {what}")
        if offset < 0 or offset % buffer.align:
            raise OffsetError(f"{buffer.name!r} is at {offset}, its alignment is {buffer.align}")
    for made, dying in plan.reuse.items():
        over, under = plan.offsets.get(made), plan.offsets.get(dying)
        if over != under:
            raise OffsetError(
                f"{_name(problem, made)} is written over {_name(problem, dying)}, "
                f"and they are at {over} and {under}"
            )


def _check_blocks(problem: Problem, plan: Plan, lives: Lives) -> None:
    """Blocks lie apart, and every placed buffer is inside one of them all its life."""
    blocks = [
        _Rectangle(f"block {n}", b.lower, b.upper, b.offset, b.size)
        for n, b in enumerate(plan.blocks)
    ]
    for block in blocks:
        if not (0 <= block.lower <= block.upper <= len(plan.order)) or block.offset < 0:
            raise OffsetError(f"{block.name} is not within the arena and the step: {block}")
        if block.size < 0:
            raise OffsetError(f"{block.name} has a negative size: {block.size}")
        if block.end > LARGEST:
            raise OffsetError(f"{block.name} ends beyond 2^62 bytes: {block.end}")
    _check_apart(blocks)

    blocks.sort(key=lambda block: block.offset)
    starts = [block.offset for block in blocks]
    for b, offset in plan.offsets.items():
        life, buffer = lives[b], problem.buffers[b]
        end = offset + max(buffer.size, 1)  # an empty buffer, too, has its address in a block
        # the nearest block below is nearly always the one
        below = reversed(blocks[: bisect_right(starts, offset)])
        home = next((k for k in below if end <= k.end and k.holds(life.birth, life.death)), None)
        if home is None:
            raise OffsetError(
                f"{buffer.name!r} is at [{offset}, {end}) during [{life.birth}, {life.death}), "
                "and no block holds it there all that time"
            )
        if (offset - home.offset) % buffer.align:
            raise OffsetError(
                f"{buffer.name!r} is {offset - home.offset} bytes into {home.name}, "
                f"its alignment is {buffer.align}"
            )


def _check_overlaps(problem: Problem, plan: Plan, lives: Lives) -> None:
    _check_apart(
        _Rectangle(_name(problem, b), lives[b].birth, lives[b].held, at, problem.buffers[b].size)
        for b, at in plan.offsets.items()
    )


def _check_apart(rectangles: Iterable[_Rectangle]) -> None:
    """No two rectangles share a byte at a time. A line sweeps over time:

    address      .--------.
      ^          |   c    |    Those that are active lie apart, so a new one can only
      |    .-----+--.     |    clash with its two neighbours in the order of addresses:
      |    |  a  |##|     |    here c begins while a is active.
      |    '-----'--'-----'
      +-----------------------> time
    """
    events: list[tuple[int, bool, int, _Rectangle]] = []
    for n, r in enumerate(rectangles):
        if r.size and r.lower < r.upper:
            events += [(r.lower, True, n, r), (r.upper, False, n, r)]
    active: list[_Rectangle] = []  # in the order of offsets
    starts: list[int] = []
    for _, begins, _, r in sorted(events, key=lambda event: event[:3]):  # ends before begins
        at = bisect_left(starts, r.offset)
        if not begins:
            del active[at], starts[at]
            continue
        for other in active[max(at - 1, 0) : at + 1]:
            if other.offset < r.end and r.offset < other.end:
                raise OverlapError(
                    f"{other.name} at [{other.offset}, {other.end}) overlaps {r.name} at "
                    f"[{r.offset}, {r.end}) from op {r.lower} of the order on"
                )
        active.insert(at, r)
        starts.insert(at, r.offset)


def _check_figures(problem: Problem, plan: Plan, lives: Lives) -> None:
    live = [(x.birth, x.held, problem.buffers[b].size) for b, x in lives.items()]
    outside = [
        (x.birth, x.held, problem.buffers[b].size)
        for b, x in lives.items()
        if b not in plan.offsets
    ]
    blocks = [(k.lower, k.upper, k.size) for k in plan.blocks]
    scratch = [problem.ops[i].scratch for i in plan.order]
    persistent = sum(b.size for b in problem.buffers if b.home is Home.USER)
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
    if not (isfinite(plan.seconds) and plan.seconds >= 0):
        raise FigureError(f"the plan states that it took {plan.seconds} seconds")


def _highest(held: Iterable[tuple[int, int, int]], scratch: Sequence[int]) -> int:
    """The most bytes at any op, of (lower, upper, size) and the ops' own scratch space."""
    change = [0] * (len(scratch) + 1)
    for lower, upper, size in held:
        change[lower] += size
        change[upper] -= size
    now = accumulate(change[:-1])
    return max((live + own for live, own in zip(now, scratch, strict=True)), default=0)


def _name(problem: Problem, b: BufferId) -> str:
    return repr(problem.buffers[b].name) if 0 <= b < len(problem.buffers) else f"buffer {b}"
