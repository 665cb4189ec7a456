"""Orders a phase leaf by leaf: cuts it at safe key points, and improves the highest leaf first.

    ┌─> cut at safe key points ──> equal leaves take the best order found for one of them
    │      (key_points.py)              │
    │                                   v
    └── lower peak, higher bound <── the next search of the leaf with the highest peak:
                                     minimum cuts and a short exact search; a first descent of
                                     local search; beams; all of local search; CP-SAT;
                                     a long exact search

A leaf is a segment between two safe key points (moments at which a cut of the phase does not lose
the best order), as a Problem of its own (`leaf.py`). The peak of the phase is the highest peak of a
leaf. So only leaves with a peak above the bound need a better order. Nor does a leaf have to get
below the peak of a leaf on which the same search has failed.

The phase is cut for an *aim*, a number of bytes: a lower bound of a leaf that is above the aim is a
lower bound of the step. What keeps within the aim, before the first op that does not and after the
last, is not in a leaf that is searched:

    peak ┄┄┄┄┄┄┄┄┄┄┄┄╱╲┄┄┄┄┄┄┄┄┄    the nearer the aim is to the peak, the smaller is the leaf
    aim  ┄┄┄╱╲┄┄┄┄┄┄╱┄┄╲┄┄┄┄┄┄┄┄    around it, and the sooner a search of all its orders ends;
    live  _╱  ╲____╱    ╲___╱╲_     the lower the aim, the lower a peak one search may find
                  │ leaf │

So the aim is the bound at first, for quick searches that find good orders, then a little below the
peak, and at last one byte below it.

A descent is a series of annealings (`local_search.py`). A beam searches sets of ops
(`beam_search.py`). The descent comes before the beams, since it takes little work and often finds
the best order. A beam then has only to prove that there is no better one.

Leaves that differ only in names, costs and constant bytes (`Leaf.key`), such as those of the layers
of a transformer, are solved once.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from roam.core.problem import OpId, Problem
from roam.core.proof import UNKNOWN, Bound
from roam.solvers.answer import Answer, minimized
from roam.solvers.bound.min_cut import cut_bound
from roam.solvers.order import leaf_cpsat
from roam.solvers.order.bisection import HASTY, WORTH, settle
from roam.solvers.order.key_points import Cutter
from roam.solvers.order.leaf import INSIDE, Leaf, cut_out
from roam.solvers.order.local_search import Effort, local_search
from roam.solvers.order.segment import Segment
from roam.solvers.order.widening import widen
from roam.solvers.work import Units, Work

# units of work per op of a phase to cut it into leaves and to measure their peaks; measured
A_CUTTING: Units = 60_000
# share of the phase's ops above which a leaf skips the short exact search: the phase has had it
ALMOST_ALL = 0.8
# the first descent of local search: longer than those that follow a kick, and alone
FIRST_DESCENT = Effort(in_vain=16, kicks=0)
DESCENT_SHARE = 0.3  # share of the remaining work for it
# share of the remaining work for all of local search: what is searched later seldom finds more
LOCAL_SHARE = 0.8
# share of the remaining work for one series of wider and wider beams (searches of sets of ops)
BEAMS_SHARE = 0.4
CUTS_SHARE = 0.1  # share of the remaining work that one series of minimum cuts may spend
# share of the remaining work for all searches after the gap has come down to WORTH
LAST_SHARE = 0.2
QUICK = 2  # how many of the searches are tried on leaves whose aim is the bound
FAR = 1.0  # a step as long as the peak


@dataclass(frozen=True)
class Searches:
    """Which searches may be used if the first, short exact search does not find the best order.

    Minimum cuts and exact searches of leaves are always used.

    Attributes:
        tree: whether the phase is cut at safe key points; if not, the whole phase is one leaf.
        beams: whether to search sets of ops with wider and wider beams.
        local_search: whether to use simulated annealing.
        cp_sat: whether to ask CP-SAT about leaves that are small enough.
    """

    tree: bool = True
    beams: bool = True
    local_search: bool = True
    cp_sat: bool = True


@dataclass(frozen=True)
class Leaves:
    """The order of a phase, as segments, that `search_leaves` found.

    Attributes:
        segments: the segments of the phase, one after another. Together they have all its ops.
        reused: how many times a leaf was given the order found for an equal leaf.
    """

    segments: tuple[Segment, ...]
    reused: int


@dataclass
class _Placed:
    """A leaf and the best order found for it so far.

    Attributes:
        leaf: a segment as a Problem of its own.
        order: the best order of the segment's ops, by their ids in the leaf.
        peak: the peak of that order, in bytes.
    """

    leaf: Leaf
    order: list[OpId]
    peak: int = field(init=False)

    def __post_init__(self) -> None:
        self.peak = self.leaf.peak(self.order)

    @property
    def ops(self) -> list[OpId]:
        return self.leaf.to_step(self.order)


def search_leaves(
    problem: Problem,
    phase: int,
    segment: Segment,
    bound: int,
    work: Work | None = None,
    searches: Searches | None = None,
) -> Answer[Leaves]:
    """Searches for an order of a phase with a lower peak, and for a higher bound, leaf by leaf.

    A leaf is a segment between safe key points, and is ordered by itself.

    Args:
        problem: the Problem whose phase is ordered.
        phase: the index of the phase, which has ops.
        segment: all ops of the phase in the best known order, and the search that found it.
        bound: a proven lower bound on the peak of the step, in bytes.
        work: limits the work and the time of all searches together; no limit if left out.
        searches: which searches may be used; all if left out.

    Returns:
        The segments of the phase, the peak of their order, and a lower bound on the peak of every
        order of the step. `Answer.work` is the number of searches, each of one leaf.
    """
    search = _LeafSearch(problem, phase, segment, work or Work(), searches or Searches())
    leaves, bound = search.run(list(segment.ops), bound)
    peak = max(placed.peak for placed in leaves)
    segments = tuple(search.segment(placed) for placed in leaves)
    return minimized(Leaves(segments, search.reused), peak, bound, search.searched)


class _LeafSearch:
    """The state of the search for an order of one phase, leaf by leaf.

    Attributes:
        solver: by op, the name of the search that found its place in the order.
        best: by `Leaf.key`, the best order found, by op ids of the leaf, and the search's name.
        bounds: by `Leaf.key`, the leaf's lower bound, in bytes above its constant.
        stages: the searches, in the order in which they are tried on a leaf.
        failed: by `Leaf.key`, how many of `stages` are done with: the last of them did not lower
            the leaf's peak to its target.
        reused: how many times a leaf was given the order found for an equal leaf.
        searched: the number of searches so far, each of one leaf.
    """

    def __init__(
        self, problem: Problem, phase: int, segment: Segment, work: Work, searches: Searches
    ) -> None:
        self.problem, self.phase, self.work, self.searches = problem, phase, work, searches
        self.cutter = Cutter(problem, phase, work) if searches.tree else None
        self.solver = dict.fromkeys(segment.ops, segment.solver)
        self.best: dict[Hashable, tuple[list[OpId], str]] = {}
        self.bounds: dict[Hashable, int] = {}
        stages = (
            (self.search_briefly, True),
            (self.descend, searches.local_search),
            (self.search_beams, searches.beams),
            (self.search_locally, searches.local_search),
            (self.ask_cp_sat, searches.cp_sat),
            (self.search_long, True),
        )
        self.stages = [search for search, wanted in stages if wanted]
        self.failed: dict[Hashable, int] = {}
        self.reused = self.searched = 0

    def run(self, order: list[OpId], bound: int) -> tuple[list[_Placed], int]:
        """Searches leaf after leaf, until the peak has come down to the bound.

        Ends earlier if the leaf with the highest peak has no search left, or if no work is left.
        Once the gap between peak and bound is no more than the share WORTH, the searches together
        may spend only the share LAST_SHARE of the remaining work.

        Returns the leaves, with their orders, and the lower bound of the step.
        """
        leaves, bound = self.narrow(order, bound, FAR, QUICK)
        for step, share in ((WORTH, 1.0), (0.0, LAST_SHARE)):
            if max(placed.peak for placed in leaves) > bound:
                with self.work.share(share):
                    leaves, bound = self.narrow(_joined(leaves), bound, step, len(self.stages))
        return leaves, bound

    def narrow(
        self, order: list[OpId], bound: int, step: float, stages: int
    ) -> tuple[list[_Placed], int]:
        """Searches leaf after leaf, until the gap between peak and bound is no more than a step.

        Ends earlier if the gap is no more than the share WORTH, if the leaf with the highest peak
        has no search left, or if no work is left.

        Args:
            order: the best known order of the phase.
            bound: a proven lower bound on the peak of the step, in bytes.
            step: how far below the peak the aim is, as a share of the peak; one byte if 0.
            stages: how many of the searches are tried.

        Returns:
            The leaves, with their orders, and the lower bound of the step.
        """
        leaves, aim = self.cut(order, bound, step)
        while True:
            top = max(leaves, key=lambda placed: (placed.peak, self.stage(placed)))
            stage = self.stage(top)
            enough = top.peak <= bound * (1 + min(step, WORTH))
            if enough or stage >= stages or self.work.is_over():
                return leaves, bound
            self.searched += 1
            stuck = (p.peak for p in leaves if self.stage(p) > stage)
            target = max([aim, *stuck])
            known = _joined(leaves)
            proven = self.stages[stage](top, target)
            if proven > target:
                bound = proven
                self.bounds[top.leaf.key] = proven - top.leaf.constant
            if top.peak > max(target, bound):
                self.failed[top.leaf.key] = stage + 1
            self.share(leaves)
            order = _joined(leaves)
            # the same order and bound would be cut in the same way, at the same cost
            if (order != known or proven > target) and max(p.peak for p in leaves) > bound:
                leaves, aim = self.cut(order, bound, step)

    def stage(self, placed: _Placed) -> int:
        """Returns the index in `stages` of the next search to try on a leaf; its length if none."""
        share = len(placed.leaf.ops) / len(self.solver)
        tried = 1 if share > ALMOST_ALL else 0  # the whole phase has had a short exact search
        return max(tried, self.failed.get(placed.leaf.key, 0))

    def cut(self, order: list[OpId], bound: int, step: float) -> tuple[list[_Placed], int]:
        """Cuts an order of the phase into leaves, at the key points that are safe for an aim.

        The aim is `step` below the order's peak, but not below the bound. If some order keeps
        within a limit that is not below the aim, then so does one that passes through all these key
        points. Without a cutter, the phase is one leaf.

        Returns the leaves and the aim, in bytes. Each leaf has its part of `order`, or the best
        order found for an equal leaf if that has a lower peak.
        """
        self.work.spend(A_CUTTING * len(order))
        whole = cut_out(self.problem, self.phase, order, set())
        peak = whole.peak(whole.from_step(order))
        aim = max(bound, min(peak - 1, int(peak * (1 - step))))
        times = [0, len(order)]
        if self.cutter is not None:
            with self.work.share(CUTS_SHARE):
                times = self.cutter.cut(order, aim)
        leaves = []
        for a, b in pairwise(times):
            leaf = cut_out(self.problem, self.phase, order[a:b], set(order[:a]))
            leaves.append(_Placed(leaf, leaf.from_step(order[a:b])))
        self.share(leaves)
        return leaves, aim

    def share(self, leaves: Iterable[_Placed]) -> None:
        """Gives each leaf the best order found for an equal leaf, if that has a lower peak."""
        for placed in leaves:
            if (known := self.best.get(placed.leaf.key)) is None:
                continue
            order, solver = known
            if (peak := placed.leaf.peak(order)) < placed.peak:
                placed.order, placed.peak = order, peak
                self.solver.update(dict.fromkeys(placed.leaf.ops, solver))
                self.reused += 1

    # The methods of `stages` and those that they call follow. A stage searches for an order of the
    # leaf `top` that keeps within `target` bytes, and keeps the order found if its peak is lower
    # than that of the known order. If a stage proves a lower bound above `target` on the peak of
    # the training step, it returns that bound. Otherwise it returns `target`, which need not be a
    # bound.

    def search_briefly(self, top: _Placed, target: int) -> int:
        return self.bisect(top, self.cut_bound(top, target), HASTY)

    def search_beams(self, top: _Placed, target: int) -> int:
        leaf = top.leaf
        with self.work.share(BEAMS_SHARE):
            found = widen(leaf.problem, INSIDE, top.order, leaf.peak, target, self.work)
        self.offer(top, "beams", found.found)
        return found.bound

    def descend(self, top: _Placed, target: int) -> int:
        return self.anneal(top, target, FIRST_DESCENT, DESCENT_SHARE)

    def search_locally(self, top: _Placed, target: int) -> int:
        return self.anneal(top, target, Effort(), LOCAL_SHARE)

    def anneal(self, top: _Placed, target: int, effort: Effort, share: float) -> int:
        with self.work.share(share):
            found = local_search(top.leaf.problem, INSIDE, top.order, target, effort, self.work)
        self.offer(top, "local search", found.found)
        return target

    def ask_cp_sat(self, top: _Placed, target: int) -> int:
        leaf = top.leaf

        def ask(most: int) -> Answer[list[OpId] | None]:
            return leaf_cpsat.keeps_within(leaf.problem, INSIDE, most, top.order, self.work)

        answer = settle(leaf.problem, INSIDE, top.order, leaf.peak, target, self.work, ask=ask)
        self.offer(top, "CP-SAT", answer.found)
        return answer.bound

    def search_long(self, top: _Placed, target: int) -> int:
        return self.bisect(top, target, 1.0)

    def bisect(self, top: _Placed, bound: int, effort: float) -> int:
        """Searches a leaf by bisection.

        For each limit that it tries, it may use the share `effort` of the usual limit on ops run.
        `bound` is a number of bytes that the peak need not get below. Returns the lower bound
        proven if it is higher, else `bound`.
        """
        leaf = top.leaf
        answer = settle(leaf.problem, INSIDE, top.order, leaf.peak, bound, self.work, effort)
        self.offer(top, "valleys", answer.found)
        return answer.bound

    def cut_bound(self, top: _Placed, known: int) -> int:
        """Returns the highest lower bound of a leaf that minimum cuts prove, or `known` if higher.

        The cuts of a leaf can prove more than cuts at the same ops of the step: only the sets of
        ops count that contain all ops before the leaf and none after the leaf.
        """
        order, curve = top.leaf.whole(top.order)
        with self.work.share(CUTS_SHARE):
            found = cut_bound(top.leaf.problem, order, curve, Bound(known, UNKNOWN), self.work)
        return found.bound

    def offer(self, placed: _Placed, name: str, order: list[OpId]) -> None:
        """Keeps an order of a leaf if its peak is the lowest so far, for equal leaves too.

        `name` is the name of the search that found the order.
        """
        peak = placed.leaf.peak(order)
        if peak < placed.peak:
            placed.order, placed.peak = order, peak
            self.best[placed.leaf.key] = order, name
            self.solver.update(dict.fromkeys(placed.leaf.ops, name))

    def segment(self, placed: _Placed) -> Segment:
        solvers = dict.fromkeys(self.solver[i] for i in placed.ops)
        bound = self.bounds.get(placed.leaf.key, -placed.leaf.constant)
        return Segment(
            self.phase, tuple(placed.ops), " + ".join(solvers), bound + placed.leaf.constant
        )


def _joined(leaves: Iterable[_Placed]) -> list[OpId]:
    return [i for placed in leaves for i in placed.ops]
