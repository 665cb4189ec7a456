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
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from roam.core.lifetime import can_take
from roam.core.problem import BufferId, Home, Op, OpId, Problem
from roam.core.proof import Bound, Kept, MustLive

Bits = int  # a set of buffers: bit b is set when buffer b is in it


def must_live(problem: Problem) -> int:
    """Transient bytes of the device that no order can go below, the user's own not counted.

    An op that may write a new buffer over a dying one is taken to do so, hence the bound holds
    for plans with and without reuse. When the last op has run, whatever the user keeps is alive.
    15,000 ops take about a second.
    """
    return must_live_bound(problem).value


def must_live_bound(problem: Problem) -> Bound:
    """Returns the same with its proof: the op that sees the most, or what is kept to the end."""
    made = _made(problem)
    used, later = _used(problem)
    sizes = np.array([b.transient for b in problem.buffers], np.int64)
    kept = sum(b.transient for b in problem.buffers if b.kept)
    best = Bound(kept, Kept())
    for i, op in enumerate(problem.ops):
        alive = _total(made[i] & used[i], sizes) - _shared(problem, op, later[i]) + op.scratch
        if alive > best.value:
            best = Bound(alive, MustLive(i))
    return best


def certain(problem: Problem, op: OpId) -> frozenset[BufferId]:
    """The buffers that are alive while an op runs, whatever the order; the user's own left out.

    Of two that may be written over one another there, both are named.
    """
    made, (used, _) = _made(problem), _used(problem)
    both = made[op] & used[op]
    return frozenset(
        b
        for b, buffer in enumerate(problem.buffers)
        if both >> b & 1 and buffer.home is not Home.USER
    )


def _made(problem: Problem) -> list[Bits]:
    """For every op the buffers that it or an ancestor makes."""
    made: list[Bits] = []
    earlier_phases = all_made = phase = 0
    for i, op in enumerate(problem.ops):
        if op.phase != phase:
            earlier_phases, phase = all_made, op.phase
        bits = earlier_phases | _bits(op.creates)
        for p in problem.predecessors[i]:
            bits |= made[p]
        all_made |= bits
        made.append(bits)
    return made


def _used(problem: Problem) -> tuple[list[Bits], list[Bits]]:
    """For every op the buffers that the user keeps, and those that it or a descendant uses; and
    the same without those that only the op itself uses.
    """
    used: list[Bits] = [0] * len(problem.ops)
    later = used.copy()
    later_phases = all_used = _bits(b for b, buffer in enumerate(problem.buffers) if buffer.kept)
    phase = problem.ops[-1].phase if problem.ops else 0
    for i in reversed(range(len(problem.ops))):
        op = problem.ops[i]
        if op.phase != phase:
            later_phases, phase = all_used, op.phase
        later[i] = later_phases
        for s in problem.successors[i]:
            later[i] |= used[s]
        used[i] = later[i] | _bits(op.touches)
        all_used |= used[i]
    return used, later


def _shared(problem: Problem, op: Op, later: Bits) -> int:
    """The most bytes that the op can save by writing new buffers over dying ones."""
    made: defaultdict[int, set[BufferId]] = defaultdict(set)
    dying: defaultdict[int, set[BufferId]] = defaultdict(set)
    for a, b in op.over:
        if can_take(problem, a, b) and not later >> b & 1:
            size = problem.buffers[a].transient
            made[size].add(a)
            dying[size].add(b)
    return sum(size * min(len(made[size]), len(dying[size])) for size in made)


def _bits(buffers: Iterable[BufferId]) -> Bits:
    bits = 0
    for b in buffers:
        bits |= 1 << b
    return bits


def _total(bits: Bits, sizes: np.ndarray[tuple[int], np.dtype[np.int64]]) -> int:
    """The bytes of a set of buffers."""
    packed = np.frombuffer(bits.to_bytes(len(sizes) // 8 + 1, "little"), np.uint8)
    members = np.unpackbits(packed, count=len(sizes), bitorder="little").astype(bool)
    return int(sizes[members].sum())
