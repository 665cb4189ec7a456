"""Keeps a graph within a byte budget: chooses what runs again, adds it, plans, and looks again.

    joint graph ── partition, capture, plan ── within the limit? done
         ^                                        │ no
         └── copies added to the joint graph ── choose (solvers/budget) on the Problem
             (passes/recompute_copies)

The graphs of a model are compiled one by one and share the budget:

    a share    of what this graph and those before it would take without a budget,
               less what those before it hold
    a size     less what those before it hold, and less their parameters and states
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import fx

from roam.capture.free_memory import free_bytes
from roam.capture.op_costs import OpCosts
from roam.core.budget import Beside, Budget, Of
from roam.core.errors import BudgetError
from roam.core.machine import Bytes, Seconds
from roam.core.plan import Plan
from roam.core.problem import Problem
from roam.core.sizes import show_size
from roam.inspect.moved import Moved
from roam.inspect.recomputed import Recomputed
from roam.lowering.aten.budget_graph import by_module
from roam.lowering.aten.budget_search import OTHERS, Best, Searches, Trial
from roam.lowering.aten.footprint import Unlimited
from roam.lowering.aten.offload import Mover
from roam.lowering.budget_error import CompileBudgetError, ways_out
from roam.passes.geometry import renew_views
from roam.passes.pipeline import copied
from roam.planner import (
    Settings,
    extra_time_bound,
    least_needed,
    plan,
)

PROVING: Seconds = 2.0  # of work for a bound
CLOSE = 0.001  # share of the step's seconds: a bound so close to what was found is enough

AsideOf = Callable[[Problem], Beside]  # what other graphs take beside the one of a Problem


@dataclass(frozen=True)
class Fitted:
    """A joint graph whose plan is within a budget.

    Attributes:
        joint: the graph with the copies.
        limit: the most bytes that the plan may take. If other graphs follow, a plan may be above
            its limit: a share is of the whole step, of which more is to come.
        beside: bytes that other graphs held beside it.
        plan: the plan of it.
        recomputed: what the copies cost and save.
        unlimited: what the graph takes without copies.
    """

    joint: fx.GraphModule
    limit: Bytes
    beside: Bytes
    plan: Plan
    recomputed: Recomputed
    unlimited: Unlimited


def fit(
    joint: fx.GraphModule,
    name: str,
    budget: Budget,
    trial: Trial,
    settings: Settings,
    costs: OpCosts | None,
    beside: AsideOf,
    others_follow: bool = False,
    move: Mover | None = None,
) -> Fitted:
    """Returns the graph with the transfers and copies that keep it within the budget.

    Args:
        joint: a graph of a forward and its backward.
        name: the name of the graph, for errors.
        budget: the user's.
        trial: partitions a graph and reads the Problem off its parts. May change the graph.
        settings: how to plan.
        costs: estimates ops that the graph does not have; None if nobody asked what ops cost.
        beside: tells what other graphs of the step take.
        others_follow: whether other graphs run before the backward of this one. Nothing is known
            of them yet, so it saves little if it can (`Searches.beside_others`). A share is of
            what the whole step takes: a graph that cannot keep it by itself takes as little as it
            can, and its backward, before it runs, looks whether the step keeps it.
        move: moves tensors to a tier, given the graph, its Problem, the plan of that and the limit;
            None if nothing may move.

    Raises:
        BudgetError: no copies were found with which the plan is within the budget, or nothing is
            known of the graph's memory.
    """
    renew_views(joint.graph)
    captured = trial(copied(joint))
    problem = captured.problem
    first = plan(problem, settings)
    others, free = beside(problem), free_bytes(captured.device)
    try:
        limit = budget.transient(problem.persistent, first.peak, free, others)
    except BudgetError as error:
        raise CompileBudgetError.of(error) from None
    seconds = sum(op.cost for op in problem.ops)
    unlimited = Unlimited.of(problem, first)
    told = Recomputed(
        budget.text, limit, first.peak, seconds, left=unlimited.left, beside=others.now
    )
    saved = limit // OTHERS if others_follow and budget.of is not Of.SHARE else limit
    if first.peak <= limit and unlimited.left <= saved:
        return Fitted(joint, limit, others.now, first, told, unlimited)
    moved: Moved | None = None
    if move is not None and (out := move(joint, captured, first, max(0, limit))) is not None:
        joint, captured, first, moved = out.joint, out.captured, out.plan, out.told
        if first.peak <= limit and Unlimited.of(captured.problem, first).left <= saved:
            return Fitted(joint, limit, others.now, first, told, unlimited)
    search = Searches(joint, captured, first, trial, settings, costs, {problem.fingerprint: first})
    best: Best | None = None
    if others_follow:
        best = search.beside_others(budget, limit, unlimited)
    elif limit > 0:
        best = search.cheapest(limit)
    later = others_follow and budget.of is Of.SHARE
    if best is None or (best.plan.peak > limit and not later):
        raise _refusal(search, budget, limit, name, others, moved)
    bound = 0.0
    if seconds:  # else nobody knows what ops cost
        enough = best.copies.cost - CLOSE * seconds
        step = search.graphs(0)[0].step
        bound = extra_time_bound(step, first, limit, PROVING, enough)
    modules = by_module(best.copies)
    told = replace(told, bound=bound, modules=modules)
    return Fitted(best.joint, limit, others.now, best.plan, told, unlimited)


def _refusal(
    search: Searches,
    budget: Budget,
    limit: Bytes,
    name: str,
    others: Beside,
    moved: Moved | None,
) -> BudgetError:
    """Returns the error for a budget that cannot be kept, with the smallest peak that is found."""
    problem, first = search.captured.problem, search.first
    peak = min(first.peak, search.smallest().plan.peak)
    persistent = problem.persistent + others.now + others.persistent
    smallest = peak + persistent
    least = least_needed(search.graphs(0)[0].step, first, PROVING) + persistent
    there = f"{show_size(problem.persistent)} of it persistent"
    if more := others.now + others.persistent:
        there += f" and {show_size(more)} of graphs that ran before it, compiled by themselves"
    beside = "" if moved is None else f" with {show_size(moved.written)} moved to {moved.tier}"
    text = (
        f"{name} does not fit into a budget of {budget.text} ({show_size(max(0, limit))} "
        f"transient): the smallest total found is {show_size(smallest)}, {there}, and{beside} no "
        f"recomputation goes below {show_size(least)}. {ways_out(problem, others)}"
    )
    return CompileBudgetError(text, budget=limit + persistent, found=smallest, least=least)
