"""Finds a greedy order that keeps within a limit in bytes, and the lowest such limit.

Like `least_peak_first`, it runs the ready op after which the fewest bytes are alive, except that

    an op that would go above the limit        waits until other ops have freed enough. Otherwise an
                                               op that frees much runs early, however much it takes
                                               while it runs
    an op whose results no op can use yet      is *early*, and runs after all ops that are not, if
                                               it adds bytes. Otherwise such ops run all at once,
                                               because each adds little

    g ──── dx ───┐
                 ├── mul          the tanh of each layer is early until dx of its layer has run
    y ──── tanh ─┘
"""

from __future__ import annotations

import heapq
from math import inf

from roam.core.problem import OpId, Problem
from roam.solvers.order.phase_memory import PhaseMemory

Order = list[OpId]

PROBES = 10  # limits that are tried; each halves the range of limits that is left
STEPS = 200_000  # ops that may run under all limits together: a second, or two

_Rank = tuple[bool, int, int]  # is early, bytes that the op leaves alive, bytes while it runs


def lazy(problem: Problem, phase: int) -> Order:
    """Returns the order with the lowest peak among those of `schedule` with several limits."""
    found = schedule(problem, phase)
    assert found is not None  # no op waits for a limit
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
    """Returns an order of a phase within a limit and its peak, or None if the rule finds none.

    Limit and peak are bytes beyond those alive when the phase starts.
    """
    return _Schedule(problem, phase, limit).run()


class _Schedule:
    """The ready ops of a phase, in two heaps: those within the limit, and those that wait for it.

    An outdated entry stays in its heap and is skipped: its version is not that of the op.
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
        """Adds a ready op with its present rank."""
        self.version[i] = self.version.get(i, 0) + 1
        net, transient = self.state.effect(i)
        rank = (net > 0 and self.is_early(i), net, transient)
        heapq.heappush(self.ready, (rank, i, self.version[i]))

    def is_early(self, i: OpId) -> bool:
        """Returns whether ops of the phase wait for a ready op, and all of them for others too."""
        after = [self.waiting[s] for s in self.problem.successors[i] if s in self.waiting]
        return bool(after) and min(after) > 1

    def pop(self) -> tuple[_Rank, OpId] | None:
        """Returns the op with the lowest rank that keeps within the limit, None without one."""
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
        """Counts an op as having run, and pushes the ops that this makes ready or less early."""
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
