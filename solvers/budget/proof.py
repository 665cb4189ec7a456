"""Proves lower bounds on the time that recomputation adds, and on the bytes that a step needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import inf

from roam.core.lifetime import live_curve
from roam.core.machine import Bytes, Seconds
from roam.core.plan import Plan
from roam.core.problem import OpId
from roam.solvers.bound.priced_cut import PricedCuts
from roam.solvers.bound.time_bound import least_bytes, time_bound
from roam.solvers.budget.copies import Step
from roam.solvers.form import Form, as_they_are
from roam.solvers.work import Work


def extra_time_bound(
    step: Step, plan: Plan, limit: Bytes, seconds: Seconds, enough: Seconds = inf
) -> Seconds:
    """Returns a lower bound on the seconds that recomputation adds to keep a limit.

    Returns inf if it is proven that recomputation cannot keep the limit. The bound holds for all
    orders, for any number of copies, and for copies of any op that may run again. It does not hold
    for schedules with transfers.

    Args:
        step: the step.
        plan: a plan of the step without copies; its live curve says at which ops to look first.
        limit: transient bytes that no moment may exceed.
        seconds: about how long the search may take.
        enough: the search ends when the bound reaches this number of seconds.
    """
    curve = live_curve(step.problem, plan.order, plan.reuse)
    work = Work.worth(seconds)
    forms = all_forms(step)
    return time_bound(step.problem, plan.order, curve, limit, work, forms, enough).seconds


def least_needed(step: Step, plan: Plan, seconds: Seconds) -> Bytes:
    """Returns a lower bound on the peak of a step, in transient bytes, however much it recomputes.

    The bound does not hold for schedules with transfers.

    Args:
        step: the step.
        plan: a plan of the step without copies; its live curve says at which ops to look first.
        seconds: about how long the search may take.
    """
    curve = live_curve(step.problem, plan.order, plan.reuse)
    return least_bytes(step.problem, plan.order, curve, Work.worth(seconds), all_forms(step))


def least_at_once(step: Step) -> Bytes:
    """Returns a lower bound on the peak of a step with any copies and any transfers, in bytes.

    The bound is the largest number of bytes that one op needs while it runs, or the bytes that the
    step leaves at its end, if these are more.
    """
    problem = step.problem
    cuts = PricedCuts(problem, all_forms(step))
    stays = sum(b.transient for b in problem.buffers if b.kept)
    return max([stays, *(cuts.own(i) for i in range(len(problem.ops)))])


def all_forms(step: Step) -> Mapping[OpId, Form]:
    """Returns, by op that may be recomputed, the form of its copy for lower bounds.

    An op may be recomputed unchanged, or in its form in `step.forms`. If both are allowed, the form
    returned reads only what both read, makes what either makes, and takes the shorter of both
    times. So bounds for this form hold for both. For example, an unchanged copy of batch norm reads
    the running statistics, which the op itself has changed; its form in `step.forms` does not read
    them.
    """
    forms = dict(step.forms)
    for i, form in as_they_are(step.problem).items():
        known = forms.get(i, form)
        forms[i] = replace(
            form,
            reads=tuple(b for b in form.reads if b in known.reads),
            creates=tuple(dict.fromkeys((*form.creates, *known.creates))),
            cost=min(form.cost, known.cost),
        )
    return forms
