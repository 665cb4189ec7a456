"""Orders a phase leaf by leaf: cuts it, and improves the leaf with the highest peak first.

    ┌─> cut at safe key points ──> equal leaves take the best order found for one of them
    │      (key_points.py)              │
    │                                   v
    └── lower peak, higher bound <── the next search of the leaf with the highest peak
                                         (leaf_stages.py)

A leaf is a segment between two safe key points (moments at which a cut of the phase does not lose
the best order), as a Problem of its own (`leaf.py`). The peak of the phase is the highest peak of a
leaf. So only leaves with a peak above the bound need a better order. Nor does a leaf have to get
below the peak of a leaf on which the same search has failed.

The phase is cut for an *aim*, a number of bytes: a lower bound of a leaf that is above the aim is a
lower bound of the step. Two parts of the order keep within the aim, and are not searched. One ends
at the last safe key point before the first op that needs more bytes than the aim. The other begins
at the first safe key point after the last such op:

    peak ┄┄┄┄┄┄┄┄┄┄┄┄╱╲┄┄┄┄┄┄┄┄┄    the nearer the aim is to the peak, the smaller is the leaf
    aim  ┄┄┄╱╲┄┄┄┄┄┄╱┄┄╲┄┄┄┄┄┄┄┄    around it, and the sooner a search of all its orders ends;
    live  _╱  ╲____╱    ╲___╱╲_     the lower the aim, the lower a peak one search may find
                  │ leaf │

So the aim is the bound at first, for quick searches that find good orders, then a little below the
peak, and at last one byte below it.

Leaves of equal `Leaf.key` differ only in names, costs and the bytes of buffers that are alive
throughout. An order found for one of them, such as for one layer of a transformer, serves them all.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import pairwise

from roam.core.problem import OpId, Problem
from roam.solvers.answer import Answer, minimized
from roam.solvers.order.bisection import WORTH
from roam.solvers.order.key_points import Cutter
from roam.solvers.order.leaf import cut_out
from roam.solvers.order.leaf_stages import CUTS_SHARE, Placed, Searches, Stage, wanted_stages
from roam.solvers.order.segment import Segment
from roam.solvers.work import Units, Work

# units of work per op of a phase to cut it into leaves and to measure their peaks; measured
A_CUTTING: Units = 60_000
# share of the phase's ops above which a leaf skips the short exact search: the phase has had it
ALMOST_ALL = 0.8
# the phase is cut for an aim in bytes: parts of the order that keep within it are not searched
# LAST_SHARE: share of the remaining work for all searches while the aim is one byte below the peak
# FAR: how far the first aim is below the peak, as a share of the peak: down to 0. No aim is below
#     the bound, so the bound is the first aim
# QUICK: how many of the searches of a leaf, from the first on, are tried with the first aim
LAST_SHARE = 0.2
FAR = 1.0
QUICK = 2


@dataclass(frozen=True)
class Leaves:
    """The order of a phase, as segments, that `search_leaves` found.

    Attributes:
        segments: the segments of the phase, one after another. Together they have all its ops.
        reused: how many times a leaf was given the order found for an equal leaf.
    """

    segments: tuple[Segment, ...]
    reused: int


def search_leaves(
    problem: Problem,
    phase: int,
    segment: Segment,
    bound: int,
    work: Work | None = None,
    searches: Searches | None = None,
) -> Answer[Leaves]:
    """Searches for an order of a phase with a lower peak, and for a higher bound, leaf by leaf.

    A leaf is a segment between two safe key points, and is ordered by itself. A key point is safe
    if a cut of the phase there does not lose the best order.

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
    segments = tuple(search.segment(placed) for placed in leaves)
    return minimized(Leaves(segments, search.reused), _peak(leaves), bound, search.searched)


