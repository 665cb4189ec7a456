"""Chooses what runs again although no budget is given: what hardly costs time, or what others do.

    joint graph ── partition, capture, plan ── may copies lower the peak?
                                                  │ yes
                  copies within SHARE of the step's time, of large tensors ── plan
                                                  │ peak above aot_eager's?
                        the cheapest copies within aot_eager's peak, or aot_eager's own ── plan

PyTorch's `aot_eager` runs the same operators in program order, but its partitioner recomputes what
it would fuse. So a plan that saves everything may take more than it does, and must not. What ops
cost is that on a usual machine (`UsualCosts`): the choice is the same everywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from torch import fx

from roam.capture.fake_copies import without_fakes
from roam.capture.fx_problem import Captured
from roam.capture.usual_costs import UsualCosts
from roam.core.errors import UnplannableError
from roam.core.folds import Folds
from roam.core.machine import Bytes
from roam.core.plan import Plan
from roam.core.problem import Problem
from roam.lowering.aten.aot_eager import AotEager, Partitioned, at_least
from roam.lowering.aten.budget_graph import BudgetGraph
from roam.lowering.aten.budget_search import Best, Searches, Trial, search
from roam.lowering.protocol import Driver
from roam.passes.geometry import renew_views
from roam.passes.pipeline import copied
from roam.planner import (
    QUICK,
    Copies,
    Settings,
    Step,
    lowest_peak,
    peak_without,
    placed,
    plan,
    saved_buffers,
)

log = logging.getLogger("roam")

SHARE = 0.005  # of the step's time: nobody can measure it


@dataclass(frozen=True)
class Cheapened:
    """A joint graph, perhaps with copies, and the plan of it."""

    joint: fx.GraphModule
    plan: Plan


@dataclass
class FreeRecompute:
    """Chooses what one graph runs again without a budget, when it is compiled.

    Attributes:
        name: of the graph.
        driver: tells which gradients a run will fold.
        example_inputs: the inputs that the graph is compiled with, until the choice is made.
        settings: how to plan.
        smallest: bytes of a tensor that is worth to run an op again, if aot_eager does not.
        plan: of the graph with what was chosen.
    """

    name: str
    driver: Driver
    example_inputs: Sequence[Any]
    settings: Settings
    smallest: Bytes
    plan: Plan | None = None

    def expected_folds(self) -> Folds:
        """Returns the folds of the first run of the graph that is compiled."""
        return self.driver.expected_folds(self.example_inputs)

    def cheapened(
        self,
        joint: fx.GraphModule,
        trial: Trial,
        other: AotEager | None,
    ) -> fx.GraphModule:
        """Returns the graph with the copies that are chosen; as it came if it cannot be planned.

        For the arguments see `recompute_freely`.
        """
        try:
            with without_fakes():
                how = self.settings, self.smallest, other
                found = recompute_freely(joint, trial, *how)
        except UnplannableError as error:  # its first run will say so
            log.debug("%s saves all that its backward reads: %s", self.name, error)
            return joint
        finally:
            self.example_inputs = ()  # parameters: a deleted model must not live on here
        self.plan = found.plan
        return found.joint

    def plan_of(self, problem: Problem) -> Plan | None:
        """Returns the plan that was made for the choice, if it is of the same Problem."""
        known = self.plan is not None and self.plan.fingerprint == problem.fingerprint
        return self.plan if known else None


def recompute_freely(
    joint: fx.GraphModule,
    trial: Trial,
    settings: Settings,
    smallest: Bytes,
    other: AotEager | None,
) -> Cheapened:
    """Returns the graph with the copies that lower its peak at no price, or to aot_eager's.

    Args:
        joint: a graph of a forward and its backward.
        trial: partitions a graph and reads the Problem off its parts. May change the graph.
        settings: how to plan.
        smallest: bytes of a tensor that is worth to run an op again, if aot_eager does not.
        other: what aot_eager would do; None if it cannot run the graph.

    Raises:
        UnplannableError: nothing is known of the graph's memory.
    """
    renew_views(joint.graph)
    captured = trial(copied(joint))
    problem = captured.problem
    first = plan(problem, settings)
    none = Cheapened(joint, first)
    boundary = BudgetGraph(joint, captured, None, first.peak).boundary
    saved = saved_buffers(problem, boundary)
    least = peak_without(problem, first.order, first.reuse, saved)
    if least >= first.peak or boundary == len(problem.ops):
        return none
    searches: Searches | None = None
    best: Best | None = None

    def start() -> Searches:
        plans = {problem.fingerprint: first}
        costs = UsualCosts()
        return Searches(joint, _priced(captured, costs), first, trial, settings, costs, plans)

    if first.peak - least >= smallest:
        searches = start()
        best = _at_no_price(searches, smallest)
    peak = first.peak if best is None else best.plan.peak
    if other is not None and peak > max(least, at_least(joint, captured)):
        theirs = other.partitioned()
        found = _as_low(searches or start(), theirs) if peak > theirs.peak else None
        best = min((b for b in (best, found) if b is not None), key=lambda b: b.plan.peak)
    return (
        none if best is None or best.plan.peak >= first.peak else Cheapened(best.joint, best.plan)
    )


def _priced(captured: Captured, costs: UsualCosts) -> Captured:
    """Returns the same with what its ops cost."""
    graphs = [captured.forward, *([] if captured.backward is None else [captured.backward])]
    known = costs.of(graphs, captured.numbers)
    ops = tuple(
        op if node not in known else msgspec.structs.replace(op, cost=known[node].seconds)
        for op, node in zip(captured.problem.ops, captured.nodes, strict=True)
    )
    return replace(captured, problem=msgspec.structs.replace(captured.problem, ops=ops))


def _at_no_price(searches: Searches, smallest: Bytes) -> Best | None:
    """Returns the choice with the lowest peak that takes SHARE of the step, None if none helps."""
    _, graph = searches.graphs(0)
    seconds = SHARE * graph.step.seconds
    forms = {i: form for i, form in graph.step.forms.items() if form.cost <= seconds}
    step = replace(graph.step, forms=forms, smallest=smallest)
    copies = lowest_peak(step, seconds)
    return _planned(searches, graph, copies) if copies.placed else None


def _as_low(searches: Searches, other: Partitioned) -> Best:
    """Returns the cheapest choice within aot_eager's peak, or else the lowest that is found."""
    tried: list[Best] = []

    def planned(graph: BudgetGraph, copies: Copies) -> Plan:
        tried.append(_planned(searches, graph, copies))
        return tried[-1].plan

    program, by_plan = searches.graphs(0)
    found = search(by_plan, other.peak, searches.planned, QUICK)
    if found is not None:
        return found
    for graph in (by_plan, program):
        again = {
            i
            for i, node in enumerate(graph.captured.nodes)
            if node is not None and i < graph.boundary and node.name in other.again
        }
        step: Step = graph.step
        choice = placed(step, frozenset(again), step.boundary)
        if planned(graph, Copies.of(step, choice)).peak <= other.peak:
            break
    return min(tried, key=lambda b: b.plan.peak)


def _planned(searches: Searches, graph: BudgetGraph, copies: Copies) -> Best:
    edited = graph.edited(copies)
    return Best(edited, searches.planned(edited), copies)
