"""Computes when transfers begin and end on a link that has one queue for writes and one for reads.

Writes run as early as possible, in the order in which the buffers are made. Reads run as late as
possible, in the order in which the buffers are needed. With these orders, no other times leave
fewer bytes on the device at any moment, if no transfer may be cut into parts. Here the two queues
never slow each other, even if the link is half duplex: only `simulate.step` counts that.

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
    """The rates of transfers to a tier and back.

    Attributes:
        write: bytes a second to the tier.
        read: bytes a second from the tier.
        delay: seconds that each transfer takes in addition.
        duplex: whether both directions run at their full rates at the same time.
    """

    write: float
    read: float
    delay: Seconds = 0.0
    duplex: bool = True

    def slower(self, factor: float) -> Link:
        return Link(self.write / factor, self.read / factor, self.delay * factor, self.duplex)

    def seconds(self, lane: Lane, size: Bytes) -> Seconds:
        """Returns how long a transfer takes on an idle link: a write if `lane` is COPY_OUT."""
        return self.delay + size / (self.write if lane is Lane.COPY_OUT else self.read)


@dataclass(frozen=True)
class Transfer:
    """The transfers of one buffer, to the tier and back.

    Attributes:
        moved: the buffer.
        wait: the op before which the write is waited for; the number of ops if the write ends
            after all of them.
        start: the op before which the read starts.
        written: second at which the write ends.
        reading: the last second at which the read may start, so that its buffer and those needed
            later are back in time. If this second is before the write ends or before the backward
            begins, the transfer would stall an op (`is_late`).
    """

    moved: Movable
    wait: int
    start: int
    written: Seconds
    reading: Seconds


@dataclass(frozen=True)
class Places:
    """The transfers of several buffers: arrays with one entry a buffer.

    Attributes:
        wait: the op before which the write is waited for; the number of ops if it ends after all.
        start: the op before which the read starts.
        written: second at which the write ends.
        reading: the last second at which the read may start, to be back in time (`Transfer`).
    """

    wait: NDArray[np.int64]
    start: NDArray[np.int64]
    written: NDArray[np.float64]
    reading: NDArray[np.float64]


@dataclass(frozen=True)
class Candidates:
    """Buffers that may leave, in the order in which they are made, as arrays.

    Attributes:
        size: by buffer, its size in bytes.
        last: by buffer, the last op of the forward that uses it; the op that makes it if none does.
        next: by buffer, the first op of the backward that uses it.
        made: by buffer, the second at which the op that makes it ends.
        used: by buffer, the second at which its op in `next` starts.
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
        """Returns the transfers if all of these buffers move, and no others.

        No read starts before the backward begins. If a read had to start before that, or before its
        write has ended, to be in time, then `is_late` returns True for the transfer.
        """
        first = step.starts[step.boundary]
        written = ends(self.made, link.delay + self.size / link.write)
        turn = np.argsort(-self.next, kind="stable")
        reading = np.empty(len(turn))
        reading[turn] = starts(self.used[turn], (link.delay + self.size / link.read)[turn])
        wait = np.maximum(self.last + 1, np.searchsorted(step.starts, written))
        begin = np.searchsorted(step.starts, np.maximum(reading, first), side="right") - 1
        start = np.minimum(np.maximum(begin, step.boundary), self.next)
        return Places(wait, start, written, reading)

    def live(self, step: Timed, places: Places) -> NDArray[np.int64]:
        """Returns the bytes alive while each op runs, if the buffers are away as `places` says."""
        return _live(step, self.size, places.wait, places.start)


def ends(ready: NDArray[np.float64], took: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the seconds at which the jobs of a queue end.

    All arrays list the jobs in the order in which they run. A job begins at its second in `ready`,
    or when the job before it ends if that is later.

    Args:
        ready: by job, the second from which on it may begin.
        took: by job, how many seconds it takes.
    """
    done = np.cumsum(took)
    return done + np.maximum.accumulate(ready - (done - took))


def starts(due: NDArray[np.float64], took: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the seconds at which the jobs of a queue start, if each starts as late as possible.

    This is `ends` with time reversed: all arrays list the job that runs last first.

    Args:
        due: by job, the second at which it must have ended.
        took: by job, how many seconds it takes.
    """
    return -ends(-due, took)


def transfers(step: Timed, moved: Sequence[Movable], link: Link) -> list[Transfer]:
    """Returns the transfers if all of `moved` move, in the same order.

    The buffers of `moved` must be in the order in which they are made.
    """
    found = Candidates.of(step, moved).placed(step, link)
    columns = (found.wait, found.start, found.written, found.reading)
    rows = zip(moved, *(column.tolist() for column in columns), strict=True)
    return [Transfer(*row) for row in rows]


def is_late(step: Timed, found: Places | Transfer) -> NDArray[np.bool_]:
    """Returns, by transfer, whether it would stall an op.

    A transfer would stall an op if its read has to start before the backward begins or before its
    write has ended. It would also stall an op if the op before which the read starts does not come
    after the op before which the write is waited for.
    """
    first = step.starts[step.boundary]
    late = found.reading < np.maximum(first, found.written)
    return np.logical_or(late, np.greater_equal(found.wait, found.start))


def late(step: Timed, found: Sequence[Transfer]) -> list[Transfer]:
    """Returns the transfers that would stall an op."""
    return [t for t in found if is_late(step, t)]


def live_with(step: Timed, found: Sequence[Transfer]) -> NDArray[np.int64]:
    """Returns the bytes alive on the device while each op runs, if these transfers take place."""
    rows = [(t.moved.size, t.wait, t.start) for t in found]
    return _live(step, *np.array(rows, np.int64).reshape(-1, 3).T)


def peak_with(step: Timed, found: Sequence[Transfer]) -> Bytes:
    return int(live_with(step, found).max(initial=0))


def _live(
    step: Timed, size: NDArray[np.int64], wait: NDArray[np.int64], start: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Returns the bytes alive while each op runs, if each buffer is away from `wait` to `start`.

    `size`, `wait` and `start` have one entry a buffer; the latter two are ops. A buffer whose
    `start` is not after its `wait` is never away.
    """
    away = wait < start
    change = np.zeros(len(step.live) + 1, np.int64)
    np.subtract.at(change, wait[away], size[away])
    np.add.at(change, start[away], size[away])
    return step.live + change[:-1].cumsum()
