"""The Problem: a training step with torch taken out.

Ops read, create and change buffers of known size. The ops stand in program order, which is a
valid order; a planner may choose any other that keeps the precedences.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from math import isfinite
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from roam.core.buffer_table import BufferTable, make_buffer_table
from roam.core.errors import (
    CycleError,
    DuplicateNameError,
    ProblemError,
    ReadBeforeWriteError,
    SizeError,
    UnknownReferenceError,
)
from roam.core.parts import Buffer as Buffer  # the parts belong to this module's face
from roam.core.parts import BufferId as BufferId
from roam.core.parts import Home as Home
from roam.core.parts import Kind as Kind
from roam.core.parts import Lane as Lane
from roam.core.parts import Op as Op
from roam.core.parts import OpId as OpId
from roam.core.parts import Tier as Tier

if TYPE_CHECKING:
    import networkx

LARGEST = 2**62  # bytes of all buffers and scratch spaces together: sums of two stay in 64 bits
PHASES = 64  # forward and backward are two


class Problem(msgspec.Struct, frozen=True, dict=True, forbid_unknown_fields=True):
    """A step to plan: `ops` in program order, over `buffers`.

    Raises a `ProblemError` naming the offender when it describes no program.
    """

    name: str
    buffers: tuple[Buffer, ...]
    ops: tuple[Op, ...]

    def __post_init__(self) -> None:
        _check_names(self)
        _check_sizes(self)
        _check_references(self)
        _check_making(self)
        _check_tiers(self)
        _check_acyclic(self)

    @cached_property
    def maker(self) -> list[OpId | None]:
        """For every buffer the op that creates it, None for the user's own."""
        return find_makers(self.ops, len(self.buffers))

    @cached_property
    def users(self) -> list[list[OpId]]:
        """For every buffer the ops that read or change it, in program order, each once."""
        return find_users(self.ops, len(self.buffers))

    @cached_property
    def buffer_table(self) -> BufferTable:
        """The buffers as arrays, for what looks at all of them at once."""
        return make_buffer_table(self.buffers, self.maker, self.users)

    @cached_property
    def scratch(self) -> NDArray[np.int64]:
        """For every op the bytes of its scratch space."""
        return np.array([op.scratch for op in self.ops], np.int64)

    @cached_property
    def predecessors(self) -> list[tuple[OpId, ...]]:
        """For every op the ops it waits for, within its own phase and before it.

        A reader waits for the maker; who changes a buffer waits for those who used it before in
        program order, and those who use it afterwards wait for the change.
        """
        return find_predecessors(self.ops, self.maker, self.users)

    @cached_property
    def successors(self) -> list[list[OpId]]:
        after: list[list[OpId]] = [[] for _ in self.ops]
        for i, before in enumerate(self.predecessors):
            for p in before:
                after[p].append(i)
        return after

    @cached_property
    def phases(self) -> list[list[OpId]]:
        """The ops of each phase, in program order."""
        phases: list[list[OpId]] = [
            [] for _ in range(max((o.phase for o in self.ops), default=-1) + 1)
        ]
        for i, op in enumerate(self.ops):
            phases[op.phase].append(i)
        return phases

    @cached_property
    def spans(self) -> list[range]:
        """The times at which each phase runs, the same in every order."""
        bounds = accumulate((len(ops) for ops in self.phases), initial=0)
        return [range(start, stop) for start, stop in pairwise(bounds)]

    @cached_property
    def persistent(self) -> int:
        """Bytes of the device that are there before the step and after it."""
        return sum(b.persistent for b in self.buffers)

    @cached_property
    def fingerprint(self) -> str:
        """Names the graph: equal problems have equal fingerprints, in every process.

        What its ops cost is the machine's and no part of that.
        """
        ops = [structs.replace(op, cost=0.0) if op.cost else op for op in self.ops]
        body = msgspec.json.encode((self.buffers, ops))
        return hashlib.sha256(body).hexdigest()[:16]

    def in_order(self, order: Sequence[OpId]) -> Problem:
        """Returns the same Problem with another order of its ops as the program order.

        Raises ProblemError if an op comes before one that it needs.
        """
        place = {i: t for t, i in enumerate(order)}
        ops = (self.ops[i] for i in order)
        moved = (structs.replace(op, after=tuple(sorted(place[a] for a in op.after))) for op in ops)
        return structs.replace(self, ops=tuple(moved))

    def to_networkx(self) -> networkx.DiGraph:
        """The precedence graph over op names, with the ops and the bytes between them."""
        import networkx

        graph = networkx.DiGraph(name=self.name)
        for op in self.ops:
            graph.add_node(op.name, op=op, phase=op.phase)
        for i, before in enumerate(self.predecessors):
            for p in before:
                shared = set(self.ops[p].creates) & set(self.ops[i].reads)
                size = sum(self.buffers[b].size for b in shared)
                graph.add_edge(self.ops[p].name, self.ops[i].name, bytes=size)
        return graph


def find_makers(ops: Sequence[Op], buffers: int) -> list[OpId | None]:
    """Returns what `Problem.maker` is, of ops over so many buffers."""
    maker: list[OpId | None] = [None] * buffers
    for i, op in enumerate(ops):
        for b in op.creates:
            maker[b] = i
    return maker


