"""Runs an order of ops beside its transfers, on paper: how long it takes, and what waits.

Each direction carries its transfers one after another, in the order of their starts. The start and
the wait of a transfer are named after it: `x.start` and `x.wait`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from roam.core.machine import Seconds
from roam.core.problem import Lane, OpId, Problem, Tier
from roam.solvers.offload.timeline import Link


@dataclass(frozen=True)
class Timing:
    """What an order takes.

    Attributes:
        seconds: from its first op to its last one.
        stalled: those of them in which it waits for transfers.
    """

    seconds: Seconds
    stalled: Seconds


def timing(problem: Problem, order: Sequence[OpId], link: Link) -> Timing:
    """Returns what an order takes, by the costs of its ops and the rates of the link."""
    now = stalled = 0.0
    free = {Lane.COPY_IN: 0.0, Lane.COPY_OUT: 0.0}
    rate = {Lane.COPY_IN: link.read, Lane.COPY_OUT: link.write}
    ends: dict[str, Seconds] = {}
    for op in (problem.ops[i] for i in order):
        if op.lane not in free:
            now += op.cost
            continue
        name, _, end = op.name.rpartition(".")
        if end == "start":
            buffers = (problem.buffers[b] for b in op.touches)
            size = max((b.size for b in buffers if b.tier is Tier.DEVICE), default=0)
            free[op.lane] = max(free[op.lane], now) + link.delay + size / rate[op.lane]
            ends[name] = free[op.lane]
        elif (ready := ends.get(name, 0.0)) > now:
            stalled += ready - now
            now = ready
    return Timing(now, stalled)
