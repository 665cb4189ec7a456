"""Local search: improves the order of a phase if the exact search does not find the best one.

    peak ── limit 1 % below ── anneal ──┬── limit met: the next limit is 1 % below the new peak
      ^                                 └── not met: the next limit is half as far below the peak
      │                                               │
      ├── windows around the worst moments searched ──┤ after many annealings without success
      └── else shaken by a short, hot annealing ──────┘ (windows are searched first of all, too)

In wide, irregular graphs the exact search (`valleys.py`) ends without an answer, because there are
too many sets of ops to search. But an order that differs from a known order by a single move is
quickly measured (`annealing.py`). And there are few sets of ops to search if only the ops that run
around the highest live bytes of a known order may move (`windows.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from roam.core.problem import OpId, Problem
from roam.solvers.answer import Answer, minimized
from roam.solvers.order.annealing import anneal
from roam.solvers.order.tables import Ints, Tables, measured, tables
from roam.solvers.order.windows import LADDER, Ladder, Windows
from roam.solvers.work import Units, Work


@dataclass(frozen=True)
class Effort:
    """How long a local search goes on.

    A descent is a sequence of annealings, each with a limit on live bytes below the lowest peak
    found so far.

    Attributes:
        work_an_op: limit on the op runs that one annealing measures, per op of the phase. An op run
            is one op measured at one time.
        in_vain: number of annealings in a row without a lower peak after which a descent ends.
        kicks: the number of descents after the first one. Each starts from the best order, changed
            by a search of its windows, or if that finds nothing, by a short, hot annealing.
        ladder: the reaches and beam widths that a search of windows tries; None for no such search.
    """

    work_an_op: int = 500
    in_vain: int = 16
    kicks: int = 6
    ladder: Ladder | None = LADDER


# first and least distance of an annealing's limit below the peak, as a share of the peak
STEP, LEAST_STEP = 0.01, 0.001
# two pairs (first, last) temperature of an annealing, in mean buffer sizes; a failure switches pair
HEATS = ((0.5, 0.02), (0.5, 0.1))
SHAKEN = 4.0  # temperature of the short annealing that perturbs an order, in mean buffer sizes
# limit on live bytes in the annealing that perturbs an order, as a share of the peak
SHAKEN_LIMIT = 0.9
# number of op runs per op of the phase in the annealing that perturbs an order
SHAKEN_WORK = 100


def a_run(ops: int) -> Units:
    """Returns the units of work to measure the live bytes of one op at one time.

    `ops` is the number of ops of the phase. The time was measured: 75 to 160 nanoseconds in phases
    of up to 1,000 ops, 250 in one of 2,000. It grows with the phase, because the arrays of a large
    phase do not fit into the processor's caches.
    """
    return 100 + ops * 3 // 50


def local_search(
    problem: Problem,
    phase: int,
    order: list[OpId],
    bound: int = 0,
    effort: Effort | None = None,
    work: Work | None = None,
) -> Answer[list[OpId]]:
    """Searches for an order of the phase with a lower peak than the given one, by annealing.

    Args:
        problem: the Problem whose phase is ordered.
        phase: the index of the phase.
        order: the ops of the phase, in an order that respects their precedences.
        bound: the search ends if the peak is at most so many bytes.
        effort: how long to search; the defaults if left out.
        work: limits the work and the time of the search; checked between two annealings. No limit
            if left out.

    Returns:
        The best order, its peak, and the bound as it was given. `Answer.work` is the number of
        annealings.
    """
    ops = problem.phases[phase]
    place = {i: k for k, i in enumerate(ops)}
    if not ops:
        return minimized(order, 0, bound, 0)
    effort, work = effort or Effort(), work or Work()
    arrays = tables(problem, phase)
    ladder = effort.ladder
    windows = None if ladder is None else Windows(problem, phase, arrays, work, ladder)
    search = _Search(arrays, windows, bound, effort, work)
    best = search.descend(search.freed(np.array([place[i] for i in order], np.int64)).order)
    for _ in range(effort.kicks):
        if best.peak > bound and not search.work.is_over():
            freed = search.freed(best.order)
            start = freed.order if freed.peak < best.peak else search.shaken(best)
            best = min(best, freed, search.descend(start), key=lambda found: found.peak)
    return minimized([ops[k] for k in best.order], best.peak, bound, search.seed)


class _Found(NamedTuple):
    peak: int
    order: Ints


class _Search:
    def __init__(
        self, phase: Tables, windows: Windows | None, bound: int, effort: Effort, work: Work
    ) -> None:
        self.phase, self.windows = phase, windows
        self.bound, self.effort, self.work = bound, effort, work
        self.a_run = a_run(len(phase.makes))
        sizes = phase.size if len(phase.size) else phase.unused + phase.scratch
        self.mean = max(1.0, float(sizes.mean())) if len(sizes) else 1.0  # mean buffer size, bytes
        self.seed = 0

    def freed(self, order: Ints) -> _Found:
        """Searches for a better order in windows: the times around the highest live bytes.

        Returns the given order if that search finds no better one, or if it is switched off.
        """
        if self.windows is None:
            return _Found(int(measured(self.phase, order)[1].max()), order)
        return _Found(*self.windows.improve(order, self.bound))

    def anneal(self, order: Ints, limit: int, work_an_op: int, heat: tuple[float, float]) -> _Found:
        """Anneals a copy of the order once, with a new seed for the random numbers.

        Args:
            order: the ops in the order to start from, each by its index in program order.
            limit: the live bytes that the search tries to keep within.
            work_an_op: limit on the op runs (one op at one time) measured, per op of the phase.
            heat: the first and the last temperature, in mean buffer sizes.

        Returns:
            The lowest peak found, in bytes, and the order with that peak.
        """
        self.seed += 1
        hot, cold = (share * self.mean for share in heat)
        runs = work_an_op * len(order)
        peak, found, done = anneal(self.phase, order.copy(), limit, runs, hot, cold, self.seed)
        self.work.spend(int(done) * self.a_run)
        return _Found(int(peak), found)

    def descend(self, order: Ints) -> _Found:
        """Anneals again and again, each time with a limit below the lowest peak found so far.

        Ends when `effort.in_vain` annealings in a row have found no lower peak. Returns the best
        order.
        """
        with self.work.uncounted():  # the first call of a process compiles the annealing
            # an annealing with a work limit of 0 only measures `order`
            best = self.anneal(order, self.bound, 0, HEATS[0])
        in_vain, step = 0, STEP
        while best.peak > self.bound and in_vain < self.effort.in_vain:
            if self.work.is_over():
                break
            limit = max(self.bound, int(best.peak * (1 - step)))
            heat = HEATS[in_vain % len(HEATS)]
            found = self.anneal(best.order, limit, self.effort.work_an_op, heat)
            in_vain += 1
            if found.peak < best.peak:
                best, in_vain = found, 0
            if found.peak > limit:
                step = max(step / 2, LEAST_STEP)
        return best

    def shaken(self, best: _Found) -> Ints:
        """Returns the order at which a short, hot annealing of the best order ends.

        A new descent from this order likely leads to another local minimum than that of the best
        order.
        """
        self.seed += 1
        order, heat = best.order.copy(), SHAKEN * self.mean
        limit, runs = int(SHAKEN_LIMIT * best.peak), SHAKEN_WORK * len(order)
        *_, done = anneal(self.phase, order, limit, runs, heat, heat, self.seed)
        self.work.spend(int(done) * self.a_run)
        return order  # `anneal` changed `order` to the last order that it accepted