def find_users(ops: Sequence[Op], buffers: int) -> list[list[OpId]]:
    """Returns what `Problem.users` is, of ops over so many buffers."""
    users: list[list[OpId]] = [[] for _ in range(buffers)]
    for i, op in enumerate(ops):
        for b in dict.fromkeys((*op.reads, *op.mutates)):
            users[b].append(i)
    return users


def find_predecessors(
    ops: Sequence[Op], maker: Sequence[OpId | None], users: Sequence[Sequence[OpId]]
) -> list[tuple[OpId, ...]]:
    """Returns what `Problem.predecessors` is, of ops in program order."""
    before: list[dict[OpId, None]] = [dict.fromkeys(op.after) for op in ops]
    for b, made_by in enumerate(maker):
        last_change = made_by
        readers: list[OpId] = []
        for i in users[b]:
            if last_change is not None and last_change != i:
                before[i][last_change] = None
            if b in ops[i].mutates:
                before[i].update(dict.fromkeys(r for r in readers if r != i))
                last_change, readers = i, []
            else:
                readers.append(i)
    return [tuple(p) for p in before]


def _check_names(problem: Problem) -> None:
    for what, things in (("buffers", problem.buffers), ("ops", problem.ops)):
        seen: set[str] = set()
        for thing in things:
            if thing.name in seen:
                raise DuplicateNameError(f"two {what} of {problem.name!r} are named {thing.name!r}")
            seen.add(thing.name)


def _check_sizes(problem: Problem) -> None:
    for b in problem.buffers:
        if b.size < 0:
            raise SizeError(f"buffer {b.name!r} has a negative size: {b.size}")
        if not 1 <= b.align <= LARGEST or b.align & (b.align - 1):
            raise SizeError(
                f"buffer {b.name!r} has an alignment that is no power of two: {b.align}"
            )
    for op in problem.ops:
        if op.scratch < 0 or op.cost < 0 or op.phase < 0:
            raise SizeError(f"op {op.name!r} has a negative scratch space, cost or phase")
        if not isfinite(op.cost) or op.phase >= PHASES:
            raise SizeError(f"op {op.name!r} has a cost of {op.cost} in phase {op.phase}")
    total = sum(b.size for b in problem.buffers) + sum(op.scratch for op in problem.ops)
    if total > LARGEST:
        raise SizeError(f"the buffers and scratch spaces of {problem.name!r} go beyond 2^62 bytes")


def _check_references(problem: Problem) -> None:
    buffers, ops = range(len(problem.buffers)), range(len(problem.ops))
    for i, op in enumerate(problem.ops):
        pairs = [b for pair in op.over for b in pair]
        for b in (*op.reads, *op.creates, *op.mutates, *pairs):
            if b not in buffers:
                raise UnknownReferenceError(
                    f"op {op.name!r} names buffer {b}, which does not exist"
                )
        for p in op.after:
            if p not in ops or p == i:
                raise UnknownReferenceError(
                    f"op {op.name!r} waits for op {p}, which does not exist"
                )
        for made, dying in op.over:
            if made not in op.creates or dying not in op.reads:
                names = problem.buffers[made].name, problem.buffers[dying].name
                raise ProblemError(f"op {op.name!r} does not create and read the pair {names}")


def _check_making(problem: Problem) -> None:
    made: set[BufferId] = {i for i, b in enumerate(problem.buffers) if b.home is Home.USER}
    for last, op in pairwise(problem.ops):
        if op.phase < last.phase:
            raise ProblemError(
                f"op {op.name!r} of phase {op.phase} stands after phase {last.phase}"
            )
    for op in problem.ops:
        for b in (*op.reads, *op.mutates):
            if b not in made:
                name = problem.buffers[b].name
                raise ReadBeforeWriteError(f"op {op.name!r} uses {name!r} before any op makes it")
        for b in op.creates:
            if b in made:
                name = problem.buffers[b].name
                raise ReadBeforeWriteError(f"op {op.name!r} makes {name!r}, which exists already")
            made.add(b)
    for b, buffer in enumerate(problem.buffers):
        if b not in made:
            raise ReadBeforeWriteError(f"no op makes buffer {buffer.name!r}")


def _check_tiers(problem: Problem) -> None:
    for op in problem.ops:
        if op.lane in (Lane.COPY_IN, Lane.COPY_OUT):
            continue
        for b in op.touches:
            buffer = problem.buffers[b]
            if buffer.tier is not Tier.DEVICE:
                raise ProblemError(
                    f"op {op.name!r} of the lane {str(op.lane)!r} uses {buffer.name!r}, "
                    f"which lies in the tier {str(buffer.tier)!r}"
                )


def _check_acyclic(problem: Problem) -> None:
    waiting = [len(p) for p in problem.predecessors]
    ready = [i for i, n in enumerate(waiting) if n == 0]
    for i in ready:
        for s in problem.successors[i]:
            waiting[s] -= 1
            if waiting[s] == 0:
                ready.append(s)
    if len(ready) != len(problem.ops):
        stuck = [problem.ops[i].name for i, n in enumerate(waiting) if n]
        raise CycleError(f"ops wait for one another: {', '.join(map(repr, stuck[:5]))}")
    for i, before in enumerate(problem.predecessors):
        for p in before:
            if p > i:
                a, b = problem.ops[i].name, problem.ops[p].name
                raise ProblemError(f"program order runs {a!r} before {b!r}, which it waits for")
