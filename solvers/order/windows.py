"""Searches the windows of a known order, the times around its highest live bytes, for a better one.

    live          ╱╲              limit     A window is the times around the moments above the
    bytes  ______╱__╲____╱╲______           limit. An op in a window may run up to `reach` places
          ╲  ╱╲ ╱    ╲  ╱  ╲╱ ╲__           sooner or later, within the window. All other ops
           ╲╱  ╵      ╲╱                    stay in their places. A beam (`beam_search.py`)
               └ window ┘                   searches for an order within the limit.

One search moves ops in all windows of the order. If it finds no order, that proves nothing.

This is a large neighbourhood search. A longer reach lets more ops move, and so needs a wider beam
(more sets of ops searched). The search goes through a list of pairs of reach and width, the ladder:
to the next pair after a failure, back to the pair before after a success. Outside of the windows
there is one set to search at each time, so a search takes about as long as its windows need.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roam.core.problem import OpId, Problem
from roam.solvers.answer import Answer, minimized
from roam.solvers.order.beam_search import FOUND, a_step, both_ends, search
from roam.solvers.order.levels import NEVER, Net
from roam.solvers.order.tables import Ints, Tables, measured, tables
from roam.solvers.work import Work


@dataclass(frozen=True)
class Rung:
    """How far ops may move in a search of windows, and how many sets of ops the beam searches.

    Attributes:
        reach: limit on the places by which an op may run sooner or later. A window begins `reach`
            places before a moment above the limit, and ends `reach` places after it.
        width: limit on the sets of ops that the beam extends at each time.
    """

    reach: int
    width: int


@dataclass(frozen=True)
class Ladder:
    """The reaches and beam widths that a search of windows tries, and its limits on live bytes.

    Attributes:
        rungs: pairs of reach and width, from cheap to dear.
        first: distance of the first limit below the peak, as a share of the peak. The distance
            doubles after a success and halves after a failure.
        least: the shortest distance of a limit below the peak, as a share of the peak.
    """

    rungs: tuple[Rung, ...] = (
        Rung(20, 100),
        Rung(40, 100),
        Rung(40, 1000),
        Rung(80, 300),
        Rung(80, 1000),
        Rung(160, 300),
        Rung(160, 1000),
        Rung(320, 1000),
        Rung(320, 3000),
    )
    first: float = 2e-3
    least: float = 1e-3


LADDER = Ladder()


def search_windows(
    problem: Problem,
    phase: int,
    order: list[OpId],
    bound: int = 0,
    work: Work | None = None,
    ladder: Ladder = LADDER,
) -> Answer[list[OpId]]:
    """Searches for an order of a phase with a lower peak, by moving the ops in windows of an order.

    A window is the times around moments with more live bytes than a limit below the peak. Ends when
    the peak has come down to `bound`, after a failure with the last pair of reach and width, or
    when no work is left.

    Args:
        problem: the Problem whose phase is ordered.
        phase: the index of the phase.
        order: the ops of the phase, in an order that respects their precedences.
        bound: a peak in bytes that is low enough.
        work: limits the work and the time of the search; no limit if left out.
        ladder: how far ops may move, how wide the beams are, and how far limits are below the peak.

    Returns:
        The best order, its peak, and the bound as it was given. So the status OPTIMAL is a proof
        only if the caller has proven the bound. `Answer.work` is the number of beam searches.
    """
    ops, work = problem.phases[phase], work or Work()
    if not ops:
        return minimized(order, 0, bound, 0)
    windows = Windows(problem, phase, tables(problem, phase), work, ladder)
    place = {i: k for k, i in enumerate(ops)}
    peak, found = windows.improve(np.array([place[i] for i in order], np.int64), bound)
    return minimized([ops[k] for k in found], peak, bound, windows.searched)


class Windows:
    """Searches the windows of orders of one phase: the times around their highest live bytes.

    Attributes:
        arrays: the ops and buffers of the phase, to measure orders.
        work: limits the work and the time of all searches; the work done is added to it.
        ends: the phase as seen from its end and from its start, for the beam search.
        ladder: how far ops may move, how wide the beams are, and how far limits are below the peak.
        searched: the number of beam searches so far.
    """

    def __init__(
        self, problem: Problem, phase: int, arrays: Tables, work: Work, ladder: Ladder = LADDER
    ) -> None:
        self.arrays, self.work, self.ladder = arrays, work, ladder
        with work.uncounted():  # the first call of a process compiles the search
            self.ends = both_ends(problem, phase)
        self.searched = 0

    def improve(self, order: Ints, bound: int) -> tuple[int, Ints]:
        """Searches for an order with a lower peak than the given one, by moving ops in its windows.

        Args:
            order: by time, the op that runs then (its index in program order).
            bound: a peak in bytes. The search ends if it finds an order with a peak no higher.

        Returns:
            The lowest peak in bytes, and the order with that peak: the given one if none is better.
        """
        during = self.during(order)
        peak, step, rung = int(during.max()), self.ladder.first, 0
        while peak > bound and rung < len(self.ladder.rungs) and not self.work.is_over():
            limit = max(bound, int(peak * (1 - step)))
            found = self.within(order, during > limit, limit, self.ladder.rungs[rung])
            if found is not None and (lower := self.during(found)).max() < peak:
                order, during = found, lower
                peak, step, rung = int(during.max()), 2 * step, max(rung - 1, 0)
            else:
                step, rung = max(step / 2, self.ladder.least), rung + 1
        return peak, order

    def during(self, order: Ints) -> Ints:
        """Returns, by time, the bytes alive while the op at that time of `order` runs."""
        return measured(self.arrays, order)[1]

    def within(self, order: Ints, above: NDArray[np.bool_], limit: int, rung: Rung) -> Ints | None:
        """Searches for an order within `limit` bytes by moving ops in the windows of a known order.

        Searches from the end of the phase first, then from its start. Counts live bytes as if every
        op wrote over all dying buffers that it may ever write over, so the measured peak of the
        order may be above the limit. Returns None if the search finds no such order.

        Args:
            order: the known order: by time, the op that runs then.
            above: by time, whether more than `limit` bytes are alive; a window surrounds each such
                time.
            limit: the limit on live bytes.
            rung: how far ops may move, and how wide the beam is.
        """
        first, last = allowed(order, above, rung.reach)
        cost = a_step(len(order))
        for end in self.ends:
            first_seen, last_seen = seen_from(end, first, last)
            steps = int(self.work.steps(cost, NEVER))
            how, found, _, done = search(end, limit, rung.width, steps, first_seen, last_seen)
            self.work.spend(done * cost)
            self.searched += 1
            if how == FOUND:
                return found[::-1].copy() if end.mirrored else found
        return None


def allowed(order: Ints, above: NDArray[np.bool_], reach: int) -> tuple[Ints, Ints]:
    """Returns by op the first and the last time at which it may run in a search of windows.

    An op that is not ready at its last time, or not the most overdue one, runs later
    (`beam_search.search`).

    Args:
        order: by time, the op that runs then.
        above: by time, whether too many bytes are alive; a window surrounds each such time.
        reach: number of places that a window extends to either side of such a time, and limit on
            the places by which an op may move within a window.
    """
    n = len(order)
    free = np.zeros(n + 1, np.bool_)
    for t in np.nonzero(above)[0]:
        free[max(0, t - reach) : min(n, t + reach + 1)] = True
    edges = np.nonzero(np.diff(np.concatenate(([False], free))))[0]
    at = np.arange(n)
    first, last = at.copy(), at.copy()
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        first[start:stop] = np.maximum(at[start:stop] - reach, start)
        last[start:stop] = np.minimum(at[start:stop] + reach, stop - 1)
    by_op = np.empty((2, n), np.int64)
    by_op[0, order], by_op[1, order] = first, last
    return by_op[0], by_op[1]


def seen_from(end: Net, first: Ints, last: Ints) -> tuple[Ints, Ints]:
    """Converts the first and the last time at which each op may run to levels of a search.

    Level n of a search decides which op runs next when n ops have run, counted from the end of the
    phase at which the search begins.
    """
    return (len(first) - 1 - last, len(first) - 1 - first) if end.mirrored else (first, last)
