"""The Problem: a training step with torch taken out.

Ops read, create and change buffers of known size. The ops stand in program order, which is a
valid order; a planner may choose any other that keeps the precedences.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import cached_property
from math import isfinite
from typing import TYPE_CHECKING

import msgspec

from roam.core.errors import (
    CycleError,
    DuplicateNameError,
    ProblemError,
    ReadBeforeWriteError,
    SizeError,
    UnknownReferenceError,
)

if TYPE_CHECKING:
    import networkx

BufferId = int  # index into Problem.buffers
OpId = int  # index into Problem.ops, which is also the op's place in program order

LARGEST = 2**62  # bytes of all buffers and scratch spaces together: sums of two stay in 64 bits
PHASES = 64  # forward and backward are two


class Kind(StrEnum):
    """What a buffer is to the person who trains."""

    PARAMETER = "parameter"
    INPUT = "input"
    STATE = "state"  # of the optimizer
    SAVED = "saved"  # written by the forward, read by the backward
    TEMPORARY = "temporary"
    GRADIENT = "gradient"  # the user's, in `.grad`
    RELEASED = "released"  # a gradient that a fold absorbs
    OUTPUT = "output"
    TANGENT = "tangent"  # the gradient of an output, which somebody else holds as well


class Home(StrEnum):
    """Who provides a buffer's memory."""

    ARENA = "arena"  # the plan may place it
    EXTERNAL = "external"  # allocated by itself during the step
    USER = "user"  # there before the step, and after it


class Buffer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One piece of memory. Views and aliases of it are the same buffer.

    `size` is in bytes, `align` is what its address must be a multiple of. `where` names the
    module that made it, for reports. `kept` buffers are the user's to hold once they are made:
    they live to the end of the step and never lie in the arena.
    """

    name: str
    size: int
    kind: Kind = Kind.TEMPORARY
    home: Home = Home.ARENA
    align: int = 64
    where: str = ""

    @property
    def kept(self) -> bool:
        return self.kind in (Kind.OUTPUT, Kind.GRADIENT, Kind.TANGENT)


class Op(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One operator.

    reads, creates, mutates: the buffers it reads, allocates and writes, and changes in place.
    over: pairs (created, read): the created buffer may take the place of the read one, where
        the read one dies at this op.
    scratch: bytes the operator allocates for itself while it runs.
    phase: 0 for the forward, 1 for the backward; every op of a phase runs before the next phase.
    cost: an estimate of the time it takes, in seconds.
    after: ops that must have run before, beyond what the buffers say (random state, effects).
    """

    name: str
    reads: tuple[BufferId, ...] = ()
    creates: tuple[BufferId, ...] = ()
    mutates: tuple[BufferId, ...] = ()
    over: tuple[tuple[BufferId, BufferId], ...] = ()
    scratch: int = 0
    phase: int = 0
    cost: float = 0.0
    after: tuple[OpId, ...] = ()
    where: str = ""

    @property
    def touches(self) -> Iterable[BufferId]:
        """Every buffer that must be alive while the op runs."""
        return dict.fromkeys((*self.reads, *self.mutates, *self.creates))


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
        _check_acyclic(self)

    @cached_property
    def maker(self) -> list[OpId | None]:
        """For every buffer the op that creates it, None for the user's own."""
        maker: list[OpId | None] = [None] * len(self.buffers)
        for i, op in enumerate(self.ops):
            for b in op.creates:
                maker[b] = i
        return maker

    @cached_property
    def users(self) -> list[list[OpId]]:
        """For every buffer the ops that read or change it, in program order, each once."""
        users: list[list[OpId]] = [[] for _ in self.buffers]
        for i, op in enumerate(self.ops):
            for b in dict.fromkeys((*op.reads, *op.mutates)):
                users[b].append(i)
        return users

    @cached_property
    def predecessors(self) -> list[tuple[OpId, ...]]:
        """For every op the ops it waits for, within its own phase and before it.

        A reader waits for the maker; who changes a buffer waits for those who used it before in
        program order, and those who use it afterwards wait for the change.
        """
        before: list[dict[OpId, None]] = [dict.fromkeys(op.after) for op in self.ops]
        for b, made_by in enumerate(self.maker):
            last_change = made_by
            readers: list[OpId] = []
            for i in self.users[b]:
                if last_change is not None and last_change != i:
                    before[i][last_change] = None
                if b in self.ops[i].mutates:
                    before[i].update(dict.fromkeys(r for r in readers if r != i))
                    last_change, readers = i, []
                else:
                    readers.append(i)
        return [tuple(p) for p in before]

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
    def persistent(self) -> int:
        """Bytes that are there before the step and after it."""
        return sum(b.size for b in self.buffers if b.home is Home.USER)

    @cached_property
    def fingerprint(self) -> str:
        """Names the graph: equal problems have equal fingerprints, in every process."""
        body = msgspec.json.encode((self.buffers, self.ops))
        return hashlib.sha256(body).hexdigest()[:16]

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
    last_phase = 0
    for op in problem.ops:
        if op.phase < last_phase:
            raise ProblemError(
                f"op {op.name!r} of phase {op.phase} stands after phase {last_phase}"
            )
        last_phase = op.phase
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


def names(problem: Problem, ids: Sequence[BufferId]) -> list[str]:
    """The names of some buffers, for messages."""
    return [problem.buffers[b].name for b in ids]
