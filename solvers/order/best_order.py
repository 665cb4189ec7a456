"""Finds the order with the lowest peak, phase by phase, and a lower bound on every order's peak.

    for the step      bytes that must live in any order        a first lower bound
    for each phase    greedy rules                             a first order
    for each phase    a short bisection                        a better order, a higher bound
                      minimum cuts        ┐ only if peak       a higher bound
                      leaf by leaf:       │ and bound still
                        minimum cuts      │ differ             a higher bound
                        a short bisection │                    a better order, a higher bound
                        a short annealing │                    a better order
                        wider beams       │                    a better order, a higher bound
                        a long annealing  │                    a better order
                        CP-SAT            │                    a better order, a higher bound
                        a long bisection  ┘                    a better order, a higher bound

A phase is one segment until `leaf_search.py` cuts it, at moments with few live bytes, into leaves:
segments that are ordered one by one. The order of the step is the orders of all segments, one after
another. `tree.py` shows the segments as a tree. `order/__init__.py` lists the files of all these
searches.

The phases are ordered one by one, because the bytes alive between two phases do not depend on the
order of either phase. The phase with the highest peak is ordered first. A lower bound on the peak
of one phase is also a lower bound on the peak of the step, so no other phase has to get below it.
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
from roam.solvers.order.bisection import HASTY, settle
from roam.solvers.order.greedy import CANDIDATES, program_order
from roam.solvers.order.leaf_search import search_leaves
from roam.solvers.order.leaf_stages import CUTS_SHARE, Searches
from roam.solvers.order.segment import Segment
from roam.solvers.work import Work

# A_MEASURED_USE: units of work to measure an order, per op, dependency and buffer use; measured
# A_RULED_USE: units of work to make an order by a greedy rule, per op, dependency and buffer use
A_MEASURED_USE, A_RULED_USE = 100, 1_000


@dataclass(frozen=True)
class Ordered:
    """An order of a Problem, the searches that found it, and the proof of the lower bound.

    Attributes:
        segments: the segments of all phases, in the order in which they run. Together they have all
            ops; each phase is one or several segments.
        proof: the proof of the lower bound on the peak of every order.
        reused: how many times a segment was given the order found for an equal segment.
    """

    segments: tuple[Segment, ...]
    proof: Proof
    reused: int = 0

    @property
    def order(self) -> list[OpId]:
        """All ops, in the order in which they run."""
        return [i for segment in self.segments for i in segment.ops]

    @property
    def method(self) -> str:
        """The names of the searches that found the order.

        " + " joins the names of searches of one phase, " / " joins the phases.
        """
        found: dict[int, list[str]] = {}
        for segment in self.segments:
            found.setdefault(segment.phase, []).extend(segment.solver.split(" + "))
        return " / ".join(" + ".join(dict.fromkeys(solvers)) for solvers in found.values())


def best_order(
    problem: Problem,
    work: Work | None = None,
    fixed: int = 0,
    searches: Searches | None = None,
) -> Answer[Ordered]:
    """Searches for the order with the lowest peak, and for a lower bound on every order's peak.

    Args:
        problem: the Problem to order.
        work: limits the work and the time of all searches together; no limit if left out.
        fixed: the number of phases, counted from the first phase, that keep program order.
        searches: which searches may be used if a short exact search does not find the best order;
            all if left out.

    Returns:
        The order, its peak and the lower bound. `Answer.work` is the number of orders compared: one
        for each greedy rule, each bisection and each search of leaves.
    """
    best = _Orders(problem, must_live_bound(problem), work or Work(), searches or Searches())
    phases = range(fixed, len(problem.phases))
    for phase in phases:
        best.try_rules(phase)
    for phase in sorted(phases, key=best.peaks.__getitem__, reverse=True):
        best.settle(phase)
        if best.has_gap(phase):
            best.raise_bound()
        if best.has_gap(phase):
            best.search_leaves(phase)
    segments = tuple(segment for found in best.segments for segment in found)
    found = Ordered(segments, best.bound.proof, best.reused)
    return minimized(found, max(best.peaks, default=0), best.bound.value, best.offered)


class _Orders:
    """The best order of each phase found so far, as segments, with its peak.

    Each phase starts as one segment, in program order.

    Attributes:
        bound: the highest lower bound on the peak of the step so far, with its proof.
        segments: by phase, the segments of its best order.
        peaks: by phase, the peak of its best order, in bytes.
        times: by phase, the times at which it runs, as a slice of an order of all ops.
        uses: how many ops, dependencies and buffer uses there are in all; work is counted per use.
        offered: the number of orders compared so far.
        reused: how many times a segment was given the order found for an equal segment.
    """

    def __init__(self, problem: Problem, bound: Bound, work: Work, searches: Searches) -> None:
        self.problem, self.bound, self.work, self.searches = problem, bound, work, searches
        phases = range(len(problem.phases))
        self.segments: list[tuple[Segment, ...]] = [
            (Segment(phase, tuple(program_order(problem, phase)), "program"),) for phase in phases
        ]
        self.offered = self.reused = 0
        uses = sum(1 for op in problem.ops for _ in op.touches)
        edges = sum(len(before) for before in problem.predecessors)
        self.uses = len(problem.ops) + uses + edges
        ends = [0, *accumulate(map(len, problem.phases))]
        self.times = [slice(start, end) for start, end in pairwise(ends)]
        curve = self.curve(self.whole())
        self.peaks = [max(curve[times], default=0) for times in self.times]

    def whole(self) -> list[OpId]:
        return [i for phase in range(len(self.segments)) for i in self.order(phase)]

    def order(self, phase: int) -> list[OpId]:
        return [i for segment in self.segments[phase] for i in segment.ops]

    def curve(self, order: list[OpId]) -> list[int]:
        """Returns the live curve of an order of all ops, in bytes. Adds to the work done."""
        self.work.spend(A_MEASURED_USE * self.uses)
        return live_curve(self.problem, order, find_reuse(self.problem, order))

    def peak(self, phase: int, order: list[OpId]) -> int:
        """Returns the peak of a phase, in bytes, if its ops run in the given order."""
        whole = self.whole()
        whole[self.times[phase]] = order
        return max(self.curve(whole)[self.times[phase]], default=0)

    def offer(self, phase: int, name: str, order: list[OpId]) -> None:
        """Keeps an order of a phase, as one segment, if its peak is the lowest so far.

        `name` is the name of the search that found the order.
        """
        self.offered += 1
        peak = self.peak(phase, order)
        if peak < self.peaks[phase]:
            self.segments[phase] = (Segment(phase, tuple(order), name),)
            self.peaks[phase] = peak

    def try_rules(self, phase: int) -> None:
        share = len(self.problem.phases[phase]) / max(1, len(self.problem.ops))
        for name, solve in CANDIDATES.items():
            if self.peaks[phase] > self.bound.value and not self.work.is_over():
                self.work.spend(int(A_RULED_USE * self.uses * share))
                self.offer(phase, name, solve(self.problem, phase))

    def settle(self, phase: int) -> None:
        """Searches for an order of a phase with a lower peak, and a higher bound, by bisection.

        The bisection is a short one: for each limit on live bytes that it tries, it may use the
        share HASTY of the usual limit on ops run.
        """
        peak_of, bound = partial(self.peak, phase), self.bound.value
        order = self.order(phase)
        found = settle(self.problem, phase, order, peak_of, bound, self.work, HASTY)
        self.raise_to(found.bound, phase)
        self.offer(phase, "valleys", found.found)

    def raise_to(self, bound: int, phase: int) -> None:
        """Sets the lower bound to `bound`, proven by a search of the phase, if that raises it."""
        if bound > self.bound.value:
            self.bound = Bound(bound, Search(phase))

    def has_gap(self, phase: int) -> bool:
        return self.peaks[phase] > self.bound.value

    def raise_bound(self) -> None:
        """Raises the lower bound by minimum cuts, if they prove a higher one.

        The higher the bound, the sooner searches end: when the peak has come down to it. If the
        present bound was proven by a search, a cut that proves the same bound becomes its proof.
        """
        order = self.whole()
        curve = self.curve(order)
        with self.work.share(CUTS_SHARE):
            found = cut_bound(self.problem, order, curve, self.bound, self.work)
        self.bound = Bound(found.bound, found.found)

    def search_leaves(self, phase: int) -> None:
        """Cuts the phase into leaves, and searches leaves for better orders and a higher bound.

        A leaf is a segment between key points of the phase, and is ordered by itself. Replaces the
        segments of the phase by its leaves. Does nothing if no work is left.
        """
        if self.work.is_over():
            return
        segment = Segment(phase, tuple(self.order(phase)), self.segments[phase][0].solver)
        bound = self.bound.value
        found = search_leaves(self.problem, phase, segment, bound, self.work, self.searches)
        self.raise_to(found.bound, phase)
        self.reused += found.found.reused
        self.offered += 1
        self.segments[phase], self.peaks[phase] = found.found.segments, found.value
