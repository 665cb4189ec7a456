"""Simulates a link to a tier: each direction serves one queue of transfers, first in, first out.

out    [a      ][b  ]              full duplex: both directions run at their own rates
in            [c    ]

out    [a      ~~~~~~][b  ]        half duplex: while both directions are busy, each runs at half
in            [c ~~~~~~]           its rate (~), like two threads that share one disk
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field

from roam.core.machine import Seconds
from roam.core.problem import Lane

Job = int  # number of a transfer: transfers are numbered in the order in which they are queued


@dataclass
class _UnderWay:
    """The job that a direction is serving, and the second at which it will end.

    On a half duplex link, the end moves if the other direction gets busy or idle.
    """

    job: Job
    end: Seconds


@dataclass
class LinkQueues:
    """The state of a link at a time that only moves forward.

    Attributes:
        duplex: whether both directions run at their full rates at the same time.
        begin: by job, the second at which it begins; without the jobs that still wait.
        end: by job, the second at which it ends; without the jobs that have not ended.
    """

    duplex: bool = True
    begin: dict[Job, Seconds] = field(default_factory=dict)
    end: dict[Job, Seconds] = field(default_factory=dict)
    _jobs: int = 0
    _queued: dict[Lane, deque[tuple[Job, Seconds]]] = field(
        default_factory=lambda: defaultdict(deque)
    )
    _under_way: dict[Lane, _UnderWay] = field(default_factory=dict)

    def put(self, lane: Lane, seconds: Seconds, now: Seconds) -> Job:
        """Queues a job that takes `seconds` on an idle link, and returns its number.

        `now` must not decrease over calls, nor be before a second that `wait` has returned.
        """
        self._advance(now)
        job, self._jobs = self._jobs, self._jobs + 1
        self._queued[lane].append((job, seconds))
        if lane not in self._under_way:
            self._serve(lane, now)
        return job

    def wait(self, job: Job) -> Seconds:
        """Returns the second at which a job ends, if no job is queued before that second.

        The link moves on to that second, so `put` takes no earlier time from then on.
        """
        while job not in self.end:
            self._finish_first()
        return self.end[job]

    def _advance(self, now: Seconds) -> None:
        while self._under_way and min(u.end for u in self._under_way.values()) <= now:
            self._finish_first()

    def _finish_first(self) -> None:
        lane = min(self._under_way, key=lambda lane: self._under_way[lane].end)
        done = self._under_way.pop(lane)
        self.end[done.job] = done.end
        self._stretch(done.end, 0.5)
        if self._queued[lane]:
            self._serve(lane, done.end)

    def _serve(self, lane: Lane, now: Seconds) -> None:
        """Begins the next job of a direction, which must be idle and have a job that waits."""
        job, seconds = self._queued[lane].popleft()
        self.begin[job] = now
        self._stretch(now, 2.0)
        busy = not self.duplex and bool(self._under_way)
        self._under_way[lane] = _UnderWay(job, now + seconds * (2.0 if busy else 1.0))

    def _stretch(self, now: Seconds, factor: float) -> None:
        """Multiplies the remaining time of running jobs by a factor, if the link is half duplex."""
        if not self.duplex:
            for other in self._under_way.values():
                other.end = now + (other.end - now) * factor
