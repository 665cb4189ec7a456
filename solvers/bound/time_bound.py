"""Proves lower bounds for all schedules that may recompute ops: on extra time, and on the peak.

Every schedule runs each op for a first time. At that moment, minimum cuts bound the time that
recomputing must add within a budget, and the bytes that must be alive (`priced_cut`). `time_bound`
and `least_bytes` try one op after another, those with the most live bytes in a known order first,
and return the highest bound that they find.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf

from roam.core.machine import Bytes, Seconds
from roam.core.problem import OpId, Problem
from roam.solvers.bound.priced_cut import PricedCuts, TimeBound
from roam.solvers.form import Form
from roam.solvers.work import Work


def time_bound(
    problem: Problem,
    order: Iterable[OpId],
    curve: Sequence[Bytes],
    budget: Bytes,
    work: Work | None = None,
    forms: Mapping[OpId, Form] | None = None,
    enough: Seconds = inf,
) -> TimeBound:
    """Searches for the highest lower bound on the time that recomputing adds within a budget.

    Each bound is proven by what must hold when one op runs for the first time (`PricedCuts.extra`).
    Tries first the ops with the most live bytes in a known order. Skips ops whose live bytes in
    that order are within the budget, because they prove nothing. Tries no op if the buffers that
    the user keeps exceed the budget: then no schedule keeps within the budget.

    Args:
        problem: the Problem.
        order: an order of all ops, none of them copied.
        curve: the live curve of `order`, in bytes.
        budget: transient bytes that no moment may exceed.
        work: limits the work and the time of the search; no limit if left out.
        forms: by op that may be recomputed, the form of its copies. If left out, the copy of an op
            does all that the op does (`form.as_they_are`).
        enough: a bound in seconds that is high enough: the search ends when it has proven it.

    Returns:
        The highest bound found. Its `seconds` are inf if it is proven that no schedule keeps within
        the budget, and 0 if no op proves more.
    """
    work, cuts, best = work or Work(), PricedCuts(problem, forms), TimeBound(0.0)
    kept = sum(b.transient for b in problem.buffers if b.kept)
    if kept > budget:  # kept buffers are all alive at the end
        return TimeBound(inf, None, inf)
    for live, op in sorted(zip(curve, order, strict=True), key=lambda at: -at[0]):
        if live <= budget or best.seconds >= enough or work.is_over():
            break
        found = cuts.extra(op, budget)
        work.spend(5 * cuts.cost())
        if found.seconds > best.seconds:
            best = found
    return best


def least_bytes(
    problem: Problem,
    order: Iterable[OpId],
    curve: Sequence[Bytes],
    work: Work | None = None,
    forms: Mapping[OpId, Form] | None = None,
) -> Bytes:
    """Returns a lower bound on the peak of every schedule, however much it recomputes.

    The bound, in transient bytes, is the highest of three: the most bytes that a minimum cut proves
    to be alive at the first run of an op, the most bytes that an op needs for itself, and all bytes
    that the user keeps. Tries first the ops with the most live bytes in a known order.

    Args:
        problem: the Problem.
        order: an order of all ops, none of them copied.
        curve: the live curve of `order`, in bytes.
        work: limits the work and the time of the search; no limit if left out.
        forms: by op that may be recomputed, the form of its copies. If left out, the copy of an op
            does all that the op does (`form.as_they_are`).
    """
    work, cuts = work or Work(), PricedCuts(problem, forms)
    best = sum(b.transient for b in problem.buffers if b.kept)
    best = max([best, *(cuts.own(i) for i in range(len(problem.ops)))])
    for live, op in sorted(zip(curve, order, strict=True), key=lambda at: -at[0]):
        if live <= best or work.is_over():
            break
        best = max(best, cuts.least(op))
        work.spend(cuts.cost())
    return best
