"""Makes greedy orders of a phase: always runs the ready op with the lowest rank.

    waiting ── all that it waits for has run ──> ready ── lowest rank ──> runs
                                                   ^ │
                enough bytes have been freed       │ │ would go above the limit
                                                   │ v
                                                  above

An op is ready if all ops that it waits for have run. A greedy rule is a subclass of
`RankedSchedule` with a `rank` of its own.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import inf

from roam.core.problem import OpId, Problem
from roam.solvers.order.phase_memory import PhaseMemory

Order = list[OpId]
Rank = tuple[int, ...]


class RankedSchedule(ABC):
    """The state of a greedy schedule of one phase, with its ready ops in two heaps.

    One heap holds the ops to be run by rank, the other one the ops that would go above the limit.
    When the rank of an op changes, a new entry with a higher version is pushed. The old entry stays
    in its heap and is skipped when it comes out.

    Args:
        problem: the Problem whose phase is ordered.
        phase: the index of the phase.
        limit: limit on the live bytes beyond those alive when the phase starts.

    Attributes:
        waiting: by op of the phase, how many of the ops that it waits for have not run.
        version: by op, the number of entries pushed for it; -1 if it has run.
        ready: the heap of (rank, op, version) of the ops to be run.
        above: the heap of the ops that would go above the limit, by the bytes that they add.
        live, peak: bytes alive now, and the most so far, beyond those at the start of the phase.
    """

    def __init__(self, problem: Problem, phase: int, limit: float = inf) -> None:
        self.problem, self.limit = problem, limit
        self.memory = PhaseMemory(problem, phase)
        ops = problem.phases[phase]
        inside = set(ops)
        self.waiting = {i: sum(p in inside for p in problem.predecessors[i]) for i in ops}
        self.version: dict[OpId, int] = {}
        # by op, the bytes that it adds after it has run, and while it runs, as of its last push
        self.effect: dict[OpId, tuple[int, int]] = {}
        self.ready: list[tuple[Rank, OpId, int]] = []
        self.above: list[tuple[int, Rank, OpId, int]] = []
        self.live = self.peak = 0

    @abstractmethod
    def rank(self, i: OpId, net: int, transient: int) -> Rank:
        """Returns the rank of a ready op. The op with the lowest rank runs first.

        Args:
            i: the op.
            net: the bytes by which the live bytes are higher after it; may be below 0.
            transient: the bytes that it adds while it runs.
        """

    def ranked_anew(self, i: OpId) -> Sequence[OpId]:
        """Returns the ops whose rank may change when `i` has come to wait for only one op more.

        By default there are none.
        """
        return ()

    def run(self) -> tuple[Order, int] | None:
        """Runs the whole phase. Returns the order and its peak, in bytes beyond those at the start.

        Returns None if there is a moment at which every ready op would go above the limit. Can be
        called only once.
        """
        for first, n in self.waiting.items():
            if n == 0:
                self.push(first)
        order: Order = []
        while len(order) < len(self.waiting):
            i = self.pop()
            if i is None:
                return None
            net, transient = self.effect[i]
            order.append(i)
            self.peak = max(self.peak, self.live + transient)
            self.live += net
            self.count(i)
        return order, self.peak

    def push(self, i: OpId) -> None:
        """Pushes a ready op, with the rank that it has now, on the heap of the ops to be run."""
        self.version[i] = self.version.get(i, 0) + 1
        self.effect[i] = self.memory.effect(i)
        heapq.heappush(self.ready, (self.rank(i, *self.effect[i]), i, self.version[i]))

    def pop(self) -> OpId | None:
        """Takes off the heap, of the ready ops that keep within the limit, the one of lowest rank.

        Returns None if no ready op keeps within the limit. Ops that would go above the limit wait
        in the heap `above`, until enough bytes are free.
        """
        while self.above and self.above[0][0] + self.live <= self.limit:
            heapq.heappush(self.ready, heapq.heappop(self.above)[1:])
        while self.ready:
            rank, i, version = heapq.heappop(self.ready)
            if version != self.version[i]:
                continue
            _, transient = self.effect[i]
            if self.live + transient <= self.limit:
                return i
            heapq.heappush(self.above, (transient, rank, i, version))
        return None

    def count(self, i: OpId) -> None:
        """Records that an op has run. Pushes the ops that become ready or change their rank.

        The rank of an op changes if the op would now free a buffer, or if `ranked_anew` lists it.
        """
        self.version[i] = -1
        changed = self.memory.run(i)
        for s in self.problem.successors[i]:
            if s in self.waiting:
                self.waiting[s] -= 1
                if self.waiting[s] == 0:
                    self.push(s)
                elif self.waiting[s] == 1:
                    changed += self.ranked_anew(s)
        for u in dict.fromkeys(changed):
            if self.waiting.get(u) == 0 and self.version[u] > 0:
                self.push(u)
