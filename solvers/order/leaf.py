"""Cuts a segment out of a phase, as a Problem of its own: a leaf of the tree.

    phase 0            phase 1                     phase 2
    entry op ── alive at entry ──┐
       │                         ├── the segment's ops ── alive at exit ── exit op
       └── alive throughout, as one constant buffer ────────────────────────┘

A segment is the ops between two sets A and B of the ops of a phase: those that have run when the
segment begins, and those that have run when it ends. Each op of a set comes with all ops that it
waits for. The order of the segment's ops decides nothing outside of the segment: in every order of
the step that passes through both sets, the same buffers are alive at both. So the peak of such an
order is the highest of the peaks of its segments, and each segment can be ordered by itself.

A leaf has the same live bytes as the step at every moment of the segment, and the same in-place
pairs and scratch spaces. Every search for an order of a phase takes a leaf: phase `INSIDE` of
`Leaf.problem`.

Buffers that are alive throughout and in no in-place pair count as one constant. Equal segments of
different layers differ in that constant only, so `Leaf.key` leaves it out.
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable, Sequence, Set
from dataclasses import dataclass
from functools import cached_property

from msgspec.structs import replace

from roam.core.lifetime import can_take, find_reuse, live_curve
from roam.core.problem import Buffer, BufferId, Op, OpId, Problem

ENTRY, INSIDE, EXIT = 0, 1, 2  # phases of a leaf


@dataclass(frozen=True)
class Leaf:
    """A segment as a Problem of its own.

    Attributes:
        problem: an entry op, the ops of the segment in program order, and an exit op.
        ops: the segment's ops, by their ids in the step, in program order.
        constant: bytes that are alive throughout the segment, whatever its order.
    """

    problem: Problem
    ops: tuple[OpId, ...]
    constant: int

    @cached_property
    def key(self) -> Hashable:
        """Equal for segments that differ in nothing but names and constant bytes.

        Two segments that differ in the program order of their ops may have different keys.
        """
        buffers = [(b.transient, b.align, b.kept) for b in self.problem.buffers]
        ops = [(op.reads, op.creates, op.over, op.scratch, op.after) for op in self.problem.ops]
        return tuple(buffers[:-1]), tuple(ops)

    def to_step(self, order: Iterable[OpId]) -> list[OpId]:
        """Returns an order of the leaf's phase INSIDE by the ids of the step's ops."""
        return [self.ops[i - 1] for i in order]

    def from_step(self, order: Iterable[OpId]) -> list[OpId]:
        """Returns an order of the segment's ops by their ids in the leaf."""
        place = {i: k for k, i in enumerate(self.ops, 1)}
        return [place[i] for i in order]

    def peak(self, order: Sequence[OpId]) -> int:
        """Returns the peak of an order of the leaf's phase INSIDE, in bytes."""
        whole = [0, *order, len(self.ops) + 1]
        return max(live_curve(self.problem, whole, find_reuse(self.problem, whole))[1:-1])


def cut_out(
    problem: Problem,
    phase: int,
    ops: Iterable[OpId],
    ran: Container[OpId],
    live: int | None = None,
) -> Leaf:
    """Returns a segment of a phase as a Problem of its own.

    Args:
        problem: the Problem of the whole step.
        phase: the index of the phase.
        ops: the ops of the segment, in any order. All that they wait for is among them, or has run.
        ran: the ops of the phase that have run when the segment begins.
        live: the bytes alive when the segment begins, counted if left out.
    """
    return _Cutting(problem, phase, sorted(ops), ran).leaf(live)


class _Cutting:
    """The buffers of a leaf, numbered by their first use in the segment, and its ops."""

    def __init__(self, problem: Problem, phase: int, ops: list[OpId], ran: Container[OpId]) -> None:
        self.problem, self.phase, self.ops, self.ran = problem, phase, ops, ran
        self.place = {i: k for k, i in enumerate(ops, 1)}  # the entry op comes first
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
        """Returns whether a buffer of an op of the segment belongs into the leaf.

        That is so if it has bytes on the device, and may die in the segment or begins there.
        """
        if not self.problem.buffers[b].transient:
            return False
        return self.problem.maker[b] in self.place or b in self.dying or not self.outlives(b)

    def is_alive(self, b: BufferId) -> bool:
        """Returns whether a buffer is alive when the segment begins."""
        made_by = self.problem.maker[b]
        if made_by is None or not self.has_run(made_by):
            return False
        return self.outlives(b) or any(u in self.place for u in self.problem.users[b])

    def has_run(self, i: OpId) -> bool:
        """Returns whether an op runs before the segment."""
        return self.problem.ops[i].phase < self.phase or i in self.ran

    def outlives(self, b: BufferId) -> bool:
        """Returns whether a buffer that exists when the segment ends is alive after it."""
        users = self.problem.users[b]
        return self.problem.buffers[b].kept or any(
            u not in self.place and not self.has_run(u) for u in users
        )

    def op(self, k: int) -> Op:
        """Returns the op at place k of the segment, with all that it waits for in `after`."""
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
    """Returns the in-place pairs of an op that some order may use."""
    return [
        (new, old)
        for new, old in problem.ops[i].over
        if can_take(problem, new, old) and problem.buffers[new].transient
    ]


def _unused(name: str, taken: Set[str]) -> str:
    while name in taken:
        name += "_"
    return name
