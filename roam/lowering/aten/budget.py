"""Keeps a graph within a byte budget: chooses what runs again, adds it, plans, and looks again.

    joint graph ── partition, capture, plan ── within the limit? done
         ^                                        │ no
         └── copies added to the joint graph ── choose (solvers/budget) on the Problem
             (passes/recompute_copies)

The choice counts live bytes in program order. The plan's order is mostly better and its layout may
be worse, so the limit of the choice is moved by the difference, and the choice made again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx
from torch._dynamo.exc import ShortenTraceback

from roam.capture.fake_copies import without_fakes
from roam.capture.free_memory import free_bytes
from roam.capture.fx_problem import Captured
from roam.capture.op_costs import OpCosts
from roam.core.budget import Budget
from roam.core.errors import BudgetError, UnplannableError
from roam.core.machine import Bytes, Seconds
from roam.core.plan import Plan
from roam.core.problem import Kind, Problem
from roam.core.sizes import show_size
from roam.inspect.recomputed import Recomputed
from roam.lowering.aten.budget_graph import BudgetGraph, by_module, reordered
from roam.passes.geometry import renew_views
from roam.passes.pipeline import copied
from roam.planner import (
    Choice,
    Copies,
    Settings,
    choose,
    extra_time_bound,
    least_needed,
    plan,
    smallest_peak,
)

ROUNDS = 5  # choices that are planned
PROVING: Seconds = 2.0  # of work for a bound
CLOSE = 0.001  # share of the step's seconds: a bound so close to what was found is enough
SLACK = 0.02  # share of the limit that a plan may leave unused before another choice is tried

Trial = Callable[[fx.GraphModule], Captured]
Planner = Callable[[fx.GraphModule], Plan]  # of a joint graph, which it does not change


class CompileBudgetError(ShortenTraceback, BudgetError):
    """A BudgetError that dynamo passes to the user unwrapped."""

    def __init__(self, message: str, **figures: Any) -> None:
        ShortenTraceback.__init__(self, message, first_useful_frame=None)
        BudgetError.__init__(self, message, **figures)


@dataclass(frozen=True)
class Fitted:
    """A joint graph whose plan is within a budget.

    Attributes:
        joint: the graph with the copies.
        limit: the most bytes that the plan may take.
        plan: the plan of it.
        recomputed: what the copies cost and save.
    """

    joint: fx.GraphModule
    limit: Bytes
    plan: Plan
    recomputed: Recomputed


def fit(
    joint: fx.GraphModule,
    name: str,
    budget: Budget,
    trial: Trial,
    settings: Settings,
    costs: OpCosts | None,
) -> Fitted:
    """Returns the graph with the copies that keep it within the budget.

    Args:
        joint: a graph of a forward and its backward.
        name: the name of the graph, for errors.
        budget: the user's.
        trial: partitions a graph and reads the Problem off its parts. May change the graph.
        settings: how to plan.
        costs: estimates ops that the graph does not have; None if nobody asked what ops cost.

    Raises:
        BudgetError: no copies were found with which the plan is within the budget, or nothing is
            known of the graph's memory.
    """
    try:
        with without_fakes():
            return _fit(joint, name, budget, trial, settings, costs)
    except UnplannableError as error:
        raise CompileBudgetError(
            f"{name} cannot be planned, so it may not keep its budget: {error}"
        ) from error


def _fit(
    joint: fx.GraphModule,
    name: str,
    budget: Budget,
    trial: Trial,
    settings: Settings,
    costs: OpCosts | None,
) -> Fitted:
    renew_views(joint.graph)
    captured = trial(copied(joint))
    problem = captured.problem
    first = plan(problem, settings)
    try:
        limit = budget.transient(problem.persistent, first.peak, free_bytes(captured.device))
    except BudgetError as error:
        raise CompileBudgetError(str(error)) from None
    seconds = sum(op.cost for op in problem.ops)
    if first.peak <= limit:
        return Fitted(joint, limit, first, Recomputed(budget.text, limit, first.peak, seconds))

    plans = {problem.fingerprint: first}

    def planned(edited: fx.GraphModule) -> Plan:
        problem = trial(copied(edited)).problem
        if problem.fingerprint not in plans:
            plans[problem.fingerprint] = plan(problem, settings)
        return plans[problem.fingerprint]

    # program order may need more by itself than the order that was planned
    graphs = (
        BudgetGraph(joint, captured, costs, first.peak),
        BudgetGraph(joint, reordered(captured, first.order), costs, first.peak),
    )
    best = _cheapest(graphs, problem, limit, planned)
    if best is None:
        raise _refusal(graphs, first, budget, limit, name, planned)
    bound = 0.0
    if seconds:  # else nobody knows what ops cost
        enough = best.copies.cost - CLOSE * seconds
        bound = extra_time_bound(graphs[0].step, first, limit, PROVING, enough)
    modules = by_module(best.copies)
    told = Recomputed(budget.text, limit, first.peak, seconds, bound, modules)
    return Fitted(best.joint, limit, best.plan, told)


def check_budget(
    budget: Budget, fitted: Fitted | None, name: str, captured: Captured, found: Plan
) -> None:
    """Raises BudgetError if a plan takes more than the budget.

    Args:
        budget: the user's.
        fitted: what was made of the graph when it was compiled; None if it has no backward, so
            that nothing could run again.
        name: the name of the graph.
        captured: what is planned.
        found: the plan.
    """
    if fitted is None:
        free = free_bytes(captured.device)
        limit = budget.transient(captured.problem.persistent, found.peak, free)
    else:
        limit = fitted.limit
    if found.peak > limit:
        raise BudgetError(
            f"{name} takes {show_size(found.peak)}, and its budget of {budget.text} leaves "
            f"{show_size(limit)}: it was compiled for other sizes or other folds of gradients "
            "(mark sizes as static), or has no backward"
        )


Graphs = tuple[BudgetGraph, BudgetGraph]  # in program order, and in the planned order


@dataclass(frozen=True)
class _Best:
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


_FOUND: dict[str, list[_Found]] = {}  # by fingerprint of the Problem without copies


def _cheapest(graphs: Graphs, problem: Problem, limit: Bytes, planned: Planner) -> _Best | None:
    """Returns the cheapest choice that is found, or was found before in this process."""
    known = _FOUND.setdefault(problem.fingerprint, [])
    best: _Best | None = None
    for n, graph in enumerate(graphs):
        if best is None and (best := _search(graph, limit, planned)) is not None:
            known.append(_Found(n, best.plan.peak, best.copies.choice))
    for found in known:
        if found.peak <= limit:  # a plan for a budget is one for each larger budget
            graph = graphs[found.graph]
            copies = Copies.of(graph.step, found.choice)
            if best is None or copies.cost < best.copies.cost:
                edited = graph.edited(copies)
                again = planned(edited)
                best = _Best(edited, again, copies) if again.peak <= limit else best
    return best


def _search(graph: BudgetGraph, limit: Bytes, planned: Planner) -> _Best | None:
    """Returns the cheapest choice whose plan is within the limit, None if none is found."""
    best: _Best | None = None
    target, relaxed = limit, False
    for _ in range(ROUNDS):
        chosen = choose(graph.step, target)
        edited = graph.edited(chosen.copies)
        found = planned(edited)
        fits = found.peak <= limit
        if fits and (best is None or chosen.copies.cost < best.copies.cost):
            best = _Best(edited, found, chosen.copies)
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


def _refusal(
    graphs: Graphs, first: Plan, budget: Budget, limit: Bytes, name: str, planned: Planner
) -> BudgetError:
    """Returns the error for a budget that cannot be kept, with the smallest peak that is found."""
    given, by_plan = graphs
    problem = given.captured.problem
    low = smallest_peak(by_plan.step)
    peak = min(first.peak, planned(by_plan.edited(low.copies)).peak)
    smallest, persistent = peak + problem.persistent, problem.persistent
    least = least_needed(given.step, first, PROVING) + persistent
    text = (
        f"{name} does not fit into a budget of {budget.text} ({show_size(limit)} transient): the "
        f"smallest total found is {show_size(smallest)}, {show_size(persistent)} of it persistent, "
        f"and no recomputation goes below {show_size(least)}. {_ways_out(problem)}"
    )
    return CompileBudgetError(text, budget=limit + persistent, found=smallest, least=least)


def _ways_out(problem: Problem) -> str:
    gradients = sum(b.transient for b in problem.buffers if b.kind is Kind.GRADIENT)
    outputs = sum(b.transient for b in problem.buffers if b.kind is Kind.OUTPUT)
    ways = []
    if gradients > sum(b.transient for b in problem.buffers if b.kept) // 20:
        ways.append(
            f"folding the gradients with an optimizer of roam.optim ({show_size(gradients)} of "
            "them are kept)"
        )
    if outputs:
        ways.append(f"returning less than {show_size(outputs)} beside the loss")
    ways += ["the option split=True", "a smaller micro-batch"]
    return f"What would lower it: {'; '.join(ways)}."