class _LeafSearch:
    """The state of the search for an order of one phase, leaf by leaf.

    Attributes:
        solver: by op, the name of the search that found its place in the order.
        best: by `Leaf.key`, the best order found, by op ids of the leaf, and the search's name.
        bounds: by `Leaf.key`, the leaf's lower bound, without the bytes of `Leaf.constant`.
        stages: the searches, in the order in which they are tried on a leaf.
        failed: by `Leaf.key`, how many of `stages`, from the first on, are not tried again: the
            last of these ended before the leaf's peak had come down to its target, in bytes.
        reused: how many times a leaf was given the order found for an equal leaf.
        searched: the number of searches so far, each of one leaf.
    """

    def __init__(
        self, problem: Problem, phase: int, segment: Segment, work: Work, searches: Searches
    ) -> None:
        self.problem, self.phase, self.work = problem, phase, work
        self.cutter = Cutter(problem, phase, work) if searches.tree else None
        self.solver = dict.fromkeys(segment.ops, segment.solver)
        self.best: dict[Hashable, tuple[list[OpId], str]] = {}
        self.bounds: dict[Hashable, int] = {}
        self.stages = wanted_stages(searches)
        self.failed: dict[Hashable, int] = {}
        self.reused = self.searched = 0

    def run(self, order: list[OpId], bound: int) -> tuple[list[Placed], int]:
        """Searches leaf after leaf, until the peak has come down to the bound.

        Searches in three rounds. The phase is cut for an aim of its own in each: the bound, then a
        little below the peak (the share WORTH of it), then one byte below it. Parts of the order
        that keep within the aim are not searched. The first round uses only the first QUICK
        searches. The last one may spend only the share LAST_SHARE of the remaining work. A round
        ends earlier if the leaf with the highest peak has no search left, or if no work is left.

        Returns the leaves, with their orders, and the lower bound of the step.
        """
        whole = cut_out(self.problem, self.phase, order, set())
        leaves = [Placed(whole, whole.from_step(order))]
        leaves, bound = self.narrow(leaves, bound, FAR, QUICK)
        for step, share in ((WORTH, 1.0), (0.0, LAST_SHARE)):
            if _peak(leaves) > bound:
                with self.work.share(share):
                    leaves, bound = self.narrow(leaves, bound, step, len(self.stages))
        return leaves, bound

    def narrow(
        self, leaves: list[Placed], bound: int, step: float, stages: int
    ) -> tuple[list[Placed], int]:
        """Searches leaf after leaf, until the peak is near the bound.

        That is so if the peak exceeds the bound by at most the share WORTH of the bound, or by at
        most the share `step` if that is less. Ends earlier if the leaf with the highest peak has no
        search left, or if no work is left.

        Args:
            leaves: the phase, in its best known order.
            bound: a proven lower bound on the peak of the step, in bytes.
            step: the phase is cut for an aim, which is so far below the peak, as a share of the
                peak; one byte if 0. Parts of the order that keep within the aim are not searched.
            stages: how many of the searches, from the first on, may be tried on a leaf.

        Returns:
            The phase as it was cut last, in its best order, and the lower bound of the step.
        """
        leaves, aim = self.cut(leaves, bound, step)
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
            proven = self.search(self.stages[stage], top, target)
            if proven > target:
                bound = proven
                self.bounds[top.leaf.key] = proven - top.leaf.constant
            if top.peak > max(target, bound):
                self.failed[top.leaf.key] = stage + 1
            self.share(leaves)
            # if neither order nor bound has changed, the next cut would give the same leaves
            if (_joined(leaves) != known or proven > target) and _peak(leaves) > bound:
                leaves, aim = self.cut(leaves, bound, step)

    def search(self, stage: Stage, top: Placed, target: int) -> int:
        """Searches one leaf, and keeps the order found if it has a lower peak than the known order.

        `stage` is the search to use, `top` the leaf, and `target` the bytes at which the search
        ends: the leaf's peak need not be lower. Returns the lower bound on the peak of the step
        that the search has proven, if that is above `target`; else `target`, which need not be a
        bound.
        """
        with self.work.share(stage.share):
            answer = stage.search(top, target, self.work)
        self.offer(top, stage.name, answer.found)
        return answer.bound

    def stage(self, placed: Placed) -> int:
        """Returns the index in `stages` of a leaf's next search; `len(stages)` if none is left."""
        share = len(placed.leaf.ops) / len(self.solver)
        tried = 1 if share > ALMOST_ALL else 0  # the whole phase has had a short exact search
        return max(tried, self.failed.get(placed.leaf.key, 0))

    def cut(self, known: list[Placed], bound: int, step: float) -> tuple[list[Placed], int]:
        """Cuts the order of the known leaves anew, at the key points that are safe for an aim.

        The aim is below the order's peak by the share `step` of it, or by one byte if that is more,
        but not below the bound. If some order keeps within a limit that is not below the aim, then
        so does an order that passes through all these key points. Without a cutter (`Searches.tree`
        is False), the phase is one leaf.

        Returns the leaves and the aim, in bytes. Each leaf has its part of the known order, or the
        best order found for an equal leaf if that has a lower peak.
        """
        order, peak = _joined(known), _peak(known)
        self.work.spend(A_CUTTING * len(order))
        aim = max(bound, min(peak - 1, int(peak * (1 - step))))
        times = [0, len(order)]
        if self.cutter is not None:
            with self.work.share(CUTS_SHARE):
                times = self.cutter.cut(order, aim)
        leaves = []
        for a, b in pairwise(times):
            leaf = cut_out(self.problem, self.phase, order[a:b], set(order[:a]))
            leaves.append(Placed(leaf, leaf.from_step(order[a:b])))
        self.share(leaves)
        return leaves, aim

    def share(self, leaves: Iterable[Placed]) -> None:
        """Gives each leaf the best order found for an equal leaf, if that has a lower peak."""
        for placed in leaves:
            if (known := self.best.get(placed.leaf.key)) is None:
                continue
            order, solver = known
            if (peak := placed.leaf.peak(order)) < placed.peak:
                placed.order, placed.peak = order, peak
                self.solver.update(dict.fromkeys(placed.leaf.ops, solver))
                self.reused += 1

    def offer(self, placed: Placed, name: str, order: list[OpId]) -> None:
        """Keeps an order for a leaf, and for equal leaves, if its peak is the lowest so far.

        `name` is the name of the search that found the order. `order` has op ids of the leaf.
        """
        peak = placed.leaf.peak(order)
        if peak < placed.peak:
            placed.order, placed.peak = order, peak
            self.best[placed.leaf.key] = order, name
            self.solver.update(dict.fromkeys(placed.leaf.ops, name))

    def segment(self, placed: Placed) -> Segment:
        solvers = dict.fromkeys(self.solver[i] for i in placed.ops)
        bound = self.bounds.get(placed.leaf.key, -placed.leaf.constant)
        return Segment(
            self.phase, tuple(placed.ops), " + ".join(solvers), bound + placed.leaf.constant
        )


def _joined(leaves: Iterable[Placed]) -> list[OpId]:
    return [i for placed in leaves for i in placed.ops]


def _peak(leaves: Iterable[Placed]) -> int:
    return max(placed.peak for placed in leaves)
