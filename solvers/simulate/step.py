"""Simulates a step whose buffers move to a tier and back: the times of ops, transfers and stalls.

The simulation works like roam/runtime/transfers.py. The ops of the order run one after another. The
start of a transfer only queues it, and each direction of the link serves its queue while ops run.
The wait for a transfer blocks until the transfer is over.

    ops    [f0   ][f1   ]s[f2   ]w.....[b2   ]        s: start of a write, w: wait for it
    out                   [h0        ]                .: stall
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roam.core.errors import UnpairedTransferError
from roam.core.lifetime import find_reuse, live_curve
from roam.core.machine import Bytes, Seconds
from roam.core.problem import Lane, Op, OpId, Problem
from roam.solvers.offload.timeline import Link
from roam.solvers.simulate.link_queues import LinkQueues

COPIES = (Lane.COPY_OUT, Lane.COPY_IN)
START, WAIT = ".start", ".wait"  # endings of the names of a transfer's two ops


@dataclass(frozen=True)
class Moving:
    """A transfer on the link.

    Attributes:
        name: the common part of the names of its two ops.
        lane: the direction.
        size: the bytes that it moves.
        queued: the second at which its start ran.
        begin: the second at which its first byte moves.
        end: the second at which it is over.
        stall: the seconds for which the wait for it blocked.
    """

    name: str
    lane: Lane
    size: Bytes
    queued: Seconds
    begin: Seconds
    end: Seconds
    stall: Seconds


@dataclass(frozen=True, eq=False)
class Timeline:
    """The times of an order's ops and of their transfers.

    Attributes:
        begin: by place in the order, the second at which the op begins. An op that waits for a
            transfer begins before its stall.
        end: by place in the order, the second at which the op ends.
        live: transient bytes alive on the device while each op runs.
        transfers: the transfers, in the order of their starts.
    """

    begin: NDArray[np.float64]
    end: NDArray[np.float64]
    live: NDArray[np.int64]
    transfers: tuple[Moving, ...]

    @property
    def seconds(self) -> Seconds:
        """The time of the whole step."""
        return float(self.end[-1]) if len(self.end) else 0.0

    @property
    def stall(self) -> Seconds:
        """The seconds for which waits blocked, summed over all transfers."""
        return sum(t.stall for t in self.transfers)

    @property
    def peak(self) -> Bytes:
        """The transient bytes alive on the device at the worst moment."""
        return int(self.live.max(initial=0))


@dataclass
class _Started:
    """A transfer whose start ran.

    Attributes:
        job: its number on the link.
        op: the op that starts it.
        size: the bytes that it moves.
        queued: the second at which its start ran.
        stall: the seconds for which the wait for it blocked; None until the wait runs.
    """

    job: int
    op: Op
    size: Bytes
    queued: Seconds
    stall: Seconds | None = None


def simulate(
    problem: Problem,
    order: Sequence[OpId],
    link: Link,
    elsewhere: Collection[str] = (),
) -> Timeline:
    """Returns when each op of an order would run, by the costs of the ops and the rates of a link.

    A transfer is a pair of ops with a copy lane whose names end in ".start" and ".wait". It moves
    the largest buffer that its start touches.

    Args:
        problem: a step, with or without transfers.
        order: an order of its ops.
        link: the rates of the link to the tier.
        elsewhere: names of the ops of transfers that use another link. They neither use this link
            nor block; they only take their own cost.

    Raises:
        UnpairedTransferError: a wait comes before its start, or one of the two is missing.
    """
    queues = LinkQueues(link.duplex)
    started: dict[str, _Started] = {}
    begin, end = np.empty(len(order)), np.empty(len(order))
    now = 0.0
    for t, i in enumerate(order):
        op, begin[t] = problem.ops[i], now
        if op.name in elsewhere:
            pass
        elif op.lane in COPIES and op.name.endswith(START):
            size = max(problem.buffers[b].size for b in op.touches)
            job = queues.put(op.lane, link.seconds(op.lane, size), now)
            started[op.name.removesuffix(START)] = _Started(job, op, size, now)
        elif op.lane in COPIES and op.name.endswith(WAIT):
            moving = started.get(op.name.removesuffix(WAIT))
            if moving is None:
                raise UnpairedTransferError(f"op {op.name!r} waits for what was not started")
            done = max(now, queues.wait(moving.job))
            moving.stall, now = done - now, done
        now += op.cost
        end[t] = now
    live = live_curve(problem, order, find_reuse(problem, order))
    moved = tuple(_moving(name, each, queues) for name, each in started.items())
    return Timeline(begin, end, np.array(live, np.int64), moved)


def _moving(name: str, started: _Started, queues: LinkQueues) -> Moving:
    if started.stall is None:
        raise UnpairedTransferError(f"no op waits for {started.op.name!r}: add {name + WAIT!r}")
    return Moving(
        name,
        started.op.lane,
        started.size,
        started.queued,
        queues.begin[started.job],
        queues.end[started.job],
        started.stall,
    )
