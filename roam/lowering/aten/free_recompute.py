"""Chooses the ops to recompute without a budget: cheap ones, or those that aot_eager recomputes.

    joint graph ── partition, capture, plan ── may copies lower the peak?
                                                  │ yes
              copies of large tensors, in a small SHARE of the step's time ── plan
                                                  │ peak above aot_eager's?
                the cheapest copies within aot_eager's peak, or those of aot_eager ── plan

PyTorch's `aot_eager` runs the same operators in program order, but its partitioner recomputes what
Inductor would fuse. So aot_eager may take less than a plan that saves everything; roam should not
take more than aot_eager. Costs are estimates for one usual machine (`UsualCosts`), so that the
choice is the same on every machine.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

import msgspec
from torch import fx

from roam.capture.fake_copies import without_fakes
from roam.capture.fx_problem import Captured
from roam.capture.graph_names import DynamoGraph
from roam.capture.usual_costs import UsualCosts
from roam.core.errors import UnplannableError
from roam.core.machine import Bytes, Seconds
from roam.core.plan import Plan
from roam.core.sizes import show_size
from roam.inspect.nesting import left_by_forward
from roam.inspect.recomputed import Recomputed, runs_again
from roam.lowering.aten.aot_eager import AotEager, Partitioned, at_least
from roam.lowering.aten.budget_graph import BudgetGraph, by_module, with_room
from roam.lowering.aten.budget_search import Best, Searches, Trial, search
from roam.passes.geometry import renew_views
from roam.passes.pipeline import copied
from roam.planner import (
    QUICK,
    Copies,
    Settings,
    lowest_peak,
    peak_without,
    placed,
    plan,
    saved_buffers,
)

log = logging.getLogger("roam")

SHARE = 0.005  # part of the step's time that all copies together may take: too short to measure
DECIDING: Seconds = 1.0  # limit on the planning work for each candidate, while they are compared


@dataclass
class FreeRecompute:
    """Chooses the ops that one graph recomputes without a budget, when the graph is compiled.

    Attributes:
        graph: what dynamo tells of the graph: its name, and whether other graphs follow.
        settings: how to plan.
        smallest: tensors of fewer bytes are recomputed only if the peak would else be above
            aot_eager's.
        plan: the plan of the chosen graph; None before the choice, if choosing failed, and if
            planning with all the user's seconds might find a better plan.
        recomputed: what the chosen copies cost and save; None if there are no copies.
    """

    graph: DynamoGraph
    settings: Settings
    smallest: Bytes
    plan: Plan | None = None
    recomputed: Recomputed | None = None

    def cheapened(
        self, joint: fx.GraphModule, trial: Trial, other: AotEager | None
    ) -> tuple[fx.GraphModule, str | None]:
        """Returns the graph with the chosen copies, and the fingerprint of its Problem.

        Sets `plan` and `recomputed`. Returns the graph unchanged, and None as the fingerprint, if
        the graph cannot be planned, or if choosing fails, which is logged as a warning.

        Args:
            joint: a graph of a forward and its backward.
            trial: partitions a graph and reads the Problem off the parts. May change the graph.
            other: partitions as aot_eager would; None if aot_eager cannot run the graph.
        """
        quick = replace(self.settings, seconds=min(self.settings.seconds, DECIDING))
        try:
            with without_fakes():
                chosen = _choose(
                    joint, trial, other, quick, self.smallest, alone=not self.graph.others_follow
                )
        except UnplannableError as error:  # the first run warns of it
            log.debug("%s saves all that its backward reads: %s", self.graph.name, error)
            return joint, None
        except Exception:  # the user did not ask for copies: go on without
            text = "%s saves all that its backward reads: choosing what to recompute failed"
            log.warning(text, self.graph.name, exc_info=True)
            return joint, None
        if quick == self.settings or chosen.plan.peak == chosen.plan.lower_bound:
            self.plan = chosen.plan
        self.recomputed = chosen.recomputed
        return chosen.joint, chosen.plan.fingerprint


@dataclass(frozen=True)
class _Chosen:
    """A joint graph, perhaps with copies, and its plan.

    `recomputed` is what the copies cost and save; None if there are no copies.
    """

    joint: fx.GraphModule
    plan: Plan
    recomputed: Recomputed | None = None


def _choose(
    joint: fx.GraphModule,
    trial: Trial,
    other: AotEager | None,
    settings: Settings,
    smallest: Bytes,
    *,
    alone: bool,
) -> _Chosen:
    """Returns the graph with the chosen copies, its plan, and what the copies cost and save.

    If no copies are worth it, the graph returned is `joint`.

    Args:
        joint: a graph of a forward and its backward.
        trial: partitions a graph and reads the Problem off the parts. May change the graph.
        other: partitions as aot_eager would; None if aot_eager cannot run the graph.
        settings: how to plan, while candidates are compared.
        smallest: tensors of fewer bytes are recomputed only if the peak would else be above
            aot_eager's.
        alone: whether no other graph runs between the forward and the backward of this one. If one
            does, the bytes that the forward leaves for the backward count most, because they are
            held while the other graph runs.
    """
    renew_views(joint.graph)
    captured = trial(copied(joint))
    problem = captured.problem
    first = plan(problem, settings)
    none = _Chosen(joint, first)
    saved = saved_buffers(problem, BudgetGraph(joint, captured, None, first.peak).boundary)
    least = peak_without(problem, first.order, first.reuse, saved)
    if least == first.peak and (alone or not saved):
        return none
    room = 0 if alone else first.peak
    search = _Search(joint, captured, first, trial, settings, smallest, room)
    best = search.at_no_price() if first.peak - least >= smallest or not alone else None
    if other is not None:
        roomy = with_room(captured, room)
        peak = search.peak if best is None else search.peak_of(best)
        if peak > max(least, at_least(joint, roomy)):
            best = search.as_low_as(other.partitioned(), best)
    if best is None:
        return none
    copies, step = best.copies, best.copies.step
    log.info(
        "%s: %s (%.2f %% of the step, estimated), so its peak is %s in place of %s",
        problem.name,
        runs_again(len(copies.placed)),
        100 * copies.cost / step.seconds if step.seconds else 0.0,
        show_size(best.plan.peak),
        show_size(first.peak),
    )
    told = Recomputed(
        "",
        0,
        first.peak,
        step.seconds,
        modules=by_module(copies),
        left=left_by_forward(problem, first),
    )
    return _Chosen(best.joint, best.plan, told)


@dataclass
class _Search:
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
    def peak(self) -> Bytes:
        """The peak without copies, with the bytes that other graphs need (`room`) counted."""
        roomy = with_room(self.captured, self.room).problem
        return plan(roomy, self.settings).peak if self.room else self.first.peak

    def peak_of(self, best: Best) -> Bytes:
        """Returns the peak of a choice, with the bytes that other graphs need (`room`) counted."""
        return self.searches.planned(best.joint, self.room).peak if self.room else best.plan.peak

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
        return found if self.peak - self.peak_of(found) >= self.smallest else None

    def as_low_as(self, theirs: Partitioned, best: Best | None) -> Best | None:
        """Searches for a choice whose peak is at most aot_eager's, beside other graphs and alone.

        Tries in turn: `best`; the cheapest choice that a quick search finds; the ops that aot_eager
        recomputes, first in planned order, then in program order. Returns the first choice with at
        most aot_eager's peak. If there is none, returns the choice with the lowest peak, or None if
        that is no lower than the peak without copies.

        Args:
            theirs: the graph as aot_eager runs it.
            best: the choice found so far; None for no copies, which may suffice too.
        """
        peak = self.peak if best is None else self.peak_of(best)
        own = self.searches.first.peak if best is None else best.plan.peak
        limit = theirs.peak(self.room)

        def is_low(found: Best) -> bool:
            return self.peak_of(found) <= limit and found.plan.peak <= theirs.peak(0)

        if peak <= limit and own <= theirs.peak(0):
            return best
        tried = [] if best is None else [best]
        for found in self._below(limit, theirs):
            if is_low(found):
                return found
            tried.append(found)
        lowest = min(tried, key=self.peak_of)
        return lowest if self.peak_of(lowest) < self.peak else None

    def _below(self, limit: Bytes, theirs: Partitioned) -> Iterator[Best]:
        """Yields up to three choices: the cheapest found within `limit`, then aot_eager's copies.

        limit: aot_eager's peak, with the bytes that other graphs need (`room`) counted.
        theirs: the graph as aot_eager runs it. Its copies are tried in planned and program order.
        """
        program, by_plan = self.searches.graphs(self.room)
        roomy = partial(self.searches.planned, room=self.room)
        if (found := search(by_plan, limit, roomy, QUICK)) is not None:
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
