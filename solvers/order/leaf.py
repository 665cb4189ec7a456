"""Cuts a segment out of a phase, as a Problem of its own: a leaf of the tree of segments.

    phase 0            phase 1                     phase 2
    entry op ── alive at entry ──┐
       │                         ├── the segment's ops ── alive at exit ── exit op
       └── alive throughout, as one constant buffer ────────────────────────┘

A segment is the ops between two sets A and B of the ops of a phase: A has run when the segment
begins, and B has run when it ends. With each of their ops, both sets contain all ops that this op
waits for. The order of the segment's ops decides nothing outside of the segment: whatever the
order, the same buffers are alive when exactly A has run, and when exactly B has run. So the peak of
an order that passes through both sets is the highest peak of its segments, and each segment can be
ordered by itself.

A leaf has the same live bytes as the step at every moment of the segment, the same scratch spaces,
and the same in-place pairs (a result and a dying buffer that the result may be written over). Every
search for an order of a phase can be given a leaf: it orders the phase `INSIDE` of `Leaf.problem`.

A buffer that is alive throughout and in no in-place pair is not listed: one constant counts the
bytes of all such buffers. Equal segments of different layers differ only in that constant, and in
names and costs. So `Leaf.key` leaves these out.
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable, Sequence, Set
from dataclasses import dataclass
from functools import cached_property

from msgspec.structs import replace

from roam.core.lifetime import can_take, find_reuse, live_curve
from roam.core.problem import Buffer, BufferId, Op, OpId, Problem

# indices of the three phases of a leaf's Problem: one op that makes the buffers alive when the
# segment begins; the segment's ops; one op that reads the buffers alive when the segment ends
ENTRY, INSIDE, EXIT = 0, 1, 2


@dataclass(frozen=True)
class Leaf:
    """A segment of a phase as a Problem of its own, between an entry op and an exit op.

    Attributes:
        problem: the entry op, which makes the buffers alive when the segment begins; the ops of
            the segment in program order; the exit op, which reads the buffers alive at the end.
        ops: the segment's ops, by their ids in the step, in program order.
        constant: the bytes of the buffers that are alive throughout, whatever the order, and that
            `problem` does not list one by one. One buffer of this size stands for them.
    """

    problem: Problem
    ops: tuple[OpId, ...]
    constant: int

    @cached_property
    def key(self) -> Hashable:
        """A value that is equal for segments that differ only in names, costs and `constant`.

        So an order of one of them, by op ids of the leaf, is an order of the others, with the same
        peak but for the difference of `constant` (bytes alive throughout). Two segments that differ
        in the program order of their ops may have different values.
        """
        buffers = [(b.transient, b.align, b.kept) for b in self.problem.buffers]
        ops = [(op.reads, op.creates, op.over, op.scratch, op.after) for op in self.problem.ops]
        return tuple(buffers[:-1]), tuple(ops)

    def to_step(self, order: Iterable[OpId]) -> list[OpId]:
        """Converts an order of the segment from op ids of the leaf to op ids of the step."""
        return [self.ops[i - 1] for i in order]

    def from_step(self, order: Iterable[OpId]) -> list[OpId]:
        """Converts an order of the segment from op ids of the step to op ids of the leaf."""
        place = {i: k for k, i in enumerate(self.ops, 1)}
        return [place[i] for i in order]

    def peak(self, order: Sequence[OpId]) -> int:
        """Returns the peak, in bytes, of an order of the segment's ops by their ids in the leaf."""
        _, curve = self.whole(order)
        return max(curve[1:-1])

    def whole(self, order: Sequence[OpId]) -> tuple[list[OpId], list[int]]:
        """Returns the entry op, the ops of `order` and the exit op in a row, and their live curve.

        All ops are given by their ids in the leaf. The live curve is in bytes.
        """
        ops = [0, *order, len(self.ops) + 1]
        return ops, live_curve(self.problem, ops, find_reuse(self.problem, ops))


def cut_out(
    problem: Problem,
    phase: int,
    ops: Iterable[OpId],
    ran: Container[OpId],
    live: int | None = None,
) -> Leaf:
    """Returns a segment of a phase as a leaf, which is a Problem of its own.

    Args:
        problem: the Problem of the whole step.
        phase: the index of the phase.
        ops: the ops of the segment, in any order. Each op that one of them waits for is in the
            segment too, or has run when the segment begins.
        ran: the ops of the phase that have run when the segment begins.
        live: the transient bytes alive when the segment begins; computed if left out.
    """
    return _Cutting(problem, phase, sorted(ops), ran).leaf(live)


