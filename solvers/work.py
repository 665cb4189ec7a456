"""How long a search may go on: counted work, with the clock as a last resort.

    seconds ──┬── × UNITS_A_SECOND ── units of work: the same on every machine, busy or not
              └── + OVERHEAD, × patience ── the deadline: only a very slow machine reaches it

The same problem then gets the same plan on every machine and every rank. A search that the
deadline ends has less time than its work takes; `cut_short` records that, for the plan to say so.

Each search counts steps of its own (ops run, arcs of a flow network, rectangles placed) and has a
constant beside its code that says how many units one step is. The constants were measured on one
core of an Intel Xeon server, with compiled searches, so that a unit is about a nanosecond. They
need not be exact: where a step takes twice as long, the search takes twice as long and finds the
same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf

UNITS_A_SECOND = 10**9
PATIENCE = 4.0  # times the seconds: two busy processes beside it, and a machine half as fast
OVERHEAD = 2.5  # seconds: what is not counted, such as loading and compiling the searches

Units = int


@dataclass
class Work:
    """What the searches for one plan may do together, and what they have done.

    limit: units. deadline: a time of `clock`, in seconds. spent: units. cut_short: whether the
    deadline has ended a search that had work left.
    """

    limit: float = inf
    deadline: float = inf
    clock: Callable[[], float] = time.monotonic
    spent: Units = 0
    cut_short: bool = False

    @staticmethod
    def worth(
        seconds: float,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> Work:
        """Returns the work of so many seconds, from now on.

        patience: after how many times `seconds` and the overhead the clock ends the searches.
        """
        limit = seconds if seconds == inf else int(seconds * UNITS_A_SECOND)
        return Work(limit, clock() + patience * (seconds + OVERHEAD), clock)

    @property
    def left(self) -> float:
        """Units that are left; inf without a limit."""
        return max(self.limit - self.spent, 0)

    def spend(self, units: Units) -> None:
        self.spent += units

    def is_late(self) -> bool:
        """Whether the deadline is past. Asked only by a search that would go on otherwise."""
        late = self.clock() > self.deadline
        self.cut_short = self.cut_short or late
        return late

    def is_over(self) -> bool:
        """Whether to stop: all work is done, or the deadline is past."""
        return self.spent >= self.limit or self.is_late()

    def steps(self, cost: Units, most: float = inf) -> float:
        """How many steps of that many units each are left, at most `most`."""
        return min(most, self.left // cost) if self.left < inf else most

    @contextmanager
    def share(self, part: float) -> Iterator[None]:
        """Leaves, within the context, only that part of the work and of the time that are left."""
        limit, deadline = self.limit, self.deadline
        if limit < inf:
            self.limit = self.spent + int(part * self.left)
        if deadline < inf:
            now = self.clock()
            self.deadline = now + part * (deadline - now)
        try:
            yield
        finally:
            self.limit, self.deadline = limit, deadline
