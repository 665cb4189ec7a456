"""Makes greedy orders of a phase that keep within limits on live bytes, and lowers the limit.

Like `greedy.least_peak_first`, always runs the ready op after which the fewest bytes are alive.
There are two exceptions:

    an op that would go above the limit        waits until other ops have freed enough. Without a
                                               limit, an op that frees much runs early, even if it
                                               needs many bytes while it runs
    an op whose results no op can use yet      is *early*. An early op that adds bytes runs after
                                               all ready ops that are not early. Otherwise the early
                                               ops would run all at once, because each adds little

    g ──── dx ───┐
                 ├── mul          the tanh of a layer is early until the dx of its layer has run
    y ──── tanh ─┘                g: the gradient that arrives, y: a saved tensor
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from roam.core.problem import OpId, Problem
from roam.solvers.order.ranked_schedule import Order, Rank, RankedSchedule

# limit on the schedules of `lazy` after its first one; each halves the range of possible limits
PROBES = 10
# limit on the ops of all schedules of `lazy` after its first one together: one or two seconds
STEPS = 200_000


def lazy(problem: Problem, phase: int) -> Order:
    """Returns the order with the lowest peak that `schedule` makes under several limits.

    The first schedule has no limit. Each further limit is halfway between the highest limit refused
    and the lowest peak so far (bisection). Tries at most PROBES of them, fewer in a large phase.
    """
    found = schedule(problem, phase)
    assert found is not None  # without a limit, `schedule` always finds an order
    order, peak = found
    refused = 0
    for _ in range(min(PROBES, STEPS // max(1, len(order)))):
        limit = (refused + peak) // 2
        found = schedule(problem, phase, limit)
        if found is None:
            refused = limit
        else:
            order, peak = found
    return order


def schedule(problem: Problem, phase: int, limit: float = inf) -> tuple[Order, int] | None:
    """Makes an order of a phase that keeps within a limit, by a greedy rule.

    Returns the order and its peak, or None if the greedy rule comes to a point at which every ready
    op would go above the limit. Limit and peak are bytes beyond those alive when the phase starts.
    """
    return _Lazy(problem, phase, limit).run()


class _Lazy(RankedSchedule):
    def rank(self, i: OpId, net: int, transient: int) -> Rank:
        return (net > 0 and self.is_early(i), net, transient)

    def is_early(self, i: OpId) -> bool:
        """Returns whether a ready op is early: no op of the phase can use its results yet.

        That is so if ops of the phase wait for the op, and each of these waits for a further op
        that has not run. An op for which no op of the phase waits is not early.
        """
        after = [self.waiting[s] for s in self.problem.successors[i] if s in self.waiting]
        return bool(after) and min(after) > 1

    def ranked_anew(self, i: OpId) -> Sequence[OpId]:
        """Returns the ops that `i` waits for.

        Called when all but one of these ops have run. The last one is early no more, since `i` can
        use its results as soon as it has run.
        """
        return self.problem.predecessors[i]
