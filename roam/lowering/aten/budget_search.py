"""Searches for the copies that keep a joint graph within a limit, and plans each choice of copies.

A choice (of copies) is made so that the live bytes in program order are within a limit. The peak of
the plan that is then made differs from the peak in program order: the planned order is mostly
better, and the layout may waste bytes. So the next choice is made for a limit that is raised or
lowered by as many bytes as the plan was below or above the limit that it has to keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

ROUNDS = 5  # limit on the choices of copies that one search plans
# A graph that other graphs follow should save at most limit / OTHERS bytes for its backward, unless
# the budget is a share ("60%"). How many graphs follow is not known. It may save more only if no
# choice of copies saves so little.
OTHERS = 8
SLACK = 0.02  # a search ends with a plan that leaves at most this share of the limit unused
# partitions a joint graph, which may change it, and reads the Problem off the two parts
Trial = Callable[[fx.GraphModule], Captured]
Planner = Callable[[fx.GraphModule], Plan]  # plans a joint graph without changing it

Graphs = tuple[BudgetGraph, BudgetGraph]  # a graph in program order, the same in planned order


@dataclass(frozen=True)
class Best:
    """A choice of copies that a search returns, with its plan.

    Attributes:
        joint: the joint graph with the copies.
        plan: the plan of `joint`.
        copies: the copies, with their cost in seconds.
        desperate: whether no choice was found that keeps the limit in the order that was searched,
            so that this one is of the lowest peak there, at any cost, and keeps it by its plan's
            order.
    """

    joint: fx.GraphModule
    plan: Plan
    copies: Copies
    desperate: bool = False


@dataclass(frozen=True)
class _Found:
    """A choice of copies that was planned in this process.

    Attributes:
        graph: 0 if the choice was made for the graph in program order, 1 if in planned order.
        peak: the peak of the choice's plan in bytes, with the bytes counted that the search assumed
            for other graphs.
        choice: the copies.
    """

    graph: int
    peak: Bytes
    choice: Choice


@dataclass(frozen=True)
class Searches:
    """Searches for the copies of one graph.

    `room` is an assumption: the bytes that other graphs need between this graph's forward and its
    backward. These bytes count on top of what this graph saves, so the more room is assumed, the
    less a choice saves.

    Attributes:
        joint: the graph without copies.
        captured: the Problem of `joint`.
        first: the plan of `captured`.
        trial: partitions a graph and reads the Problem off the parts. May change the graph.
        plan_of: plans a Problem.
        costs: estimates the seconds of ops that the graph does not have, such as those that make a
            dropout's result anew from its mask; None if no cost is wanted.
        plans: by fingerprint of a Problem, the plan that was made of it.
        left: bytes that other graphs leave behind, which are there during the whole backward.
        captures: by graph with copies, its Problem.
        known: by room, the graph in program order and in planned order.
    """

    joint: fx.GraphModule
    captured: Captured
    first: Plan
    trial: Trial
    plan_of: Callable[[Problem], Plan]
    costs: Costs | None
    plans: dict[str, Plan]
    left: Bytes = 0
    captures: dict[fx.GraphModule, Captured] = field(default_factory=dict, init=False)
    known: dict[Bytes, Graphs] = field(default_factory=dict, init=False)

    def graphs(self, room: Bytes) -> Graphs:
        """Returns the graph twice: in program order, and in the order of its plan without copies.

        Copies are searched for in planned order if program order gives none that keep the limit:
        in planned order, the peak may be lower before any copy is added.

        room: the bytes that other graphs are assumed to need, counted on top of this graph's.
        """
        if room not in self.known:
            captured, peak = with_room(self.captured, room, self.left), self.first.peak + room
            by_plan = reordered(captured, self.first.order)
            self.known[room] = (
                BudgetGraph(self.joint, captured, self.costs, peak),
                BudgetGraph(self.joint, by_plan, self.costs, peak),
            )
        return self.known[room]

    def planned(self, edited: fx.GraphModule, room: Bytes = 0, left: Bytes = 0) -> Plan:
        """Returns the plan of a joint graph with copies. Makes each plan once.

        Args:
            edited: the graph.
            room: the bytes that other graphs are assumed to need, on top of this graph's.
            left: the bytes that they are assumed to leave behind.
        """
        if edited not in self.captures:
            self.captures[edited] = self.trial(copied(edited))
        problem = with_room(self.captures[edited], room, left).problem
        if problem.fingerprint not in self.plans:
            self.plans[problem.fingerprint] = self.plan_of(problem)
        return self.plans[problem.fingerprint]

    def cheapest(self, limit: Bytes, room: Bytes = 0) -> Best | None:
        """Returns the cheapest choice found whose peak is within `limit`; None if none is found.

        The peak counts `room`. The plan in the result does not, so its peak may be far lower.

        Args:
            limit: the limit on the peak, in bytes.
            room: the bytes that other graphs are assumed to need, on top of this graph's.
        """
        graphs = self.graphs(room)
        key = graphs[0].captured.problem.fingerprint
        best = _cheapest(graphs, key, limit, lambda edited: self.planned(edited, room, self.left))
        return None if best is None else replace(best, plan=self.planned(best.joint))

    def smallest(self, room: Bytes = 0) -> Best:
        """Returns the choice found with the lowest peak of live bytes, at any cost.

        The live bytes are those in the order of the plan without copies, with `room` added between
        forward and backward. The plan in the result has an order of its own and counts no room, so
        its peak may differ.

        room: the bytes that other graphs are assumed to need, on top of this graph's.
        """
        graph = self.graphs(room)[1]
        low = smallest_peak(graph.step).copies
        edited = graph.edited(low)
        return Best(edited, self.planned(edited), low)

    def beside_others(
        self, budget: Budget, limit: Bytes, saved: Bytes, unlimited: Unlimited
    ) -> Best:
        """Returns a choice for a graph, if other graphs run between its forward and its backward.

        The bytes that the graph saves are those that its forward leaves for its backward. These
        bytes are held while the other graphs run, so the graph should save few. Searches with one
        aim after another, until a choice is found:

        1. The graph's peak is within the limit, and it saves no more than its allowance: `saved`
           or, if the budget is a share ("60%"), this share of what it saves without a budget. If no
           choice is found, the allowance is doubled, up to the limit.
        2. If the budget is a share: the graph saves no more than its allowance, and its peak is no
           higher than the smallest found.
        3. If the budget is a share: the graph saves as little as possible. If it is a size: its
           peak is as low as possible. In both cases the peak may be above the limit.

        Args:
            budget: the user's budget.
            limit: the limit on the graph's peak, in transient bytes.
            saved: bytes that the forward may leave alive for the backward, unless the budget is a
                share.
            unlimited: the bytes that the graph takes and saves without a budget.
        """
        shares = budget.of is Of.SHARE
        if shares:
            saved = int(budget.amount * unlimited.left)
        for allowed in _doubled(saved, limit):
            if (best := self.cheapest(limit, limit - allowed)) is not None:
                return best
        low = self.smallest()
        if not shares:
            return low
        best = self.cheapest(low.plan.peak, max(0, low.plan.peak - saved))
        return best or self.smallest(self.first.peak)


def _doubled(allowance: Bytes, limit: Bytes) -> Iterator[Bytes]:
    """Yields an allowance, doubled again and again while it is below a limit, then the limit.

    Yields only the limit if the allowance is 0, and nothing if the limit is 0 or less.
    """
    while 0 < allowance < limit:
        yield allowance
        allowance *= 2
    if limit > 0:
        yield limit


# fingerprint of a Problem without copies -> the choices of copies planned for it in this process
_FOUND: dict[str, list[_Found]] = {}


def _cheapest(graphs: Graphs, key: str, limit: Bytes, planned: Planner) -> Best | None:
    """Returns the cheapest choice within the limit, found now or earlier in this process.

    Searches the second of `graphs` only if nothing is found for the first, or a desperate choice.
    Returns None if nothing is found.

    Args:
        graphs: the graph in two orders, without copies.
        key: the fingerprint of the Problem without copies.
        limit: the limit on the peak of the choice's plan, in bytes.
        planned: plans a graph with copies.
    """
    known = _FOUND.setdefault(key, [])
    best: Best | None = None
    for n, graph in enumerate(graphs):
        if best is None or best.desperate:
            found = search(graph, limit, planned)
            if found is not None:
                known.append(_Found(n, found.plan.peak, found.copies.choice))
                if best is None or found.copies.cost < best.copies.cost:
                    best = found
    for other in known:
        if other.peak <= limit:  # a choice for a smaller budget also fits into this one
            graph = graphs[other.graph]
            copies = Copies.of(graph.step, other.choice)
            if best is None or copies.cost < best.copies.cost:
                edited = graph.edited(copies)
                again = planned(edited)
                best = Best(edited, again, copies) if again.peak <= limit else best
    return best


def search(
    graph: BudgetGraph, limit: Bytes, planned: Planner, limits: Limits | None = None
) -> Best | None:
    """Returns the cheapest of up to ROUNDS choices whose plan is within the limit; None if none is.

    Chooses for `limit` first, and then for a limit that is lower or higher by as much as the peak
    of the last plan was too high or too low. Ends early with a plan that leaves at most SLACK of
    `limit` unused, or if no other limit promises a cheaper choice that fits.

    Args:
        graph: the graph without copies.
        limit: the limit on the peak of the choice's plan, in bytes.
        planned: plans a graph with copies.
        limits: limits on the search for each choice; the defaults if None.
    """
    best: Best | None = None
    target, relaxed = limit, False
    for _ in range(ROUNDS):
        chosen = choose(graph.step, target, limits)
        edited = graph.edited(chosen.copies)
        found = planned(edited)
        fits = found.peak <= limit
        if fits and (best is None or chosen.copies.cost < best.copies.cost):
            best = Best(edited, found, chosen.copies, desperate=not chosen.fits)
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
