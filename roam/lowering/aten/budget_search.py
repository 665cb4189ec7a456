"""Searches for the copies with which a joint graph keeps within a limit, and plans each choice.

The choice counts live bytes in program order. The plan's order is mostly better and its layout may
be worse, so the limit of the choice is moved by the difference, and the choice made again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import fx

from roam.capture.fx_problem import Captured
from roam.capture.usual_costs import Costs
from roam.core.budget import Budget, Of
from roam.core.machine import Bytes
from roam.core.plan import Plan
from roam.core.problem import Problem
from roam.lowering.aten.budget_graph import BudgetGraph, reordered, with_room
from roam.lowering.aten.footprint import Unlimited
from roam.passes.pipeline import copied
from roam.planner import Choice, Copies, Limits, choose, smallest_peak

ROUNDS = 5  # choices that are planned
# a graph that others follow may save an eighth of a size: nobody knows how many follow
OTHERS = 8
SLACK = 0.02  # share of the limit that a plan may leave unused before another choice is tried
Trial = Callable[[fx.GraphModule], Captured]
Planner = Callable[[fx.GraphModule], Plan]  # of a joint graph, which it does not change

Graphs = tuple[BudgetGraph, BudgetGraph]  # in program order, and in the planned order


@dataclass(frozen=True)
class Best:
    """The cheapest choice so far, the joint graph with its copies, and a plan within the limit."""

    joint: fx.GraphModule
    plan: Plan
    copies: Copies


@dataclass(frozen=True)
class _Found:
    """A choice that was planned in this process.

    Attributes:
        graph: 0 if it is of program order, 1 if it is of the planned order.
        peak: of its plan, bytes.
        choice: the copies.
    """

    graph: int
    peak: Bytes
    choice: Choice


@dataclass(frozen=True)
class Searches:
    """Searches for the copies of one graph.

    `room` is the bytes that other graphs are taken to need between the graph's forward and its
    backward. They count on top of what the graph saves, so a choice with more room saves less.

    Attributes:
        joint: the graph without copies.
        captured: its Problem.
        first: the plan of that.
        trial: partitions a graph and reads the Problem off its parts.
        plan_of: plans a Problem.
        costs: estimates ops that the graph does not have.
        plans: by fingerprint, the plans that were made.
        captures: by graph with copies, the Problem of its parts.
        known: by room, what `graphs` returned.
    """

    joint: fx.GraphModule
    captured: Captured
    first: Plan
    trial: Trial
    plan_of: Callable[[Problem], Plan]
    costs: Costs | None
    plans: dict[str, Plan]
    captures: dict[fx.GraphModule, Captured] = field(default_factory=dict, init=False)
    known: dict[Bytes, Graphs] = field(default_factory=dict, init=False)

    def graphs(self, room: Bytes) -> Graphs:
        """Returns the graph in program order, and in the planned order.

        Program order may need more by itself than the order that was planned.
        """
        if room not in self.known:
            captured, peak = with_room(self.captured, room), self.first.peak + room
            by_plan = reordered(captured, self.first.order)
            self.known[room] = (
                BudgetGraph(self.joint, captured, self.costs, peak),
                BudgetGraph(self.joint, by_plan, self.costs, peak),
            )
        return self.known[room]

    def planned(self, edited: fx.GraphModule, room: Bytes = 0) -> Plan:
        if edited not in self.captures:
            self.captures[edited] = self.trial(copied(edited))
        problem = with_room(self.captures[edited], room).problem
        if problem.fingerprint not in self.plans:
            self.plans[problem.fingerprint] = self.plan_of(problem)
        return self.plans[problem.fingerprint]

    def cheapest(self, limit: Bytes, room: Bytes = 0) -> Best | None:
        """Returns the cheapest choice that is found within the limit; its plan has no room."""
        graphs = self.graphs(room)
        key = graphs[0].captured.problem.fingerprint
        best = _cheapest(graphs, key, limit, lambda edited: self.planned(edited, room))
        return best if best is None or not room else replace(best, plan=self.planned(best.joint))

    def smallest(self, room: Bytes = 0) -> Best:
        """Returns the choice with the smallest peak that is found, whatever it costs."""
        graph = self.graphs(room)[1]
        low = smallest_peak(graph.step).copies
        edited = graph.edited(low)
        return Best(edited, self.planned(edited), low)

    def beside_others(self, budget: Budget, limit: Bytes, unlimited: Unlimited) -> Best:
        """Returns a choice for a graph, if other graphs run between its forward and its backward.

        Tried in turn, until one is found:

        1. the graph saves its part: `1 / OTHERS` of a size, or the share of what it saves without
           a budget
        2. for a share: its own peak is within the limit, whatever it saves
        3. for a share: it saves its part, and its peak is the smallest that is found
        4. it saves as little as is found
        """
        shares = budget.of is Of.SHARE
        saved = int(budget.amount * unlimited.left) if shares else limit // OTHERS
        best = self.cheapest(limit, limit - saved) if limit > saved else None
        if best is None and shares and limit > 0:
            best = self.cheapest(limit)
        if best is None and shares:
            low = self.smallest()
            best = self.cheapest(low.plan.peak, max(0, low.plan.peak - saved))
        return best or self.smallest(self.first.peak)


_FOUND: dict[str, list[_Found]] = {}  # by fingerprint of the Problem without copies


def _cheapest(graphs: Graphs, key: str, limit: Bytes, planned: Planner) -> Best | None:
    """Returns the cheapest choice that is found, or was found before in this process.

    key: the fingerprint of the Problem without copies.
    """
    known = _FOUND.setdefault(key, [])
    best: Best | None = None
    for n, graph in enumerate(graphs):
        if best is None and (best := search(graph, limit, planned)) is not None:
            known.append(_Found(n, best.plan.peak, best.copies.choice))
    for found in known:
        if found.peak <= limit:  # a plan for a budget is one for each larger budget
            graph = graphs[found.graph]
            copies = Copies.of(graph.step, found.choice)
            if best is None or copies.cost < best.copies.cost:
                edited = graph.edited(copies)
                again = planned(edited)
                best = Best(edited, again, copies) if again.peak <= limit else best
    return best


def search(
    graph: BudgetGraph, limit: Bytes, planned: Planner, limits: Limits | None = None
) -> Best | None:
    """Returns the cheapest choice whose plan is within the limit, None if none is found.

    Args:
        graph: the graph without copies.
        limit: bytes.
        planned: plans a graph with copies.
        limits: how far each choice is searched for.
    """
    best: Best | None = None
    target, relaxed = limit, False
    for _ in range(ROUNDS):
        chosen = choose(graph.step, target, limits)
        edited = graph.edited(chosen.copies)
        found = planned(edited)
        fits = found.peak <= limit
        if fits and (best is None or chosen.copies.cost < best.copies.cost):
            best = Best(edited, found, chosen.copies)
        if fits and found.peak >= (1 - SLACK) * limit:
            break
        if not fits and (best is not None or not chosen.fits):
            break
        moved = target + limit - found.peak
        if fits and (not chosen.fits or moved <= target or relaxed):
            break
        relaxed = fits
        target = min(moved, target - 1) if not fits else moved
    return best
