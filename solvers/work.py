"""Limits how long searches go on: by counted work, and by the clock as a last resort.

    seconds ──┬── × UNITS_A_SECOND ── units of work: the same number on every machine, busy or not
              └── + OVERHEAD, × patience ── the deadline: only a very slow machine reaches it

Since work is counted, the same problem gets the same plan on every machine and every rank, unless
the deadline ends a search that has units left. `cut_short` records that, and the plan reports it.

Each search counts steps of its own (ops run, arcs of a flow network, rectangles placed). A constant
beside the search says how many units one step costs. The constants were measured on one core of an
Intel Xeon server, with compiled searches, so that a unit is about a nanosecond. The constants need
not be exact: if a step takes twice as long, the search takes twice as long, with the same result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf

UNITS_A_SECOND = 10**9
# factor on the seconds until the deadline, so that a busy or slow machine finishes the work too
PATIENCE = 4.0
OVERHEAD = 2.5  # seconds allowed for work that no search counts, such as loading compiled code

Units = int


@dataclass
class Work:
    """The work that the searches for one plan may do together, and the work that they have done.

    Attributes:
        limit: the units that may be spent in all.
        deadline: the time, as `now` returns it, after which no search goes on. A search looks at
            the clock only between some of its steps, and may end a little later.
        clock: returns the present time in seconds.
        spent: the units spent so far. May exceed `limit`, because work is added after it is done.
        cut_short: whether a deadline, also one set by `share`, has ended a search that had units
            left.
        off_clock: the seconds that have passed and do not count towards the deadline.
    """

    limit: float = inf
    deadline: float = inf
    clock: Callable[[], float] = time.monotonic
    spent: Units = 0
    cut_short: bool = False
    off_clock: float = 0.0

    @staticmethod
    def worth(
        seconds: float,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> Work:
        """Returns a `Work` for searches that take about `seconds` together, beginning now.

        Args:
            seconds: the limit on the work; UNITS_A_SECOND converts it to units. inf for no limit.
            patience: the deadline is `patience` × (`seconds` + OVERHEAD) seconds from now.
            clock: returns the present time in seconds.
        """
        limit = seconds if seconds == inf else int(seconds * UNITS_A_SECOND)
        return Work(limit, clock() + patience * (seconds + OVERHEAD), clock)

    @property
    def left(self) -> float:
        """The units of work that may still be spent; inf without a limit."""
        return max(self.limit - self.spent, 0)

    def spend(self, units: Units) -> None:
        self.spent += units

    def now(self) -> float:
        """Returns the clock's time without the seconds that do not count towards the deadline."""
        return self.clock() - self.off_clock

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Keeps the seconds spent within the context from counting towards the deadline.

        Meant for the compilation of a search: only the first process that runs the search compiles
        it, and later processes load the machine code.
        """
        start = self.clock()
        try:
            yield
        finally:
            self.off_clock += self.clock() - start

    def is_late(self) -> bool:
        """Returns whether the deadline has passed, and if it has, sets `cut_short`.

        Call this method only in a search that would otherwise go on: `cut_short` means that the
        deadline has ended a search.
        """
        late = self.now() > self.deadline
        self.cut_short = self.cut_short or late
        return late

    def is_over(self) -> bool:
        """Returns whether a search has to stop: all units are spent, or the deadline has passed.

        If units are left and the deadline has passed, sets `cut_short`, as `is_late` does.
        """
        return self.spent >= self.limit or self.is_late()

    def steps(self, cost: Units, most: float = inf) -> float:
        """Returns how many steps a search may take if each costs `cost` units; at most `most`."""
        return min(most, self.left // cost) if self.left < inf else most

    @contextmanager
    def share(self, part: float) -> Iterator[None]:
        """Opens a context in which searches may use only the share `part` of what is left.

        The share is taken of the units left, and of the seconds left until the deadline. When the
        context ends, `limit` and `deadline` are what they were before.
        """
        limit, deadline = self.limit, self.deadline
        if limit < inf:
            self.limit = self.spent + int(part * self.left)
        if deadline < inf:
            now = self.now()
            self.deadline = now + part * (deadline - now)
        try:
            yield
        finally:
            self.limit, self.deadline = limit, deadline
