"""Keeps a graph within a byte budget: adds copies of ops and transfers to it, and plans it again.

    joint graph ── partition, capture, plan ── within the limit? done
         ^                                        │ no
         └── copies added to the joint graph ── choose (solvers/budget) on the Problem
             (passes/recompute_copies)

If the user gave a tier, `mix` chooses transfers too. The graphs of a model are compiled one by one
and share the budget. The transient bytes left to a graph are

    for "60%"      that share of the sum of this graph's peak and the bytes that the graphs that ran
                   before it would hold, both without a budget; less what those graphs hold
    for "12GiB"    that size, less all parameters, states and inputs, and less what the graphs that
                   ran before it hold
    for "auto"     the bytes that are free on the device when the graph is compiled (if several
                   ranks train, on the one with the fewest), less a margin
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from torch import fx

from roam.capture.free_memory import free_bytes
from roam.capture.usual_costs import Costs
from roam.core.budget import Beside, Budget, Following, Of
from roam.core.errors import BudgetError
from roam.core.machine import Bytes
from roam.core.plan import Plan
from roam.core.problem import Problem
from roam.core.sizes import show_size
from roam.inspect.recomputed import Recomputed
from roam.lowering.aten.budget_graph import by_module
from roam.lowering.aten.budget_search import OTHERS, Searches, Trial
from roam.lowering.aten.footprint import Unlimited
from roam.lowering.aten.mix import Mix, Mixes
from roam.lowering.aten.offload import MovedOut, Mover
from roam.lowering.budget_error import CompileBudgetError, ways_out
from roam.passes.geometry import renew_views
from roam.passes.pipeline import copied
from roam.planner import Settings, plan

AsideOf = Callable[[Problem], Beside]  # Problem of a graph -> bytes that other graphs take


@dataclass(frozen=True)
class Fitted:
    """A joint graph whose plan is within a budget (but see `limit`).

    Attributes:
        joint: the graph with the copies and transfers; unchanged if it needs none.
        limit: the limit on the plan's peak, in transient bytes. The plan may exceed the limit if
            the budget is a share ("60%") and other graphs follow. Then the bytes of the whole step,
            of which the budget is a share, are not known yet, and the backward checks again.
        beside: transient bytes that other graphs held when this graph was compiled.
        plan: the plan of `joint`.
        recomputed: what the copies cost and save, for reports.
        unlimited: the bytes that the graph takes without copies and transfers.
        moved: the graph's transfers; None if nothing moves.
    """

    joint: fx.GraphModule
    limit: Bytes
    beside: Bytes
    plan: Plan
    recomputed: Recomputed
    unlimited: Unlimited
    moved: MovedOut | None = None


def fit(
    joint: fx.GraphModule,
    name: str,
    budget: Budget,
    trial: Trial,
    settings: Settings,
    costs: Costs | None,
    beside: AsideOf,
    others_follow: bool = False,
    mover: Mover | None = None,
    following: Following | None = None,
) -> Fitted:
    """Returns the graph with the transfers and copies that keep it within the budget.

    Args:
        joint: a graph of a forward and its backward.
        name: the name of the graph, for errors.
        budget: the user's budget.
        trial: partitions a graph and reads the Problem off the parts. May change the graph.
        settings: how to plan.
        costs: estimates the seconds of ops that the graph does not have, such as those that make a
            dropout's result anew from its mask; None if no cost is wanted.
        beside: takes the Problem of the graph; returns the bytes that other graphs take.
        others_follow: whether other graphs may run between the forward and the backward of this
            one. If nothing is known of them, this graph saves few bytes for its backward
            (`Searches.beside_others`). If the budget is a share and no plan found keeps it, no
            error is raised here: the graph takes few bytes, and its backward checks the budget.
        mover: moves tensors to a tier; None if nothing may move.
        following: what those other graphs take; None if nothing is known of them.

    Raises:
        BudgetError: no copies and transfers were found with which the plan is within the budget,
            or the budget is less than the persistent bytes.
        UnplannableError: the graph cannot be planned; for example, a size depends on data. Or no
            plan was found that leaves to `following` what they take.
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
    saved = limit // OTHERS if others_follow and budget.of is not Of.SHARE else limit
    seconds = sum(op.cost for op in problem.ops)
    unlimited = Unlimited.of(problem, first)
    told = Recomputed(
        budget.text, limit, first.peak, seconds, left=unlimited.left, beside=others.now
    )
    if following is None and first.peak <= limit and unlimited.left <= saved:
        return Fitted(joint, limit, others.now, first, told, unlimited)

    plans = {problem.fingerprint: first}
    plan_of = partial(plan, settings=settings)
    left = 0 if following is None else following.left
    search = Searches(joint, captured, first, trial, plan_of, costs, plans, left)
    mixes = Mixes(search, mover)
    mix: Mix | None = None
    if following is not None:
        mix = mixes.beside_known(limit, following)
    elif others_follow:
        mix = mixes.beside_others(budget, limit, saved, unlimited)
    elif limit > 0:
        mix = mixes.cheapest(limit)
    later = others_follow and budget.of is Of.SHARE
    if mix is None or (mix.plan.peak > limit and not later):
        raise _refusal(mixes, budget, limit, name, others)
    # without costs of ops, no bound on the extra time is proven, except that it is at least 0
    bound = mixes.bound(limit, mix.extra) if seconds else 0.0
    modules = () if mix.copies is None else by_module(mix.copies)
    told = replace(told, bound=bound, modules=modules)
    return Fitted(mix.joint, limit, others.now, mix.plan, told, unlimited, mix.moved)


def _refusal(mixes: Mixes, budget: Budget, limit: Bytes, name: str, others: Beside) -> BudgetError:
    """Returns the error for a budget that no plan found keeps.

    Its text states the smallest total found, and a lower bound on the total of any plan with copies
    and, if there is a tier, transfers. A total is the sum of a plan's peak, the graph's persistent
    bytes, and all bytes of the graphs that ran before this one.
    """
    problem = mixes.search.captured.problem
    persistent = problem.persistent + others.now + others.persistent
    found = mixes.smallest
    smallest = min(mixes.search.first.peak, found.plan.peak) + persistent
    there = f"{show_size(problem.persistent)} of it persistent"
    if more := others.now + others.persistent:
        there += f" and {show_size(more)} of graphs that ran before it, compiled by themselves"
    if (moved := found.moved) is not None:
        there += f", with {show_size(moved.told.written)} moved to {moved.told.tier}"
    least, goes_below = mixes.least + persistent, "recomputation"
    if mixes.mover is not None:
        goes_below += " and no transfer"
    text = (
        f"{name} does not fit into a budget of {budget.text} ({show_size(max(0, limit))} "
        f"transient): the smallest total found is {show_size(smallest)}, {there}, and no "
        f"{goes_below} goes below {show_size(least)}. "
        f"{ways_out(problem, others, offloads=mixes.mover is not None)}"
    )
    return CompileBudgetError(text, budget=limit + persistent, found=smallest, least=least)
