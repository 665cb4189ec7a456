"""Defines choices of copies: ops of the forward that run again in segments of the backward.

The backward is cut into segments. A *choice* is a set of pairs (op, segment): the op runs again in
this segment. Each run makes a new *version* of the op's results. A reader in the backward, an op or
a copy, uses the newest version that is made in the reader's segment or in an earlier one:

    segment         forward      0           1           2
    op a            a                        a~1                    choice {(a, 1)}
    readers of a    f            r                       s          r reads a, s reads a~1

So an op may have several copies, each near its readers. A copy runs just before its first reader.
If this reader is in a later segment, the copy is moved to that segment. A copy that nothing reads
is dropped. The choice decides which op reads a version last, and so how long the version lives.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from msgspec.structs import replace

from roam.core.lifetime import find_reuse, live_curve
from roam.core.machine import Bytes, Seconds
from roam.core.problem import Buffer, BufferId, Home, Kind, Op, OpId, Problem
from roam.solvers.form import Form, as_they_are

Copy = tuple[OpId, int]  # an op of the forward, and the segment of the backward in which it runs
Choice = frozenset[Copy]


def usual_forms(problem: Problem, boundary: OpId) -> dict[OpId, Form]:
    """Returns, by op of the forward that may run again unchanged, what its copy reads and makes.

    The forward is the ops before `boundary`. Leaves out ops with effects or random numbers, ops
    that change a buffer or make none, and ops that read a buffer which a later op of the forward
    changes. Keeps ops that read a buffer which only the backward changes, such as a parameter that
    a fold updates. The copy of such an op must run before the buffer changes (`Step.latest`).
    """
    changed = _changes(problem)
    return {
        i: form
        for i, form in as_they_are(problem).items()
        if i < boundary
        and form.creates
        and not any(i < c < boundary for b in form.reads for c in changed[b])
    }


def _changes(problem: Problem) -> Mapping[BufferId, list[OpId]]:
    changed: dict[BufferId, list[OpId]] = defaultdict(list)
    for i, op in enumerate(problem.ops):
        for b in op.mutates:
            changed[b].append(i)
    return changed


@dataclass(frozen=True)
class Step:
    """A training step, and the ops of its forward that may be recomputed.

    Attributes:
        problem: the forward and the backward. Copies are inserted into its program order.
        boundary: the first op of the backward.
        forms: for each op that may be recomputed, its form: what its copy reads and makes.
        starts: the first op of each segment of the backward, beginning with `boundary`.
        smallest: results of fewer bytes are not `droppable`: they stay alive until the backward.
        pinned: results that are not `droppable`, whatever their size.
    """

    problem: Problem
    boundary: OpId
    forms: Mapping[OpId, Form]
    starts: tuple[OpId, ...]
    smallest: Bytes = 0
    pinned: Collection[BufferId] = ()

    def segment(self, op: OpId) -> int:
        """Returns the index of the segment in which an op of the backward lies."""
        return bisect_right(self.starts, op) - 1

    def end(self, segment: int) -> OpId:
        """Returns the first op after a segment; the number of ops if it is the last segment."""
        more = segment + 1 < len(self.starts)
        return self.starts[segment + 1] if more else len(self.problem.ops)

    @cached_property
    def seconds(self) -> Seconds:
        """The cost of all ops together; if that is 0, of one copy of each op in `forms`."""
        known = sum(op.cost for op in self.problem.ops)
        return known or sum(form.cost for form in self.forms.values())

    @cached_property
    def droppable(self) -> frozenset[BufferId]:
        """The results of the forward that need not stay alive, since copies can make them again."""
        found = {b for form in self.forms.values() for b in form.creates}
        return frozenset(b for b in found if self._may_drop(b))

    def _may_drop(self, b: BufferId) -> bool:
        buffer = self.problem.buffers[b]
        changed = any(b in self.problem.ops[i].mutates for i in self.problem.users[b])
        free = buffer.home is not Home.USER and not buffer.kept and b not in self.pinned
        return free and not changed and buffer.size >= self.smallest

    @cached_property
    def latest(self) -> Mapping[OpId, OpId]:
        """By op that may be recomputed, the op of the backward before which its copy must run.

        This is the first op of the backward that changes a buffer which the copy reads; the number
        of ops if none does.
        """
        changed = _changes(self.problem)
        last = len(self.problem.ops)
        return {
            i: min((c for b in form.reads for c in changed[b] if c >= self.boundary), default=last)
            for i, form in self.forms.items()
        }

    def makers(self) -> Mapping[BufferId, OpId]:
        """Returns, by droppable buffer, the op that makes it."""
        made = self.problem.maker
        return {b: i for b in self.droppable if (i := made[b]) is not None}


@dataclass(frozen=True)
class Placed:
    """A copy and its place in the program order.

    Attributes:
        op: the op that runs again.
        segment: the segment in which the copy runs.
        before: the op of the backward just before which the copy runs.
    """

    op: OpId
    segment: int
    before: OpId


@dataclass
class Copies:
    """The copies of a choice, without those that nothing reads or that would run too late.

    A copy would run too late if a buffer that it reads has been changed by then (`Step.latest`).
    The ops that would read this copy use the original results.

    Attributes:
        step: the step.
        placed: the copies, in the order in which they run.
        version: (reader, buffer) -> the segment of the copy whose version the reader uses. The
            reader is an op of the backward or a copy. A reader of the original has no entry.
    """

    step: Step
    placed: list[Placed] = field(default_factory=list)
    version: dict[tuple[OpId | Copy, BufferId], int] = field(default_factory=dict)

    @staticmethod
    def of(step: Step, choice: Choice) -> Copies:
        """Returns the copies of a choice, each with its place and its readers."""
        problem, makers = step.problem, step.makers()
        segments: dict[OpId, list[int]] = defaultdict(list)
        for i, k in sorted(choice):
            segments[i].append(k)
        made = {b: i for b, i in makers.items() if i in segments and b in step.forms[i].creates}
        wanted: dict[Copy, list[tuple[OpId | Copy, BufferId, OpId]]] = defaultdict(list)

        def want(reader: OpId | Copy, b: BufferId, segment: int, at: OpId) -> None:
            among = segments[made[b]]
            newest = bisect_right(among, segment) - 1
            if newest >= 0:
                wanted[made[b], among[newest]].append((reader, b, at))

        for b in made:
            for r in problem.users[b]:
                if r >= step.boundary:
                    want(r, b, step.segment(r), r)
        found = Copies(step)
        for i in sorted(segments, reverse=True):
            for asked in segments[i]:
                readers = wanted.get((i, asked), [])
                before = min((at for _, _, at in readers), default=None)
                if before is not None and before <= step.latest[i]:
                    k = step.segment(before)
                    found.placed.append(Placed(i, k, before))
                    found.version |= {(reader, b): k for reader, b, _ in readers}
                    for b in step.forms[i].reads:
                        if b in made:
                            want((i, k), b, k, before)
        found.placed.sort(key=lambda p: (p.before, p.op, p.segment))
        return found

    @property
    def cost(self) -> Seconds:
        return sum(self.step.forms[p.op].cost for p in self.placed)

    @property
    def choice(self) -> Choice:
        return frozenset((p.op, p.segment) for p in self.placed)

    def edited(self) -> tuple[Problem, list[Copy | OpId]]:
        """Returns the Problem with the copies, and for each of its ops the copy or the old op."""
        problem = self.step.problem
        buffers: list[Buffer] = list(problem.buffers)
        ids: dict[tuple[BufferId, int], BufferId] = {}
        numbers: dict[OpId, int] = defaultdict(int)
        ops: list[Op] = []
        what: list[Copy | OpId] = []
        place: dict[OpId, OpId] = {}

        def version(reader: OpId | Copy, b: BufferId) -> BufferId:
            k = self.version.get((reader, b))
            return b if k is None else ids[b, k]

        def turned(reader: OpId | Copy, given: Sequence[BufferId]) -> tuple[BufferId, ...]:
            return tuple(dict.fromkeys(version(reader, b) for b in given))

        def add_copy(p: Placed) -> None:
            form, old = self.step.forms[p.op], problem.ops[p.op]
            numbers[p.op] += 1
            for b in form.creates:
                ids[b, p.segment] = len(buffers)
                name = f"{problem.buffers[b].name}~{numbers[p.op]}"
                buffers.append(replace(problem.buffers[b], name=name, kind=Kind.TEMPORARY))
            key = (p.op, p.segment)
            over = ((ids[a, p.segment], version(key, b)) for a, b in form.over)
            ops.append(
                replace(
                    old,
                    name=f"{old.name}~{numbers[p.op]}",
                    reads=turned(key, form.reads),
                    creates=tuple(ids[b, p.segment] for b in form.creates),
                    over=tuple(over),
                    scratch=form.scratch,
                    cost=form.cost,
                    phase=problem.ops[p.before].phase,
                    after=self._gate(place),
                    once=False,
                )
            )
            what.append(key)

        waiting = iter([*self.placed, None])
        upcoming = next(waiting)
        for i, op in enumerate(problem.ops):
            while upcoming is not None and upcoming.before == i:
                add_copy(upcoming)
                upcoming = next(waiting)
            place[i] = len(ops)
            late = i >= self.step.boundary
            over = tuple((a, version(i, b)) for a, b in op.over) if late else op.over
            reads = turned(i, op.reads) if late else op.reads
            after = tuple(place[a] for a in op.after)
            ops.append(replace(op, reads=reads, over=over, after=after))
            what.append(i)
        return Problem(problem.name, self._sorted_out(buffers, ops), tuple(ops)), what

    def _gate(self, place: Mapping[OpId, OpId]) -> tuple[OpId, ...]:
        """Returns what every copy waits for: the op that makes the tangents, if there is one.

        It is the backward's first op, if that reads and changes nothing. `place`: old id -> new id.
        """
        first = self.step.problem.ops[self.step.boundary]
        return () if first.reads or first.mutates else (place[self.step.boundary],)

    def _sorted_out(self, buffers: list[Buffer], ops: Sequence[Op]) -> tuple[Buffer, ...]:
        """Returns the buffers, with SAVED and TEMPORARY assigned anew; other kinds stay.

        A buffer is SAVED if an op of a later phase than its maker's uses it.
        """
        made_in = {b: op.phase for op in ops for b in op.creates}
        crossing = {b for op in ops for b in op.touches if made_in.get(b, op.phase) < op.phase}
        kinds = {True: Kind.SAVED, False: Kind.TEMPORARY}
        return tuple(
            replace(buffer, kind=kinds[b in crossing])
            if buffer.kind in (Kind.SAVED, Kind.TEMPORARY)
            and (buffer.kind is Kind.SAVED) != (b in crossing)
            else buffer
            for b, buffer in enumerate(buffers)
        )


@dataclass(frozen=True)
class Curve:
    """The live bytes of a step with copies, in program order.

    Attributes:
        copies: the copies.
        what: by time, the copy that runs, or the id that the op has in the step without copies.
        live: by time, the transient bytes alive.
    """

    copies: Copies
    what: list[Copy | OpId]
    live: list[int]

    @staticmethod
    def of(copies: Copies) -> Curve:
        edited, what = copies.edited()
        order = range(len(edited.ops))
        return Curve(copies, what, live_curve(edited, order, find_reuse(edited, order)))

    @property
    def peak(self) -> Bytes:
        return max(self.live, default=0)
