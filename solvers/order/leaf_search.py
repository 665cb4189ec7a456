"""Orders a phase leaf by leaf: cuts it at safe key points, and settles the highest leaf first.

    ┌─> cut at safe key points ──> equal leaves take the best order found for one of them
    │      (key_points.py)              │
    │                                   v
    └── lower peak, higher bound <── the next search of the leaf with the highest peak:
                                     minimum cuts and a short exact search; local search; a long
                                     exact search

Between two safe key points a leaf is a Problem of its own (`leaf.py`). The peak of the phase is the
highest of its leaves' peaks, and the lower bound of each leaf is one of the step. So only leaves
above the bound need a better order, and none needs to get below a leaf that the same search has
left higher. The nearer order and bound are, the more of the phase keeps within the bound, and the
smaller are the leaves.

Leaves that differ in names and constant bytes only (`Leaf.key`), such as those of the layers of a
transformer, are solved once.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from roam.core.lifetime import find_reuse, live_curve
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
from roam.solvers.order.windows import search_windows
from roam.solvers.work import Units, Work

A_CUTTING: Units = 60_000  # units of work to cut out leaves and measure them, per op; measured
ALMOST_ALL = 0.8  # share of a phase's ops above which a leaf is as hard as the phase
WINDOWS_SHARE = 0.3  # share of the work left that the first search of windows may spend
BEAMS_SHARE = 0.4  # share of the work left that wider and wider beams may spend
CUTS_SHARE = 0.1  # share of the work left that minimum cuts may spend


@dataclass(frozen=True)
class Searches:
    """Which searches may be used after the first exact search of a phase has given up.

    Attributes:
        tree: cut the phase at safe key points; if not, the whole phase is one leaf.
        windows: search the windows around the worst moments of the best order.
        beams: search sets of ops with wider and wider beams.
        local_search: anneal.
        cp_sat: ask CP-SAT about leaves that are small enough.
    """

    tree: bool = True
    windows: bool = True
    beams: bool = True
    local_search: bool = True
    cp_sat: bool = True


@dataclass(frozen=True)
class Leaves:
    """The segments of a phase, in the order in which they run, and how they were ordered.

    Attributes:
        segments: of all ops of the phase.
        reused: how often a leaf took the order that was found for an equal one.
    """

    segments: tuple[Segment, ...]
    reused: int


@dataclass
class _Placed:
    """A leaf with the best order of its ops so far, by their ids in the leaf.

    Attributes:
        peak: of the order, in bytes.
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

    Args:
        problem: the Problem whose phase is ordered.
        phase: the index of the phase, which has ops.
        segment: all ops of the phase in the best known order, and the search that found it.
        bound: bytes below which no order of the step can go.
        work: limits the searches; unlimited if left out.
        searches: which searches may be used; all if left out.

    Returns:
        The segments, the peak of their ops in this order, and a lower bound on the peak of every
        order of the step. `Answer.work` counts searches of a leaf.
    """
    search = _LeafSearch(problem, phase, segment, work or Work(), searches or Searches())
    leaves, bound = search.run(list(segment.ops), bound)
    peak = max(placed.peak for placed in leaves)
    segments = tuple(search.segment(placed) for placed in leaves)
    return minimized(Leaves(segments, search.reused), peak, bound, search.searched)


class _LeafSearch:
    """The state of the search of one phase.

    Attributes:
        solver: by op, the search that found its place in the order.
        best: by key of a leaf, the best order of its ops so far, and who found it.
        bounds: by key of a leaf, its lower bound, in bytes above the constant.
        stages: the searches, in the order in which they are tried on a leaf.
        failed: by key of a leaf, how many of these searches have left it above their target.
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
            (self.search_windows, searches.windows),
            (self.search_beams, searches.beams),
            (self.search_locally, searches.local_search),
            (self.ask_cp_sat, searches.cp_sat),
            (self.search_long, True),
        )
        self.stages = [search for search, wanted in stages if wanted]
        self.failed: dict[Hashable, int] = {}
        self.reused = self.searched = 0

    def run(self, order: list[OpId], bound: int) -> tuple[list[_Placed], int]:
        """Settles the leaves. Returns them, and the lower bound of the step."""
        leaves = self.cut(order, bound)
        while True:
            self.share(leaves)
            top = max(leaves, key=lambda placed: (placed.peak, self.stage(placed)))
            stage = self.stage(top)
            enough = top.peak <= bound * (1 + WORTH)
            if enough or stage == len(self.stages) or self.work.is_over():
                return leaves, bound
            self.searched += 1
            stuck = (p.peak for p in leaves if self.stage(p) > stage)
            target = max([bound, *stuck])
            proven = self.stages[stage](top, target)
            if proven > target:
                bound = proven
                self.bounds[top.leaf.key] = proven - top.leaf.constant
            if top.peak > max(target, bound):
                self.failed[top.leaf.key] = stage + 1
            self.share(leaves)
            if max(p.peak for p in leaves) > bound:
                leaves = self.cut([i for placed in leaves for i in placed.ops], bound)

    def stage(self, placed: _Placed) -> int:
        """Returns the index of the next search to try on a leaf."""
        share = len(placed.leaf.ops) / len(self.solver)
        tried = 1 if share > ALMOST_ALL else 0  # a short exact search of the phase has given up
        return max(tried, self.failed.get(placed.leaf.key, 0))

    def cut(self, order: list[OpId], bound: int) -> list[_Placed]:
        """Cuts the phase at safe key points of an order."""
        self.work.spend(A_CUTTING * len(order))
        times = [0, len(order)]
        if self.cutter is not None:
            with self.work.share(CUTS_SHARE):
                times = self.cutter.cut(order, bound)
        leaves = []
        for a, b in pairwise(times):
            leaf = cut_out(self.problem, self.phase, order[a:b], set(order[:a]))
            leaves.append(_Placed(leaf, leaf.from_step(order[a:b])))
        return leaves

    def share(self, leaves: Iterable[_Placed]) -> None:
        """Gives each leaf the best order that was found for an equal one, if that is better."""
        for placed in leaves:
            if (known := self.best.get(placed.leaf.key)) is None:
                continue
            order, solver = known
            if (peak := placed.leaf.peak(order)) < placed.peak:
                placed.order, placed.peak = order, peak
                self.solver.update(dict.fromkeys(placed.leaf.ops, solver))
                self.reused += 1

    # Each stage searches for an order of a leaf within `target` bytes, offers what it finds, and
    # returns a lower bound of the step in bytes, at least `target`.

    def search_briefly(self, top: _Placed, target: int) -> int:
        return self.bisect(top, self.cut_bound(top, target), HASTY)

    def search_windows(self, top: _Placed, target: int) -> int:
        with self.work.share(WINDOWS_SHARE):
            found = search_windows(top.leaf.problem, INSIDE, top.order, target, self.work)
        self.offer(top, "windows", found.found)
        return target

    def search_beams(self, top: _Placed, target: int) -> int:
        leaf = top.leaf
        with self.work.share(BEAMS_SHARE):
            found = widen(leaf.problem, INSIDE, top.order, leaf.peak, target, self.work)
        self.offer(top, "beams", found.found)
        return found.bound

    def search_locally(self, top: _Placed, target: int) -> int:
        effort = Effort() if self.searches.windows else Effort(ladder=None)
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
        """Searches by bisection, with a share of the usual effort. Returns the best bound."""
        leaf = top.leaf
        answer = settle(leaf.problem, INSIDE, top.order, leaf.peak, bound, self.work, effort)
        self.offer(top, "valleys", answer.found)
        return answer.bound

    def cut_bound(self, top: _Placed, known: int) -> int:
        """Returns the best bound of a leaf by minimum cuts, at least `known`.

        It may be above that of the step's cuts at the same ops: only sets of ops count that lie
        between the key points at the two ends of the leaf.
        """
        order = [0, *top.order, len(top.order) + 1]
        problem = top.leaf.problem
        curve = live_curve(problem, order, find_reuse(problem, order))
        with self.work.share(CUTS_SHARE):
            return cut_bound(problem, order, curve, Bound(known, UNKNOWN), self.work).bound

    def offer(self, placed: _Placed, name: str, order: list[OpId]) -> None:
        """Keeps an order of a leaf that the search `name` found, if its peak is lower."""
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
