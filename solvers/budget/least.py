"""A lower bound on the peak of a step under every recomputation: what one op needs at once."""

from __future__ import annotations

from roam.core.lifetime import can_take
from roam.core.machine import Bytes
from roam.core.problem import Op, Problem


def least_peak(problem: Problem) -> Bytes:
    """Returns the bytes that no order and no recomputation of whole ops goes below.

    While an op runs, what it reads and makes is alive, and so is what its ancestors made for the
    user to keep. An op that may write over what it reads is taken to do so.
    """
    size = [b.transient for b in problem.buffers]
    kept = [b for b, buffer in enumerate(problem.buffers) if buffer.kept]
    bit = {b: 1 << n for n, b in enumerate(kept)}
    held: list[int] = []
    best = sum(size[b] for b in kept)
    earlier = 0  # what phases before this one keep
    phase = now = 0
    for i, op in enumerate(problem.ops):
        if op.phase != phase:
            phase, earlier = op.phase, earlier | now
        before = earlier
        for p in problem.predecessors[i]:
            before |= held[p]
        own = sum(bit.get(b, 0) for b in op.creates)
        held.append(before | own)
        now |= own
        touched = {*op.touches}
        rest = sum(size[b] for b in kept if before & bit[b] and b not in touched)
        best = max(best, rest + sum(size[b] for b in touched) - _taken(problem, op) + op.scratch)
    return best


def _taken(problem: Problem, op: Op) -> Bytes:
    """Returns the bytes of results that may be written over what the op reads."""
    pairs = [(a, b) for a, b in op.over if can_take(problem, a, b)]
    return sum(problem.buffers[a].transient for a in {a for a, _ in pairs})
