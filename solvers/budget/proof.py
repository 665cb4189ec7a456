"""Proves how little time recomputing must add to a step, and how few bytes it can need."""

from __future__ import annotations

from msgspec.structs import replace

from roam.core.lifetime import live_curve
from roam.core.machine import Bytes, Seconds
from roam.core.plan import Plan
from roam.core.problem import Problem
from roam.solvers.bound.priced_cut import least_bytes, time_bound
from roam.solvers.budget.copies import Step
from roam.solvers.budget.least import least_peak
from roam.solvers.work import Work


def extra_time_bound(step: Step, plan: Plan, limit: Bytes, seconds: Seconds) -> Seconds:
    """Returns seconds that recomputing adds at least; inf if it cannot keep the limit.

    The bound holds for all orders, for any number of copies, and for copies of any op.

    Args:
        step: the step.
        plan: a plan of it without copies.
        limit: transient bytes that no moment may exceed.
        seconds: how much work the search may do.
    """
    problem = _cheapest(step)
    curve = live_curve(problem, plan.order, plan.reuse)
    return time_bound(problem, plan.order, curve, limit, Work.worth(seconds)).seconds


def least_needed(step: Step, plan: Plan, seconds: Seconds) -> Bytes:
    """Returns transient bytes that the step needs, however much it recomputes. As above."""
    problem = _cheapest(step)
    curve = live_curve(problem, plan.order, plan.reuse)
    found = least_bytes(problem, plan.order, curve, Work.worth(seconds))
    return max(least_peak(step.problem), found)


def _cheapest(step: Step) -> Problem:
    """Returns the step with the cost of each op's copy as the op's own cost.

    A copy may be cheaper than the op, and some ops run again in another form only, such as dropout
    from the mask that it drew.
    """
    ops = list(step.problem.ops)
    for i, form in step.forms.items():
        ops[i] = replace(ops[i], once=False, cost=min(ops[i].cost, form.cost))
    return replace(step.problem, ops=tuple(ops))
