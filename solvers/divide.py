"""Divides a phase at the cheapest moments of its worst ops, and orders each part by itself.

    start ────────────── peak ────────────── end        the best greedy order has its peak at an op
    start ── D ── op ─────────────────────── end        that op is cheapest after the ops of D: a
          part 1              part 2                    minimum cut says which (solvers/cut_bound)

The parts are divided again as long as their own worst op has a cheaper moment. A state of least
bytes may be passed through without loss: were an order better, then so were its part inside the
state followed by its part outside, for what is alive after a set of ops is submodular in the set
(the valleys of Liu 1987, here for any graph). The peak op's own moment is such a state among
those in which it can run.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf

from roam.core.problem import OpId, Problem
from roam.solvers.cut_bound import Cuts, own_bytes
from roam.solvers.order import RULES, Memory, list_schedule

Order = list[OpId]
DEEPEST = 40  # divisions within divisions
TRIES = 6  # moments of one worst op
WORK, WORK_AN_OP = 10_000, 4  # ops put in order, over all divisions


@dataclass(frozen=True)
class Part:
    """An order of a set of ops that run one after another, and its live bytes at each."""

    order: Order
    curve: list[int]

    @property
    def peak(self) -> int:
        return max(self.curve, default=0)

    @property
    def worst(self) -> OpId:
        return self.order[self.curve.index(self.peak)] if self.order else -1


def divide(problem: Problem, phase: int, deadline: float = inf) -> Order:
    """An order of the phase's ops, at least as good as the greedy ones."""
    return _Divider(problem, phase, deadline).best(problem.phases[phase], []).order


class _Divider:
    def __init__(self, problem: Problem, phase: int, deadline: float) -> None:
        self.problem, self.phase, self.deadline = problem, phase, deadline
        self.cuts = Cuts(problem)
        self.network = self.cuts.network(phase)
        self.place = self.network.place
        self.work = WORK + WORK_AN_OP * len(self.place)

    def best(self, ops: Sequence[OpId], done: Sequence[OpId], depth: int = 0) -> Part:
        """The best order found of some ops, given in program order, after those that are done."""
        best = self.greedy(ops, done)
        sooner: list[OpId] = []
        later: list[OpId] = []
        for _ in range(TRIES if depth < DEEPEST and self.work > 0 else 0):
            worst = best.worst
            first = self.cheapest_moment(worst, ops, done, sooner, later, best.peak)
            if first is None:
                break
            found = self.around(first, worst, ops, done, depth)
            culprit = found.worst
            if found.peak < best.peak:
                best, sooner, later = found, [], []
            elif culprit in first:  # what was to run before the worst op is worse: not before
                later.append(culprit)
            elif culprit != worst:  # or what was left for later, now that this has run: before
                sooner.append(culprit)
            else:
                break
        return best

    def around(
        self, first: set[OpId], op: OpId, ops: Sequence[OpId], done: Sequence[OpId], depth: int
    ) -> Part:
        """Some of the ops, then the one, then the others."""
        before = self.best([i for i in ops if i in first], done, depth + 1)
        middle = self.curve([op], [*done, *before.order])
        rest = [i for i in ops if i not in first and i != op]
        after = self.best(rest, [*done, *before.order, op], depth + 1)
        return Part([*before.order, op, *after.order], [*before.curve, *middle, *after.curve])

    def greedy(self, ops: Sequence[OpId], done: Sequence[OpId]) -> Part:
        self.work -= len(ops)
        orders = [list(ops), *(list_schedule(self.problem, ops, done, rule) for rule in RULES)]
        parts = (Part(o, self.curve(o, done)) for o in orders)
        return min(parts, key=lambda part: part.peak)

    def curve(self, order: Iterable[OpId], done: Sequence[OpId]) -> list[int]:
        memory = Memory(self.problem, self.phase, done)
        live, curve = memory.live(), []
        for i in order:
            net, top = memory.effect(i)
            curve.append(live + top)
            live += net
            memory.run(i)
        return curve

    def cheapest_moment(
        self,
        op: OpId,
        ops: Sequence[OpId],
        done: Sequence[OpId],
        sooner: Sequence[OpId],
        later: Sequence[OpId],
        peak: int,
    ) -> set[OpId] | None:
        """What of the ops runs before the one when it costs least; None if that is its peak."""
        if len(ops) < 2 or time.monotonic() > self.deadline:
            return None
        inside = {self.place[i] for i in ops}
        ran = {self.place[i] for i in done}
        before, after = set(ran), set(range(len(self.place))) - inside - ran
        for i in sooner:
            before |= self.network.ancestors(self.place[i])
        for i in later:
            after |= self.network.descendants(self.place[i])
        k = self.place[op]
        if before & (after | self.network.descendants(k)) or after & self.network.ancestors(k):
            return None
        least, places = self.network.cheapest(k, list(before), list(after))
        if least + own_bytes(self.problem, op) >= peak:
            return None
        return {self.network.ops[k] for k in places} & set(ops)
