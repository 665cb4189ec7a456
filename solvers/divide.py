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
from roam.solvers.cut_bound import Cuts
from roam.solvers.order import RULES, Memory, list_schedule

Order = list[OpId]
DEEPEST = 200  # divisions within divisions


@dataclass(frozen=True)
class Part:
    """An order of a set of ops that run one after another, and its live bytes at each."""

    order: Order
    curve: list[int]

    @property
    def peak(self) -> int:
        return max(self.curve, default=0)


def divide(problem: Problem, phase: int, deadline: float = inf) -> Order:
    """An order of the phase's ops, at least as good as the greedy ones."""
    return _Divider(problem, phase, deadline).best(problem.phases[phase], []).order


class _Divider:
    def __init__(self, problem: Problem, phase: int, deadline: float) -> None:
        self.problem, self.phase, self.deadline = problem, phase, deadline
        self.cuts = Cuts(problem)
        self.network = self.cuts.network(phase)
        self.place = self.network.place

    def best(self, ops: Sequence[OpId], done: Sequence[OpId], depth: int = 0) -> Part:
        """The best order found of some ops, given in program order, after those that are done."""
        whole = self.greedy(ops, done)
        split = self.split(ops, done, whole) if depth < DEEPEST else None
        if split is None:
            return whole
        first, op, rest = split
        before = self.best(first, done, depth + 1)
        if before.peak >= whole.peak:
            return whole
        middle = self.curve([op], [*done, *first])
        after = self.best(rest, [*done, *first, op], depth + 1)
        found = Part([*before.order, op, *after.order], [*before.curve, *middle, *after.curve])
        return found if found.peak < whole.peak else whole

    def greedy(self, ops: Sequence[OpId], done: Sequence[OpId]) -> Part:
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

    def split(
        self, ops: Sequence[OpId], done: Sequence[OpId], whole: Part
    ) -> tuple[list[OpId], OpId, list[OpId]] | None:
        """What runs before the worst op, that op, and the rest; None if it has no better moment."""
        if len(ops) < 2 or time.monotonic() > self.deadline:
            return None
        worst = whole.order[whole.curve.index(whole.peak)]
        inside = set(ops)
        ran = [self.place[i] for i in done]
        late = [k for i, k in self.place.items() if i not in inside]
        late = sorted(set(late) - set(ran))
        least, places = self.network.cheapest(self.place[worst], ran, late)
        if least + self.cuts.own(worst) >= whole.peak:
            return None
        first = {self.network.ops[k] for k in places} & inside
        before = [i for i in ops if i in first]
        rest = [i for i in ops if i not in first and i != worst]
        return before, worst, rest
