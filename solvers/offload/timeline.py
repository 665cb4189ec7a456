"""When transfers begin and end, on a link that writes in one queue and reads in another.

Writes run as early as they can, in the order in which the buffers are made. Reads run as late as
they can, in the order in which the buffers are needed. Both together leave the fewest bytes on the
device at every moment, if no transfer may be cut into parts.

    writes   [a ][b  ][c ]
    ops      ----------------|------------------
    reads                     [c ][b  ]    [a ]
                              needed: c     b     a
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roam.core.machine import Bytes, Seconds
from roam.core.problem import Lane
from roam.solvers.offload.movable import Movable, Timed


@dataclass(frozen=True)
class Link:
    """A way to a tier and back.

    Attributes:
        write: bytes a second to the tier.
        read: bytes a second from the tier.
        delay: seconds that each transfer takes beside.
        duplex: whether both directions run at their full rates at the same time.
    """

    write: float
    read: float
    delay: Seconds = 0.0
    duplex: bool = True

    def slower(self, factor: float) -> Link:
        return Link(self.write / factor, self.read / factor, self.delay * factor, self.duplex)

    def seconds(self, lane: Lane, size: Bytes) -> Seconds:
        """Returns how long a transfer in the direction of a copy lane takes on an idle link."""
        return self.delay + size / (self.write if lane is Lane.COPY_OUT else self.read)


@dataclass(frozen=True)
class Transfer:
    """One buffer, there and back.

    Attributes:
        moved: the buffer.
        wait: the op in front of which the write is waited for; the number of ops if it ends behind
            all of them.
        start: the op in front of which the read starts.
        written: second at which the write ends.
        reading: second at which the read starts.
    """

    moved: Movable
    wait: int
    start: int
    written: Seconds
    reading: Seconds


def transfers(step: Timed, moved: Sequence[Movable], link: Link) -> list[Transfer]:
    """Returns the transfers of these buffers, in the order in which they are made.

    A read that would have to start before the backward begins starts with it, and may end too late
    for the op that needs it. So may a read that would have to start before the write has ended.
    `late` returns those.
    """
    first = float(step.starts[step.boundary])
    written: list[Seconds] = []
    free = 0.0
    for m in moved:
        free = max(free, float(step.starts[m.made + 1])) + link.seconds(Lane.COPY_OUT, m.size)
        written.append(free)
    reading = [0.0] * len(moved)
    due = step.seconds
    for j in sorted(range(len(moved)), key=lambda j: (-moved[j].next, j)):
        due = min(due, float(step.starts[moved[j].next]))
        due -= link.seconds(Lane.COPY_IN, moved[j].size)
        reading[j] = due
    found = []
    for m, end, start in zip(moved, written, reading, strict=True):
        wait = max(m.last + 1, int(np.searchsorted(step.starts, end)))
        begin = int(np.searchsorted(step.starts, max(start, first), side="right")) - 1
        found.append(Transfer(m, wait, min(max(begin, step.boundary), m.next), end, start))
    return found


def late(step: Timed, found: Sequence[Transfer]) -> list[Transfer]:
    """Returns the transfers that would stall an op: two uses are too close together."""
    first = float(step.starts[step.boundary])
    return [t for t in found if t.reading < max(first, t.written) or t.wait >= t.start]


def live_with(step: Timed, found: Sequence[Transfer]) -> NDArray[np.int64]:
    """Returns the bytes alive while each op runs, if these buffers leave and come back."""
    change = np.zeros(len(step.live) + 1, np.int64)
    for t in found:
        if t.wait < t.start:
            change[t.wait] -= t.moved.size
            change[t.start] += t.moved.size
    return step.live + change[:-1].cumsum()


def peak_with(step: Timed, found: Sequence[Transfer]) -> Bytes:
    return int(live_with(step, found).max(initial=0))
