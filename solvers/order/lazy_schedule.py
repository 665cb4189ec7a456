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
    y ──── tanh ─┘
"""

from __future__ import annotations

import heapq
from math import inf

from roam.core.problem import OpId, Problem
from roam.solvers.order.phase_memory import PhaseMemory

Order = list[OpId]

# limit on the schedules of `lazy` after its first one; each halves the range of possible limits
PROBES = 10
# limit on the ops of all schedules of `lazy` after its first one together: one or two seconds
STEPS = 200_000

# rank: (no op can use the result yet, bytes added to the live bytes, bytes added while it runs)
_Rank = tuple[bool, int, int]


def lazy(problem: Problem, phase: int) -> Order:
    """Returns the order with the lowest peak that `schedule` makes under several limits."""
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
    return _Schedule(problem, phase, limit).run()


class _Schedule:
    """The state of a greedy schedule of one phase, with its ready ops in two heaps.

    One heap holds the ops to be run by rank, the other one the ops that would go above the limit.
    When the rank of an op changes, a new entry with a higher version is pushed. The old entry stays
    in its heap and is skipped when it comes out.
    """

    def __init__(self, problem: Problem, phase: int, limit: float) -> None:
        self.problem, self.limit = problem, limit
        self.state = PhaseMemory(problem, phase)
        ops = problem.phases[phase]
        inside = set(ops)
        self.waiting = {i: sum(p in inside for p in problem.predecessors[i]) for i in ops}
        self.version: dict[OpId, int] = {}
        self.ready: list[tuple[_Rank, OpId, int]] = []
        self.above: list[tuple[int, _Rank, OpId, int]] = []
        self.live = self.peak = 0

    def run(self) -> tuple[Order, int] | None:
        for i, n in self.waiting.items():
            if n == 0:
                self.push(i)
        order: Order = []
        while len(order) < len(self.waiting):
            found = self.pop()
            if found is None:
                return None
            (_, net, transient), i = found
            order.append(i)
            self.peak = max(self.peak, self.live + transient)
            self.live += net
            self.count(i)
        return order, self.peak

    def push(self, i: OpId) -> None:
        """Pushes a ready op, with the rank that it has now, on the heap of the ops to be run."""
        self.version[i] = self.version.get(i, 0) + 1
        net, transient = self.state.effect(i)
        rank = (net > 0 and self.is_early(i), net, transient)
        heapq.heappush(self.ready, (rank, i, self.version[i]))

    def is_early(self, i: OpId) -> bool:
        """Returns whether a ready op is early: no op of the phase can use its results yet.

        That is so if ops of the phase wait for the op, and each of these waits for another op too.
        """
        after = [self.waiting[s] for s in self.problem.successors[i] if s in self.waiting]
        return bool(after) and min(after) > 1

    def pop(self) -> tuple[_Rank, OpId] | None:
        """Takes the ready op with the lowest rank that keeps within the limit off its heap.

        Returns its rank and the op. Returns None if no ready op keeps within the limit. Ops that
        would go above the limit wait in the heap `above`, until enough bytes are free.
        """
        while self.above and self.above[0][0] + self.live <= self.limit:
            heapq.heappush(self.ready, heapq.heappop(self.above)[1:])
        while self.ready:
            rank, i, version = heapq.heappop(self.ready)
            if version != self.version[i]:
                continue
            if self.live + rank[2] <= self.limit:
                return rank, i
            heapq.heappush(self.above, (rank[2], rank, i, version))
        return None

    def count(self, i: OpId) -> None:
        """Records that an op has run. Pushes the ops that become ready or change their rank.

        The rank of an op changes if the op would now free a buffer, or if its results can now be
        used.
        """
        self.version[i] = -1
        changed = self.state.run(i)
        for s in self.problem.successors[i]:
            if s in self.waiting:
                self.waiting[s] -= 1
                if self.waiting[s] == 0:
                    self.push(s)
                elif self.waiting[s] == 1:
                    changed += self.problem.predecessors[s]
        for u in dict.fromkeys(changed):
            if self.waiting.get(u) == 0 and self.version[u] > 0:
                self.push(u)