class _Cutting:
    """Makes a leaf, which is a segment of a phase as a Problem of its own.

    Numbers the buffers of the leaf by their first use in program order.
    """

    def __init__(self, problem: Problem, phase: int, ops: list[OpId], ran: Container[OpId]) -> None:
        self.problem, self.phase, self.ops, self.ran = problem, phase, ops, ran
        # by op id of the step, its id in the leaf: 1, 2, ..., after the entry op, which is 0
        self.place = {i: k for k, i in enumerate(ops, 1)}
        self.over = [_takeable(problem, i) for i in ops]
        self.dying = {old for pairs in self.over for _, old in pairs}
        self.number: dict[BufferId, BufferId] = {}
        for i in ops:
            op = problem.ops[i]
            for b in (*op.reads, *op.mutates, *op.creates):
                if self.counts(b):
                    self.number.setdefault(b, len(self.number))

    def leaf(self, live: int | None) -> Leaf:
        problem, number = self.problem, self.number
        entry = [b for b in number if problem.maker[b] not in self.place]
        if live is None:
            live = sum(b.transient for i, b in enumerate(problem.buffers) if self.is_alive(i))
        constant = live - sum(problem.buffers[b].transient for b in entry)
        buffers = [problem.buffers[b] for b in number]
        rest = Buffer(_unused("throughout", {b.name for b in buffers}), constant)
        ops = [self.op(k) for k in range(len(self.ops))]
        names = {op.name for op in ops}
        throughout = len(buffers)
        made = (*(number[b] for b in entry), throughout)
        left = (*(number[b] for b in number if self.outlives(b)), throughout)
        start = Op(_unused("entry", names), creates=made, phase=ENTRY)
        end = Op(_unused("exit", names), reads=left, phase=EXIT)
        cut = Problem(problem.name, (*buffers, rest), (start, *ops, end))
        return Leaf(cut, tuple(self.ops), constant)

    def counts(self, b: BufferId) -> bool:
        """Returns whether the leaf lists a buffer that an op of the segment uses or makes.

        The leaf lists a buffer that is made in the segment, dies in it, or may be written over in
        some order. The leaf lists no buffer without transient bytes, such as the user's own.
        """
        if not self.problem.buffers[b].transient:
            return False
        return self.problem.maker[b] in self.place or b in self.dying or not self.outlives(b)

    def is_alive(self, b: BufferId) -> bool:
        """Returns whether a buffer that an op makes is alive when the segment begins."""
        made_by = self.problem.maker[b]
        if made_by is None or not self.has_run(made_by):
            return False
        return self.outlives(b) or any(u in self.place for u in self.problem.users[b])

    def has_run(self, i: OpId) -> bool:
        """Returns whether an op runs before the segment."""
        return self.problem.ops[i].phase < self.phase or i in self.ran

    def outlives(self, b: BufferId) -> bool:
        """Returns whether a buffer is alive when the segment ends, if it has been made by then."""
        users = self.problem.users[b]
        return self.problem.buffers[b].kept or any(
            u not in self.place and not self.has_run(u) for u in users
        )

    def op(self, k: int) -> Op:
        """Returns op number k of the segment, in program order from 0, as an op of the leaf.

        Its field `after` lists the leaf's ids of all ops in the segment that it waits for. So the
        buffers that the op changes can be listed as reads, without changing what it waits for.
        """
        number, op = self.number, self.problem.ops[self.ops[k]]
        reads = dict.fromkeys((*op.reads, *op.mutates))
        return replace(
            op,
            reads=tuple(number[b] for b in reads if b in number and b not in op.creates),
            creates=tuple(number[b] for b in op.creates if b in number),
            mutates=(),
            over=tuple((number[new], number[old]) for new, old in self.over[k]),
            phase=INSIDE,
            after=tuple(
                self.place[p] for p in self.problem.predecessors[self.ops[k]] if p in self.place
            ),
        )


def _takeable(problem: Problem, i: OpId) -> list[tuple[BufferId, BufferId]]:
    """Returns the in-place pairs (result, dying buffer) of an op that some order may use.

    If an order uses a pair, the result is written over the dying buffer. Pairs of buffers without
    transient bytes, such as buffers in host memory, are left out.
    """
    return [
        (new, old)
        for new, old in problem.ops[i].over
        if can_take(problem, new, old) and problem.buffers[new].transient
    ]


def _unused(name: str, taken: Set[str]) -> str:
    while name in taken:
        name += "_"
    return name
