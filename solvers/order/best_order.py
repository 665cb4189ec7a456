"""Finds the order with the lowest peak, phase by phase, and a lower bound on every order's peak.

    for the step      bytes that must live in any order        a first lower bound
    for each phase    greedy rules                             a first order
    for each phase    a short bisection                        a better order, a higher bound
                      minimum cuts        ┐ only if peak       a higher bound
                      local search        ├ and bound still    a better order
                      a long bisection    ┘ differ             a better order, a higher bound

The phases are ordered one by one: which bytes are alive between two phases does not depend on the
order of either. The phase with the highest peak comes first. A lower bound on its peak is one on
the peak of the whole step, so no other phase has to get below that bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise

from roam.core.bounds import must_live_bound
from roam.core.lifetime import find_reuse, live_curve
from roam.core.problem import OpId, Problem
from roam.core.proof import Bound, Proof, Search
from roam.solvers.answer import Answer, minimized
from roam.solvers.bound.min_cut import cut_bound
from roam.solvers.order.bisection import HASTY, WORTH, settle
from roam.solvers.order.greedy import CANDIDATES, program_order
from roam.solvers.order.local_search import local_search
from roam.solvers.work import Work

CUTS_SHARE = 0.1  # share of the work left that minimum cuts may spend
# units of work to measure an order, per op, dependency, and buffer of an op; measured
A_USE = 1_000


@dataclass(frozen=True)
class Ordered:
    """An order of a Problem and where it comes from.

    Attributes:
        order: all ops, in the order in which they run.
        method: the names of the searches that found the orders of the phases, joined by " / ".
        proof: the proof of the lower bound.
    """

    order: list[OpId]
    method: str
    proof: Proof


def best_order(problem: Problem, work: Work | None = None, fixed: int = 0) -> Answer[Ordered]:
    """Searches for the order with the lowest peak.

    Args:
        problem: the Problem to order.
        work: limits all searches together; unlimited if left out.
        fixed: the number of phases, counted from the first, that keep program order.

    Returns:
        The order, its peak and a lower bound. `Answer.work` counts the orders that were compared.
    """
    best = _Orders(problem, must_live_bound(problem), work or Work())
    phases = range(fixed, len(problem.phases))
    for phase in phases:
        best.try_rules(phase)
    for phase in sorted(phases, key=best.peaks.__getitem__, reverse=True):
        best.settle(phase, HASTY)
        if best.has_gap(phase):
            best.raise_bound()
        if best.has_gap(phase):
            best.search_locally(phase)
            best.settle(phase)
    found = Ordered(best.whole(), " / ".join(best.methods), best.bound.proof)
    return minimized(found, max(best.peaks, default=0), best.bound.value, best.offered)


class _Orders:
    """The best order of each phase so far, its peak, and the name of the search that found it.

    Each phase starts with its program order.
    """

    def __init__(self, problem: Problem, bound: Bound, work: Work) -> None:
        self.problem, self.bound, self.work = problem, bound, work
        self.orders = [program_order(problem, phase) for phase in range(len(problem.phases))]
        self.methods = ["program" for _ in self.orders]
        self.offered = 0
        uses = sum(1 for op in problem.ops for _ in op.touches)
        edges = sum(len(before) for before in problem.predecessors)
        self.cost = A_USE * (len(problem.ops) + uses + edges)
        ends = [0, *accumulate(map(len, self.orders))]
        self.times = [slice(start, end) for start, end in pairwise(ends)]
        curve = self.curve(self.whole())
        self.peaks = [max(curve[times], default=0) for times in self.times]

    def whole(self) -> list[OpId]:
        return [i for order in self.orders for i in order]

    def curve(self, order: list[OpId]) -> list[int]:
        """Returns the live curve of an order of all ops."""
        self.work.spend(self.cost)
        return live_curve(self.problem, order, find_reuse(self.problem, order))

    def peak(self, phase: int, order: list[OpId]) -> int:
        """Returns the peak of a phase, in bytes, if its ops run in the given order."""
        whole = self.whole()
        whole[self.times[phase]] = order
        return max(self.curve(whole)[self.times[phase]], default=0)

    def offer(self, phase: int, name: str, order: list[OpId]) -> None:
        """Keeps an order of a phase if its peak is lower than that of the best order so far.

        `name` is the name of the search that found the order.
        """
        self.offered += 1
        peak = self.peak(phase, order)
        if peak < self.peaks[phase]:
            self.orders[phase], self.methods[phase], self.peaks[phase] = order, name, peak

    def try_rules(self, phase: int) -> None:
        for name, solve in CANDIDATES.items():
            if self.peaks[phase] > self.bound.value and not self.work.is_over():
                self.work.spend(self.cost)
                self.offer(phase, name, solve(self.problem, phase))

    def settle(self, phase: int, effort: float = 1.0) -> None:
        """Searches for a lower peak of the phase and a higher bound, by bisection."""
        peak_of, bound = partial(self.peak, phase), self.bound.value
        order = self.orders[phase]
        found = settle(self.problem, phase, order, peak_of, bound, self.work, effort)
        if found.bound > bound:
            self.bound = Bound(found.bound, Search(phase))
        self.offer(phase, "valleys", found.found)

    def has_gap(self, phase: int) -> bool:
        return self.peaks[phase] > self.bound.value * (1 + WORTH)

    def raise_bound(self) -> None:
        """Raises the lower bound by means of minimum cuts: a peak equal to it ends local search."""
        order = self.whole()
        curve = self.curve(order)
        with self.work.share(CUTS_SHARE):
            found = cut_bound(self.problem, order, curve, self.bound, self.work)
        self.bound = Bound(found.bound, found.found)

    def search_locally(self, phase: int) -> None:
        if not self.work.is_over():
            bound = self.bound.value
            found = local_search(self.problem, phase, self.orders[phase], bound, work=self.work)
            self.offer(phase, "local search", found.found)
