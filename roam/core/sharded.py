"""Turns a Problem into that of one rank among several that share each parameter (fully_shard).

    in the Problem               on one rank of n
    ---------------------------  -------------------------------------------------------
    parameter                    a shard of 1/n, there all the time
    state of the optimizer       a shard
    read of a parameter          a read of the whole one, made by the gather of its unit
    gradient                     a shard, made by the reduction of its unit's gradients

    forward     gather 0   gather 1   unit 0   gather 2   unit 1   unit 2
    backward    gather 1   unit 2   reduce 2   gather 0   unit 1   reduce 1   unit 0   reduce 0

A unit is a layer, by the names of modules: up to the first number in it, "model.layers.3". The rest
of the model is one more unit, the root, which stays whole from the forward to the last gradient.
While a unit runs, the next one is gathered, and no more. Gathers and reductions copy between one
flat tensor and those of the parameters: so does torch.distributed.fsdp (_fsdp_collectives.py).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from roam.core.errors import OptionError
from roam.core.machine import Bytes
from roam.core.problem import Buffer, BufferId, Home, Kind, Lane, Op, OpId, Problem

ROOT = ""  # the unit of what is in no layer
FIRST_NUMBER = re.compile(r"(.*?\b\d+)(\.|$)")


@dataclass(frozen=True)
class Sharding:
    """How ranks share parameters.

    Attributes:
        ranks: how many there are.
        widen: bytes of an element of a shard for each byte of the gathered one: 2 for shards in
            float32 that are gathered in bfloat16 (MixedPrecisionPolicy(param_dtype=...)). Gradients
            are then reduced in float32, and states of the parameter's size are as wide.

    Raises:
        OptionError: there are no ranks.
    """

    ranks: int
    widen: int = 1

    def __post_init__(self) -> None:
        if self.ranks < 1 or self.widen < 1:
            raise OptionError(f"a mesh has at least one rank, and not {self}")

    def shard(self, size: Bytes) -> Bytes:
        """Returns the bytes that a rank has of a tensor of `size` bytes, padded to equal shards."""
        return -(-size // self.ranks) * self.widen


def sharded(problem: Problem, how: Sharding) -> Problem:
    """Returns the Problem of one of the ranks that share the parameters of this one's step."""
    return _Sharder(problem, how).sharded()


def unit_of(path: str) -> str:
    """Returns the unit of a parameter's name, or of the path of a module."""
    found = FIRST_NUMBER.match(path)
    return ROOT if found is None else found[1]


