"""Local search: improves the order of a phase if the exact search does not find the best one.

    peak ── limit below it ── anneal ──┬── limit met: the next limit is as far below the new peak
      ^                                └── not met: the next limit is nearer to the peak, or far
      │                                    from it again after the nearest one. If the peak is no
      │                                    lower, the next annealing is hot if this one was cool
      └── shaken by a short, hot annealing ──── after some annealings without a lower peak

A limit is never below the bound at which the search ends. A limit far below the peak makes the
annealing lower the live bytes at many times of the order, a near limit only at the highest ones.

In wide, irregular graphs the exact search (`valleys.py`) ends without an answer, because there are
too many sets of ops to search. But an order that differs from a known order by a single move is
quickly measured (`annealing.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from roam.core.problem import OpId, Problem
from roam.solvers.answer import Answer, minimized
from roam.solvers.order.annealing import anneal
from roam.solvers.order.tables import Ints, Tables, tables
from roam.solvers.work import Units, Work


@dataclass(frozen=True)
class Effort:
    """How long a local search goes on.

    A descent is a sequence of annealings, each with a limit on live bytes below the lowest peak
    found so far.

    Attributes:
        work_an_op: limit on the steps of one annealing, per op of the phase. A step looks at one
            dependency or one use of a buffer, for example (`annealing.anneal`).
        in_vain: number of annealings in a row without a lower peak after which a descent ends.
        kicks: limit on the descents after the first one. Each starts from the best order, changed
            by a short, hot annealing. Many short descents from strongly changed orders find more
            than a few long descents from orders near the best: on a graph of 2,000 ops, short ones
            got below the known peak 10 times in 20; long ones, which took three times as long
            each, 3 times in 10.
    """

    work_an_op: int = 5_000
    in_vain: int = 4
    kicks: int = 24


# distances of an annealing's limit below the peak, as shares of the peak: the next distance is used
# if the limit was not met, and after the last one the first again
STEPS = (0.01, 0.005, 0.002, 0.001)
# two pairs (first, last) temperature of an annealing, in mean buffer sizes: the first pair is used
# after a lower peak was found, and after a failure the pair that was not used last
HEATS = ((0.5, 0.02), (8.0, 0.2))
# temperatures of the short annealing that perturbs an order, in mean buffer sizes, used in turns:
# at the first nearly every move is accepted, and little is left of the order
SHAKEN = (256.0, 4.0)
# limit on live bytes in the annealing that perturbs an order, as a share of the peak
SHAKEN_LIMIT = 0.9
# limit on the steps, per op of the phase, of the annealing that perturbs an order
SHAKEN_WORK = 1_000
A_STEP: Units = 16  # units of work of one step of the annealing; measured


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
        bound: a peak in bytes. The search ends if it finds an order with a peak no higher.
        effort: how long to search; the defaults if left out.
        work: limits the work and the time of the search; checked between two annealings. No limit
            if left out.

    Returns:
        The best order, its peak (0 if the phase has no ops), and the bound as it was given. So the
        status OPTIMAL is a proof only if the caller has proven the bound. `Answer.work` is the
        number of annealings, including those that only measure or shake an order.
    """
    ops = problem.phases[phase]
    place = {i: k for k, i in enumerate(ops)}
    if not ops:
        return minimized(order, 0, bound, 0)
    search = _Search(tables(problem, phase), bound, effort or Effort(), work or Work())
    best = search.descend(np.array([place[i] for i in order], np.int64))
    for kick in range(search.effort.kicks):
        if best.peak > bound and not search.work.is_over():
            found = search.descend(search.shaken(best, SHAKEN[kick % len(SHAKEN)]))
            best = min(best, found, key=lambda found: found.peak)
    return minimized([ops[k] for k in best.order], best.peak, bound, search.seed)


class _Found(NamedTuple):
    peak: int
    order: Ints


class _Search:
    def __init__(self, phase: Tables, bound: int, effort: Effort, work: Work) -> None:
        self.phase, self.bound, self.effort, self.work = phase, bound, effort, work
        sizes = phase.size if len(phase.size) else phase.unused + phase.scratch
        self.mean = max(1.0, float(sizes.mean())) if len(sizes) else 1.0  # mean buffer size, bytes
        self.seed = 0

    def anneal(self, order: Ints, limit: int, work_an_op: int, heat: tuple[float, float]) -> _Found:
        """Anneals a copy of the order once, with a new seed for the random numbers.

        Args:
            order: the ops in the order to start from, each by its index in program order.
            limit: the live bytes that the search tries to keep within.
            work_an_op: limit on the steps of the annealing, per op of the phase.
            heat: the first and the last temperature, in mean buffer sizes.

        Returns:
            The lowest peak found, in bytes, and the order with that peak.
        """
        self.seed += 1
        hot, cold = (share * self.mean for share in heat)
        steps = work_an_op * len(order)
        peak, found, done = anneal(self.phase, order.copy(), limit, steps, hot, cold, self.seed)
        self.work.spend(int(done) * A_STEP)
        return _Found(int(peak), found)

    def descend(self, order: Ints) -> _Found:
        """Anneals the best order again and again, each time with a limit below its peak.

        Begins with `order`. Ends when `effort.in_vain` annealings in a row have found no lower
        peak, when the peak has come down to the bound, or when no work is left. Returns the best
        order and its peak.
        """
        with self.work.uncounted():  # the first call of a process compiles the annealing
            # an annealing with a work limit of 0 only measures `order`
            best = self.anneal(order, self.bound, 0, HEATS[0])
        in_vain = step = 0
        while best.peak > self.bound and in_vain < self.effort.in_vain:
            if self.work.is_over():
                break
            limit = max(self.bound, int(best.peak * (1 - STEPS[step % len(STEPS)])))
            heat = HEATS[in_vain % len(HEATS)]
            found = self.anneal(best.order, limit, self.effort.work_an_op, heat)
            in_vain += 1
            if found.peak < best.peak:
                best, in_vain = found, 0
            step += found.peak > limit
        return best

    def shaken(self, best: _Found, heat: float) -> Ints:
        """Returns the order at which a short, hot annealing of the best order ends.

        A new descent from this order likely leads to another local minimum than that of the best
        order. `heat` is the temperature, in mean buffer sizes.
        """
        self.seed += 1
        order, heat = best.order.copy(), heat * self.mean
        limit, steps = int(SHAKEN_LIMIT * best.peak), SHAKEN_WORK * len(order)
        *_, done = anneal(self.phase, order, limit, steps, heat, heat, self.seed)
        self.work.spend(int(done) * A_STEP)
        return order  # `anneal` changed `order` to the last order that it accepted
