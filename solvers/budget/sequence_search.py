"""Searches for the cheapest schedule of a Problem within a budget. Ops may run several times.

    given order, best order ── within the budget? ── yes: no extra time, the best there is
             │ no
             lower bounds on bytes and time (`solvers/bound/time_bound.py`)
             │      └── one proves that nothing fits: raises BudgetError
             far above the budget: anneal with a limit a little below the lowest peak found,
             │                     again and again, until that peak is within the budget
             │
             anneal from each order (`sequence_annealing.py`), then from the best sequence again
             and again, until its extra time is the bound or the work is spent; copies that turn
             out to be needless are dropped on the way

Each op of the Problem makes one buffer. No op changes a buffer or has to run exactly once.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np

from roam.core.errors import BudgetError, UnplannableError
from roam.core.lifetime import live_curve
from roam.core.problem import OpId, Problem
from roam.core.sizes import show_size
from roam.solvers.bound.time_bound import least_bytes, time_bound
from roam.solvers.budget.run_sequences import Floats, Graph, Ints, measure
from roam.solvers.budget.sequence_annealing import Heat, anneal
from roam.solvers.order.best_order import best_order
from roam.solvers.work import Units, Work

ORDER_SHARE = 0.25  # part of the remaining work for the search for the best order without copies
BOUND_SHARE = 0.2  # part of the remaining work for the lower bound on the extra time
SECONDS = 6.0  # seconds' worth of work if the caller sets no limit
A_RUN: Units = 2  # units of work for each unit in which `anneal` counts its effort; measured
# temperatures and penalties of the annealings. Each of FIRST begins once at each of the first
# sequences (program order, best order, result of the stairs). Then those of LATER take turns, and
# begin at the best sequence found so far
FIRST = (Heat(2.0, 0.02, 70.0), Heat(5.0, 0.05, 200.0))
LATER = (Heat(1.0, 0.01, 100.0), Heat(3.0, 0.03, 200.0), Heat(0.5, 0.005, 100.0))
# If the lowest peak is above FAR x budget, the search first lowers it by annealings with one limit
# after another. Each limit is a stair: it is below the lowest peak so far by a share of that peak.
FAR = 1.03
STAIR, LEAST_STAIR = 0.02, 0.001  # the first and the smallest of these shares
STAIRS_SHARE = 0.6  # part of the remaining work for all stairs
# limits on the effort of one annealing, as `anneal` counts it
LEAST_ROUND, MOST_ROUND = 10**6, 5 * 10**8


@dataclass(frozen=True)
class Schedule:
    """A schedule within a budget.

    Attributes:
        runs: ops in the order in which they run; an op may run several times.
        peak: bytes alive at the worst moment; scratch space is not counted, and no result is
            written over a dying buffer.
        extra_time: seconds of the copies.
        bound: seconds that the copies of any schedule within the budget take at least.
    """

    runs: tuple[OpId, ...]
    peak: int
    extra_time: float
    bound: float


def schedule(problem: Problem, budget: int, work: Work | None = None) -> Schedule:
    """Searches for the schedule with the least extra time within a budget.

    Args:
        problem: ops with one result each.
        budget: limit on the live bytes at any moment.
        work: limits the work of all searches together; what SECONDS seconds allow if left out.

    Raises:
        BudgetError: it is proven that no schedule keeps the budget, or none was found.
        UnplannableError: an op has no result or several, changes a buffer, or must run just once.
    """
    work = work or Work.worth(SECONDS)
    return _Search(problem, budget, work).run()


class _Search:
    """The search for one Problem, with the best sequences so far.

    Attributes:
        extra: the extra time of the cheapest sequence found within the budget, in mean costs of an
            op; inf until one is found.
        runs: this sequence; the program order until one is found.
        low: the lowest peak of any sequence found, as a multiple of the budget.
        low_runs: the sequence with this peak.
        given: the program order.
        curve: the live curve of `given`, in bytes, without in-place reuse.
        graph: the ops for `measure` and `anneal`, with sizes as multiples of the budget.
    """

    def __init__(self, problem: Problem, budget: int, work: Work) -> None:
        self.problem, self.budget, self.work = problem, budget, work
        for op in problem.ops:
            if len(op.creates) != 1 or op.mutates or op.once:
                raise UnplannableError(f"op {op.name!r} does not simply make one result")
        self.total = sum(op.cost for op in problem.ops)
        # the unit of cost in a search: the mean cost of an op
        self.unit = (self.total or 1.0) / max(1, len(problem.ops))
        self.given = list(range(len(problem.ops)))
        self.curve = live_curve(problem, self.given, {})
        self.extra, self.runs = inf, np.array(self.given, np.int64)
        self.low, self.low_runs = inf, self.runs
        self.graph = self._graph(max(1, budget))

    def _graph(self, limit: int) -> Graph:
        ops, maker = self.problem.ops, self.problem.maker
        sizes = [self.problem.buffers[op.creates[0]].transient / limit for op in ops]
        sources = [
            list(dict.fromkeys(m for b in op.reads if (m := maker[b]) is not None)) for op in ops
        ]
        at = np.cumsum([0, *map(len, sources)]).astype(np.int64)
        reads = np.array([s for some in sources for s in some], np.int64)
        costs = np.array([op.cost for op in ops], np.float64)
        return Graph(np.array(sizes), costs / self.unit, at, reads)

    def run(self) -> Schedule:
        starts = [self.runs]
        self._offer(self.runs)
        if self.extra > 0:
            least = least_bytes(self.problem, self.given, self.curve, self.work)
            if least > self.budget:
                raise self._refused(None, least)
            with self.work.share(ORDER_SHARE):
                found = best_order(self.problem, self.work).found.order
            starts.insert(0, np.array(found, np.int64))
            self._offer(starts[0])
        bound = self._bound(starts[0].tolist()) if self.extra > 0 else 0.0
        if bound == inf:
            raise self._refused(None, self.budget + 1)
        seed = 0
        part = self.work.left / 12 if self.work.left < inf else MOST_ROUND * A_RUN
        a_round = int(min(max(part // A_RUN, LEAST_ROUND), MOST_ROUND))
        if self.low > FAR and not self._is_done(bound):
            with self.work.share(STAIRS_SHARE):
                self._climb_down(a_round)
            starts.insert(0, self.low_runs)
        plan = [(heat, start) for heat in FIRST for start in starts]
        while not self._is_done(bound):
            if seed < len(plan):
                heat, start = plan[seed]
            else:
                heat = LATER[seed % len(LATER)]
                start = self.runs if self.extra < inf else self.low_runs
            seed += 1
            self._anneal(heat, start, a_round, seed)
        if self.extra == inf:
            least = least_bytes(self.problem, self.given, self.curve)
            raise self._refused(round(self.low * max(1, self.budget)), least)
        return self._schedule(bound)

    def _is_done(self, bound: float) -> bool:
        return self.work.is_over() or self.extra * self.unit <= bound * (1 + 1e-9)

    def _climb_down(self, most: int) -> None:
        """Lowers `low`, the lowest peak found, stair by stair, until it is within the budget.

        Each stair is an annealing of at most `most` units of effort, with a limit a little below
        `low`. Ends earlier if even the smallest stair fails, or if the work is spent.

        If the peak is far above the budget, a single annealing does not reach the budget: it ends
        with a sequence that is a little above the budget at nearly all times.
        """
        seed, stair, target = 1, STAIR, self.graph
        while self.low > 1 and stair > LEAST_STAIR and not self.work.is_over():
            limit = max(1.0, self.low * (1 - stair))
            graph = target._replace(size=target.size / limit)
            runs = int(self.work.steps(A_RUN, most))
            start = self.low_runs
            extra, found, low, low_runs, done = anneal(graph, start, FIRST[1], runs, seed)
            self.work.spend(A_RUN * max(1, done))
            seed += 1
            if extra < inf:
                self.low, self.low_runs = self._measure(found)[2], found
                self._offer(found)
            elif low * limit < self.low:
                self.low, self.low_runs = low * limit, low_runs
            else:
                stair /= 2

    def _anneal(self, heat: Heat, start: Ints, most: int, seed: int) -> None:
        runs = int(self.work.steps(A_RUN, most))
        extra, found, low, low_runs, done = anneal(self.graph, start, heat, runs, seed)
        self.work.spend(A_RUN * max(1, done))
        if low < self.low:
            self.low, self.low_runs = low, low_runs
        if extra < self.extra:
            self._offer(found)

    def _offer(self, runs: Ints) -> None:
        """Keeps a sequence as `low_runs` if its peak is the lowest so far.

        If the sequence is within the budget, also removes copies without which it still fits, and
        keeps what is left as `runs` if that is the cheapest so far.
        """
        fits, extra, low = self._measure(runs)
        if low < self.low:
            self.low, self.low_runs = low, runs
        if not fits:
            return
        changed = True
        while changed:
            changed = False
            counts = np.bincount(runs, minlength=len(self.given))
            for t in sorted(range(len(runs)), key=lambda t: -self.graph.cost[runs[t]]):
                if counts[runs[t]] > 1:
                    shorter = np.delete(runs, t)
                    fits, less, _ = self._measure(shorter)
                    if fits:
                        runs, extra, changed = shorter, less, True
                        break
        if extra < self.extra:
            self.extra, self.runs = extra, runs

    def _measure(self, runs: Ints) -> tuple[bool, float, float]:
        """Returns whether a sequence is valid and fits, its extra time, and its peak.

        The time is in mean costs of an op. The peak is a multiple of the budget; inf if the
        sequence is not valid.
        """
        valid, extra, above, peak = _measured(self.graph, runs)
        if len(runs) == len(self.given):
            extra = 0.0
        return valid and above <= 0, max(extra, 0.0), peak if valid else inf

    def _bound(self, order: list[OpId]) -> float:
        """Returns a lower bound on the extra time, in seconds, of any schedule within the budget.

        Returns inf if it is proven that no schedule keeps the budget. Tries the ops at which
        `order` is above the budget.
        """
        curve = live_curve(self.problem, order, {})
        with self.work.share(BOUND_SHARE):
            return time_bound(self.problem, order, curve, self.budget, self.work).seconds

    def _refused(self, found: int | None, least: int) -> BudgetError:
        shown = f"the smallest schedule found takes {found} bytes, " if found is not None else ""
        return BudgetError(
            f"no schedule of {self.problem.name!r} within {self.budget} bytes "
            f"({show_size(self.budget)}): {shown}every schedule needs {least} bytes "
            f"({show_size(least)}) or more; raise the budget",
            budget=self.budget,
            found=found,
            least=least,
        )

    def _schedule(self, bound: float) -> Schedule:
        counts = np.bincount(self.runs, minlength=len(self.given)).tolist()
        copies = zip(self.problem.ops, counts, strict=True)
        extra = sum(op.cost * (n - 1) for op, n in copies)
        in_bytes = self._graph(1)
        *_, peak = _measured(in_bytes, self.runs)
        return Schedule(tuple(self.runs.tolist()), int(peak), extra, min(bound, extra))


def _measured(graph: Graph, runs: Ints) -> tuple[bool, float, float, float]:
    """Calls `measure` for a sequence, and makes its working arrays.

    Returns whether the sequence can run, its extra time, the live bytes above the limit, summed
    over time, and its peak.
    """
    count = len(runs)
    latest, end = np.zeros(len(graph.size), np.int64), np.zeros(count + 1, np.int64)
    live: Floats = np.zeros(count + 2)
    found: tuple[bool, float, float, float] = measure(graph, runs, count, latest, end, live)
    return found
