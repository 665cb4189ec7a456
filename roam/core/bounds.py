"""How low can any order go: the bytes that must be alive while an op runs.

Whatever the order, the ancestors of an op have run before it and its descendants run after it
(every op of an earlier phase is an ancestor, every op of a later one a descendant). So a buffer
that is made above the op and used below it is alive while it runs:

        made: a     made: b           While `op` runs, in any order,
           |   |       |                a    is alive: made before, read after
           |   op ---- | ---- out       out  is alive: `op` makes it
           |   |       |                b    may be gone, or not yet made: it hangs
        read: a     read: b                  together with `op` on neither side

The bound is the most that any one op sees. Both sides are sets of buffers, kept as the bits of
one integer an op, so that the union over all paths is one `|` an edge.

A buffer that is alive while an op runs, in any order, is alive then in program order too. So its
bit is needed only at the ops of its lifetime in program order. Buffers are looked at in groups of
similar lifetimes, one group after another:

    program order ->
       ----------           .          short-lived: few ops see a group
         ----------         .
            -----------     .
    -----------------------------      long-lived: every group takes a walk over most ops
       ------------------------------

So the memory is that of one group: the ops that see it, times its buffers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roam.core.lifetime import can_take, lifetimes
from roam.core.problem import BufferId, Op, OpId, Problem
from roam.core.proof import Bound, Kept, MustLive

Bits = int  # a set of buffers of a group: bit k is set when its buffer k is in it
Ints = NDArray[np.int64]

ROWS = 4096  # sets whose bytes are added up at once, so that the table of their bytes stays small


@dataclass(frozen=True)
class Grouping:
    """How buffers are grouped, which changes no bound, only the memory and time that it takes.

    members: most buffers of a group.
    short: ops: a buffer of no longer lifetime is short-lived.
    """

    members: int = 4096
    short: int = 1024


GROUPING = Grouping()


def must_live(problem: Problem) -> int:
    """Transient bytes of the device that no order can go below, the user's own not counted.

    An op that may write a new buffer over a dying one is taken to do so, hence the bound holds
    for plans with and without reuse. When the last op has run, whatever the user keeps is alive.
    """
    return must_live_bound(problem).value


def must_live_bound(problem: Problem, grouping: Grouping = GROUPING) -> Bound:
    """Returns the same with its proof: the op that sees the most, or what is kept to the end."""
    best = Bound(sum(b.transient for b in problem.buffers if b.kept), Kept())
    alive = problem.scratch.copy()
    still_used: set[tuple[OpId, BufferId]] = set()
    for group in _groups(problem, grouping):
        used = group.used(still_used)
        certain = [made & used for made, used in zip(group.made(), used, strict=True)]
        alive[group.first : group.last] += _totals(certain, group.sizes)
    for i, op in enumerate(problem.ops):
        if op.over:
            alive[i] -= _shared(problem, op, {b for _, b in op.over if (i, b) not in still_used})
    if len(alive) and alive.max() > best.value:
        return Bound(int(alive.max()), MustLive(int(alive.argmax())))
    return best


def certain(problem: Problem, op: OpId) -> frozenset[BufferId]:
    """The buffers that are alive while an op runs, whatever the order; the user's own left out.

    Of two that may be written over one another there, both are named.
    """
    phase = problem.ops[op].phase
    before = reached(op, problem.predecessors)
    after = reached(op, problem.successors)

    def is_made(b: BufferId) -> bool:
        maker = problem.maker[b]
        return maker is not None and (maker in before or problem.ops[maker].phase < phase)

    def is_used(b: BufferId) -> bool:
        uses = (problem.maker[b], *problem.users[b])
        kept = problem.buffers[b].kept
        return kept or any(
            u in after or problem.ops[u].phase > phase for u in uses if u is not None
        )

    return frozenset(b for b in range(len(problem.buffers)) if is_made(b) and is_used(b))


def reached(op: OpId, neighbours: Sequence[Sequence[OpId]]) -> set[OpId]:
    """Returns an op, and all ops that it reaches over one or several steps.

    By op, `neighbours` lists the ops to which one step leads: its predecessors, or its successors.
    """
    seen, stack = {op}, [op]
    while stack:
        for n in neighbours[stack.pop()]:
            if n not in seen:
                seen.add(n)
                stack.append(n)
    return seen


def _groups(problem: Problem, grouping: Grouping) -> Iterator[_Group]:
    """Yields groups of buffers. Every buffer with transient bytes is in one of them."""
    lives = lifetimes(problem, range(len(problem.ops)))
    members = grouping.members
    short: list[BufferId] = []
    long: list[BufferId] = []
    for b in sorted(range(len(lives)), key=lives.__getitem__):
        if not problem.buffers[b].transient:
            continue
        lower, upper = lives[b]
        if upper - lower > grouping.short:
            long.append(b)
            continue
        if short and (len(short) == members or lower - lives[short[0]][0] > grouping.short):
            yield _Group(problem, short, lives)
            short = []
        short.append(b)
    for group in (short, *(long[k : k + members] for k in range(0, len(long), members))):
        if group:
            yield _Group(problem, group, lives)


class _Group:
    """Some buffers, and the ops at which one of them is alive in program order.

    sizes: the bytes of each buffer, in the order of their bits.
    first, last: the ops are those with ids first <= id < last.
    """

    def __init__(
        self, problem: Problem, buffers: Sequence[BufferId], lives: Sequence[tuple[int, int]]
    ) -> None:
        self.problem = problem
        self.bit = {b: 1 << k for k, b in enumerate(buffers)}
        self.sizes = np.array([problem.buffers[b].size for b in buffers], np.int64)
        self.first = min(lives[b][0] for b in buffers)
        self.last = max(lives[b][1] for b in buffers)
        phases = range(len(problem.phases))
        self.makes, self.uses = defaultdict[OpId, Bits](int), defaultdict[OpId, Bits](int)
        self.made_earlier: list[Bits] = [0 for _ in phases]
        self.used_later: list[Bits] = [0 for _ in phases]
        for b, bit in self.bit.items():
            maker = problem.maker[b]
            assert maker is not None, "an op makes every buffer that is not the user's"
            uses = (maker, *problem.users[b])
            self.makes[maker] |= bit
            for op in uses:
                self.uses[op] |= bit
            for phase in phases[problem.ops[maker].phase + 1 :]:
                self.made_earlier[phase] |= bit
            last = max(problem.ops[op].phase for op in uses)
            for phase in phases if problem.buffers[b].kept else phases[:last]:
                self.used_later[phase] |= bit

    def made(self) -> list[Bits]:
        """For every op the buffers that it, an ancestor, or an earlier phase makes."""
        ops, before, first = self.problem.ops, self.problem.predecessors, self.first
        made: list[Bits] = []
        for i in range(first, self.last):
            bits = self.made_earlier[ops[i].phase] | self.makes.get(i, 0)
            for p in before[i]:
                if p >= first:
                    bits |= made[p - first]
            made.append(bits)
        return made

    def used(self, still_used: set[tuple[OpId, BufferId]]) -> list[Bits]:
        """For every op the buffers that it, a descendant, or a later phase uses, or the user keeps.

        Adds to `still_used` the pairs of an op and a buffer that the op could write over, if it
        were not used afterwards.
        """
        ops, after, first = self.problem.ops, self.problem.successors, self.first
        used: list[Bits] = [0] * (self.last - first)
        for i in reversed(range(first, self.last)):
            bits = self.used_later[ops[i].phase]
            for s in after[i]:
                if s < self.last:
                    bits |= used[s - first]
            still_used.update((i, b) for _, b in ops[i].over if bits & self.bit.get(b, 0))
            used[i - first] = bits | self.uses.get(i, 0)
        return used


def _shared(problem: Problem, op: Op, unused: set[BufferId]) -> int:
    """The most bytes that the op can save by writing new buffers over dying ones.

    unused: those of the buffers it may write over that are not used afterwards.
    """
    made: defaultdict[int, set[BufferId]] = defaultdict(set)
    dying: defaultdict[int, set[BufferId]] = defaultdict(set)
    for a, b in op.over:
        if b in unused and can_take(problem, a, b):
            size = problem.buffers[a].transient
            made[size].add(a)
            dying[size].add(b)
    return sum(size * min(len(made[size]), len(dying[size])) for size in made)


def _totals(sets: Sequence[Bits], sizes: Ints) -> Ints:
    """The bytes of each set of buffers: the sum of what the bytes of its bits stand for."""
    width = -(-len(sizes) // 8)
    padded = np.zeros((width, 8), np.int64)
    padded.flat[: len(sizes)] = sizes
    bits_of = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    worth = padded @ bits_of.T.astype(np.int64)  # by place of the byte, and by its value
    places = np.arange(width)
    totals = [np.zeros(0, np.int64)]
    for start in range(0, len(sets), ROWS):
        some = b"".join(bits.to_bytes(width, "little") for bits in sets[start : start + ROWS])
        rows = np.frombuffer(some, np.uint8).reshape(-1, width)
        totals.append(worth[places, rows].sum(axis=1))
    return np.concatenate(totals)