@dataclass
class _Sharder:
    """Writes the ops of a Problem anew, and adds collectives where units begin and end.

    Attributes:
        buffers: the new buffers: first those of the Problem, some with other sizes.
        ops: the new ops.
        place: by index of an old op, that of the new one.
        units: by unit, its parameters.
        whole: by parameter, the gathered one that an op reads now.
        made: by unit, its gradients.
        gradients: by gradient, its unit.
        left: by unit, how many of its gradients are not made yet.
        shards: by gradient, the shard that its reduction has made.
        folds: by unit, the folds that wait for its reduction.
        last: by kind of collective, the last one.
        phase: that ops are added to.
    """

    problem: Problem
    how: Sharding
    buffers: list[Buffer] = field(init=False)
    ops: list[Op] = field(default_factory=list)
    place: dict[OpId, OpId] = field(default_factory=dict)
    units: dict[str, list[BufferId]] = field(default_factory=dict)
    whole: dict[BufferId, BufferId] = field(default_factory=dict)
    made: dict[str, list[BufferId]] = field(default_factory=dict)
    gradients: dict[BufferId, str] = field(default_factory=dict)
    left: Counter[str] = field(init=False)
    shards: dict[BufferId, BufferId] = field(default_factory=dict)
    folds: dict[str, list[OpId]] = field(default_factory=dict)
    last: dict[str, OpId] = field(default_factory=dict)
    phase: int = 0

    def __post_init__(self) -> None:
        self.buffers = list(self.problem.buffers)
        for b, buffer in enumerate(self.problem.buffers):
            if buffer.home is Home.USER and buffer.kind is Kind.PARAMETER:
                self.units.setdefault(unit_of(buffer.name), []).append(b)
            elif buffer.kind in (Kind.GRADIENT, Kind.RELEASED) and buffer.home is not Home.USER:
                self.gradients[b] = unit_of(buffer.where)
                self.made.setdefault(self.gradients[b], []).append(b)
        self.parameters = {b for params in self.units.values() for b in params}
        self.left = Counter(self.gradients.values())

    def sharded(self) -> Problem:
        for phase, ops in enumerate(self.problem.phases):
            self.phase = phase
            root = self.units.get(ROOT, ())  # the backward gathers all others anew
            self.whole = {b: made for b, made in self.whole.items() if b in root}
            begun = self.gathered_before(ops)
            for i in ops:
                if self.is_fold(i):
                    self.fold(i)
                else:
                    self.copy(i, [self.gather(unit) for unit in begun.get(i, ())])
                    self.reduce_after(i)
        self.shrink()
        return replace(self.problem, buffers=tuple(self.buffers), ops=tuple(self.ops))

    def gathered_before(self, ops: Sequence[OpId]) -> dict[OpId, list[str]]:
        """Returns by op of a phase which units are gathered before it runs.

        It is the first op of the unit before, in the order in which ops first read parameters.
        """
        first: dict[str, OpId] = {}
        for i in ops:
            if not self.is_fold(i):
                for b in self.problem.ops[i].reads:
                    if b in self.parameters and b not in self.whole:
                        first.setdefault(unit_of(self.problem.buffers[b].name), i)
        begin, before = [*first.values()], defaultdict[OpId, list[str]](list)
        for at, unit in enumerate(first):
            before[begin[max(0, at - 1)]].append(unit)
        return before

    def is_fold(self, i: OpId) -> bool:
        changed = (self.problem.buffers[b].kind for b in self.problem.ops[i].mutates)
        return any(kind in (Kind.STATE, Kind.PARAMETER) for kind in changed)

    def gather(self, unit: str) -> OpId:
        """Adds the gather of a unit."""
        params = self.units[unit]
        backward = " in the backward" * (self.phase > 0)
        made: list[BufferId] = []
        for b in params:
            old = self.problem.buffers[b]
            name = f"{old.name}, whole{backward}"
            made.append(self.add(replace(old, name=name, kind=Kind.TEMPORARY, home=Home.EXTERNAL)))
            self.whole[b] = made[-1]
        op = Op(f"gather {unit or 'root'}{backward}", tuple(params), tuple(made))
        return self.collective("gather", op, sum(self.buffers[b].size for b in made))

    def reduce_after(self, i: OpId) -> None:
        """Adds the reductions of the units whose last gradient this op makes, and their folds."""
        units = [self.gradients[b] for b in self.problem.ops[i].creates if b in self.gradients]
        for unit in units:
            self.left[unit] -= 1
        for unit in dict.fromkeys(units):
            if self.left[unit]:
                continue
            whole, made = self.made[unit], []
            for b in whole:
                old = self.problem.buffers[b]
                size = self.how.shard(old.size)
                shard = replace(old, name=f"{old.name}, shard", size=size, home=Home.EXTERNAL)
                made.append(self.add(shard))
                self.buffers[b] = replace(old, kind=Kind.TEMPORARY)
            self.shards |= dict(zip(whole, made, strict=True))
            op = Op(f"reduce {unit or 'root'}", tuple(whole), tuple(made))
            size = sum(self.problem.buffers[b].size for b in whole)
            self.collective("reduce", op, size * self.how.widen)
            for fold in self.folds.pop(unit, ()):
                self.copy(fold, (), self.shards)

    def fold(self, i: OpId) -> None:
        """Adds a fold, or keeps it until the gradient that it reads is reduced."""
        read = next((b for b in self.problem.ops[i].reads if b in self.gradients), None)
        if read is None or read in self.shards:
            self.copy(i, (), self.shards)
        else:
            self.folds.setdefault(self.gradients[read], []).append(i)

    def collective(self, kind: str, op: Op, scratch: Bytes) -> OpId:
        """Adds a collective after the last one of its kind."""
        after = (self.last[kind],) if kind in self.last else ()
        how = {"scratch": scratch, "phase": self.phase, "after": after, "once": True}
        self.ops.append(replace(op, lane=Lane.COMMUNICATION, **how))
        self.last[kind] = len(self.ops) - 1
        return self.last[kind]

    def copy(
        self, i: OpId, more: Sequence[OpId], shards: dict[BufferId, BufferId] | None = None
    ) -> None:
        """Adds an op of the Problem, which reads whole parameters, or shards of gradients."""
        old, here = self.problem.ops[i], self.whole if shards is None else shards
        reads = tuple(here.get(b, b) for b in old.reads)
        after = (*(self.place[p] for p in old.after), *more)
        scratch = old.scratch if shards is None else self.how.shard(old.scratch)
        self.ops.append(
            replace(old, reads=reads, after=tuple(dict.fromkeys(after)), scratch=scratch)
        )
        self.place[i] = len(self.ops) - 1

    def add(self, buffer: Buffer) -> BufferId:
        self.buffers.append(buffer)
        return len(self.buffers) - 1

    def shrink(self) -> None:
        """Gives parameters and the states of folds the sizes of shards."""
        sizes = {b.size for b in map(self.problem.buffers.__getitem__, self.parameters)}
        for b, buffer in enumerate(self.problem.buffers):
            if b in self.parameters:
                self.buffers[b] = replace(buffer, size=self.how.shard(buffer.size))
            elif buffer.home is Home.USER and buffer.kind is Kind.STATE:
                size = self.how.shard(buffer.size)
                wide = size if buffer.size in sizes else size // self.how.widen
                self.buffers[b] = replace(buffer, size=wide)
