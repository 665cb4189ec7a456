"""Searches for what to recompute without a budget, with peaks no higher than those of aot_eager.

A choice of copies has three peaks (`Peaks`), since a plan does not know all that goes on around it:
other graphs may run between the forward and the backward, and the user may keep the forward's
outputs through the backward, or drop them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

import msgspec
from torch import fx

from roam.capture.fx_problem import Captured
from roam.capture.usual_costs import UsualCosts
from roam.core.machine import Bytes
from roam.core.plan import Plan, committed_peak
from roam.lowering.aten.aot_eager import Partitioned, Peaks
from roam.lowering.aten.budget_graph import BudgetGraph, with_outputs_dropped, with_room
from roam.lowering.aten.budget_search import Best, Searches, Trial, search
from roam.planner import QUICK, Copies, Settings, lowest_peak, placed, plan

SHARE = 0.005  # part of the step's time that all copies together may take: too short to measure


@dataclass
class FreeSearch:
    """Searches for copies, and compares choices by the peaks of their plans.

    Attributes:
        joint: the graph without copies.
        captured: the Problem of `joint`.
        first: the plan of `captured`.
        trial: partitions a graph and reads the Problem off the parts.
        settings: how to plan.
        smallest: tensors of fewer bytes are recomputed only if the peak would else be above
            aot_eager's.
        room: bytes that other graphs are assumed to need between the forward and the backward of
            this one; 0 if there are none. They count on top of the tensors that this graph saves.
    """

    joint: fx.GraphModule
    captured: Captured
    first: Plan
    trial: Trial
    settings: Settings
    smallest: Bytes
    room: Bytes

    @cached_property
    def searches(self) -> Searches:
        costs, plans = UsualCosts(), {self.first.fingerprint: self.first}
        captured, plan_of = priced(self.captured, costs), partial(plan, settings=self.settings)
        how = self.trial, plan_of, costs, plans
        return Searches(self.joint, captured, self.first, *how)

    @cached_property
    def peaks(self) -> Peaks:
        """The peaks without copies."""
        roomy = with_room(self.captured, self.room).problem
        peak = plan(roomy, self.settings).peak if self.room else self.first.peak
        return Peaks(peak, self.first.peak, peak_if_dropped(self.captured, self.first))

    def peaks_of(self, best: Best | None) -> Peaks:
        """Returns the peaks of a choice; None is the choice of no copies."""
        if best is None:
            return self.peaks
        roomy = self.searches.planned(best.joint, self.room) if self.room else best.plan
        captured = self.searches.captures[best.joint]
        return Peaks(roomy.peak, best.plan.peak, peak_if_dropped(captured, best.plan))

    def at_no_price(self) -> Best | None:
        """Searches for copies that lower the peak most and take at most SHARE of the step's time.

        Recomputes no tensor of fewer than `smallest` bytes. Returns None if no copies are found, or
        if they lower the peak by fewer than `smallest` bytes.
        """
        _, graph = self.searches.graphs(self.room)
        seconds = SHARE * graph.step.seconds
        forms = {i: form for i, form in graph.step.forms.items() if form.cost <= seconds}
        step = replace(graph.step, forms=forms, smallest=self.smallest)
        copies = lowest_peak(step, seconds)
        if not copies.placed:
            return None
        found = self.planned(graph, copies)
        lower = self.peaks.beside_others - self.peaks_of(found).beside_others
        return found if lower >= self.smallest else None

    def as_low_as(self, theirs: Partitioned, best: Best | None) -> Best | None:
        """Searches for a choice of copies none of whose three peaks is above aot_eager's.

        Tries in turn: `best`; the cheapest choice that a quick search finds; the ops that aot_eager
        recomputes, first in planned order, then in program order. Returns the first choice of which
        no peak is above aot_eager's. If there is none, returns the choice with the lowest peak
        beside other graphs; at a draw, the one with the lower peak alone. Returns None, for no
        copies, if no choice is lower than that.

        Args:
            theirs: the graph as aot_eager runs it.
            best: the choice found so far; None for no copies, which may suffice too.
        """
        limits = theirs.peaks(self.room)
        if self.peaks_of(best).are_within(limits):
            return best
        tried = [None, *([] if best is None else [best])]
        for found in self._below(limits, theirs):
            if self.peaks_of(found).are_within(limits):
                return found
            tried.append(found)
        return min(tried, key=self.peaks_of)

    def _below(self, limits: Peaks, theirs: Partitioned) -> Iterator[Best]:
        """Yields up to three choices: the cheapest found within a limit, then aot_eager's copies.

        limits: aot_eager's peaks. The limit is the one beside other graphs.
        theirs: the graph as aot_eager runs it. Its copies are tried in planned and program order.
        """
        program, by_plan = self.searches.graphs(self.room)
        roomy = partial(self.searches.planned, room=self.room)
        if (found := search(by_plan, limits.beside_others, roomy, QUICK)) is not None:
            yield replace(found, plan=self.searches.planned(found.joint))
        for graph in (by_plan, program):
            names = [None if n is None else n.name for n in graph.captured.nodes[: graph.boundary]]
            again = frozenset(i for i, name in enumerate(names) if name in theirs.again)
            choice = placed(graph.step, again, graph.step.boundary)
            yield self.planned(graph, Copies.of(graph.step, choice))

    def planned(self, graph: BudgetGraph, copies: Copies) -> Best:
        """Adds copies to the joint graph of `graph`. Plans the result as if no other graph ran."""
        edited = graph.edited(copies)
        return Best(edited, self.searches.planned(edited), copies)


def priced(captured: Captured, costs: UsualCosts) -> Captured:
    """Returns `captured` with the costs of a usual machine, for the ops that have an estimate."""
    graphs = [captured.forward, *([] if captured.backward is None else [captured.backward])]
    known = costs.of(graphs, captured.numbers)
    ops = tuple(
        op if node not in known else msgspec.structs.replace(op, cost=known[node].seconds)
        for op, node in zip(captured.problem.ops, captured.nodes, strict=True)
    )
    return replace(captured, problem=msgspec.structs.replace(captured.problem, ops=ops))


def peak_if_dropped(captured: Captured, made: Plan) -> Bytes:
    """Returns the peak of a plan, in bytes, if the user drops the forward's outputs early.

    They are dropped before the backward runs (`with_outputs_dropped`). The plan itself counts them
    until the end of the step, because a user may keep them.
    """
    problem = with_outputs_dropped(captured).problem
    return committed_peak(problem, made.order, made.reuse, made.offsets, made.blocks)
