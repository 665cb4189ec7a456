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


@dataclass(frozen=True)
class Places:
    """Where the transfers of some buffers begin and end, one entry a buffer. See `Transfer`.

    Attributes:
        wait, start: ops.
        written, reading: seconds.
        late: whether an op would stall.
    """

    wait: NDArray[np.int64]
    start: NDArray[np.int64]
    written: NDArray[np.float64]
    reading: NDArray[np.float64]
    late: NDArray[np.bool_]


@dataclass(frozen=True)
class Candidates:
    """Buffers that may leave, in the order in which they are made, as arrays.

    Attributes:
        size: bytes.
        last, next: ops, as of a `Movable`.
        made, used: seconds at which a buffer is made, and at which the backward first uses it.
    """

    size: NDArray[np.int64]
    last: NDArray[np.int64]
    next: NDArray[np.int64]
    made: NDArray[np.float64]
    used: NDArray[np.float64]

    @staticmethod
    def of(step: Timed, movable: Sequence[Movable]) -> Candidates:
        size, last, following, made = (
            np.array([getattr(m, name) for m in movable], np.int64)
            for name in ("size", "last", "next", "made")
        )
        return Candidates(size, last, following, step.starts[made + 1], step.starts[following])

    def some(self, chosen: NDArray[np.bool_]) -> Candidates:
        return Candidates(
            self.size[chosen],
            self.last[chosen],
            self.next[chosen],
            self.made[chosen],
            self.used[chosen],
        )

    def placed(self, step: Timed, link: Link) -> Places:
        """Returns where the transfers run if all of these buffers move, and no other ones.

        A read that would have to start before the backward begins starts with it, and may end too
        late for the op that needs it. So may a read that would have to start before the write has
        ended. Those are late.
        """
        first = step.starts[step.boundary]
        # a queue: each begins when it may, or when the one before is done
        took = link.delay + self.size / link.write
        done = np.cumsum(took)
        written = done + np.maximum.accumulate(self.made - (done - took))
        # the same from the end of the step on, the one that is needed last first
        turn = np.argsort(-self.next, kind="stable")
        took = (link.delay + self.size / link.read)[turn]
        done = np.cumsum(took)
        reading = np.empty(len(turn))
        reading[turn] = np.minimum.accumulate(self.used[turn] + (done - took)) - done
        wait = np.maximum(self.last + 1, np.searchsorted(step.starts, written))
        begin = np.searchsorted(step.starts, np.maximum(reading, first), side="right") - 1
        start = np.minimum(np.maximum(begin, step.boundary), self.next)
        late = (reading < np.maximum(first, written)) | (wait >= start)
        return Places(wait, start, written, reading, late)

    def live(self, step: Timed, places: Places) -> NDArray[np.int64]:
        """Returns the bytes alive while each op runs, if these buffers leave and come back."""
        away = places.wait < places.start
        change = np.zeros(len(step.live) + 1, np.int64)
        np.subtract.at(change, places.wait[away], self.size[away])
        np.add.at(change, places.start[away], self.size[away])
        return step.live + change[:-1].cumsum()


def transfers(step: Timed, moved: Sequence[Movable], link: Link) -> list[Transfer]:
    """Returns the transfers of these buffers, in the order in which they are made."""
    found = Candidates.of(step, moved).placed(step, link)
    columns = (found.wait, found.start, found.written, found.reading)
    rows = zip(moved, *(column.tolist() for column in columns), strict=True)
    return [Transfer(*row) for row in rows]


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
