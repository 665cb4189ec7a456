"""How much of the lower bound that a plan states can be proven again, in about a second.

A plan's file is no proof: its bound is a number that anybody may have written. So whoever reads a
file asks three proofs, the cheapest first, until one reaches what the file states:

    what must be alive ── the cheapest moment of each op ── no order of the phase keeps below
    core/bounds.py        solvers/bound/min_cut.py          solvers/order/bisection.py,
                                                            then leaf by leaf: leaf_search.py

What they do not reach stays stated. An order found on the way that takes less refutes the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from roam.core.bounds import must_live_bound
from roam.core.errors import FigureError
from roam.core.lifetime import find_reuse, live_curve, live_peak
from roam.core.machine import Bytes
from roam.core.plan import Plan
from roam.core.problem import OpId, Problem
from roam.core.proof import Bound

if TYPE_CHECKING:
    from roam.solvers.work import Work

SECONDS = 1.0  # for the proofs of one graph: a person waits for them


def prove(problem: Problem, plan: Plan, seconds: float = SECONDS) -> Plan:
    """Returns the plan with as much of its stated bound proven as so much work proves.

    Args:
        plan: a plan that `check` accepts.
        seconds: the work of the proofs, as `Settings.seconds`.

    Raises:
        FigureError: an order takes less than the bound that the plan states.
    """
    claimed = plan.claimed_bound
    known = must_live_bound(problem)
    proven = known.value
    if proven < claimed:
        from roam.solvers.offload.loads import without_loads
        from roam.solvers.work import Work

        _refute(claimed, "program order", live_peak(problem, range(len(problem.ops))))
        order: Sequence[OpId] = plan.order
        if (bare := without_loads(problem)) is not None:
            problem, order = bare.problem, bare.without_loads(order)
        proven = _search(problem, order, claimed, known, Work.worth(seconds))
    return plan.with_proof(proven)


def _search(
    problem: Problem, order: Sequence[OpId], claimed: Bytes, known: Bound, work: Work
) -> int:
    """The bound by minimum cuts, then by search of each phase, the one with most bytes first."""
    from roam.solvers.bound.min_cut import cut_bound  # brings in ortools
    from roam.solvers.order.bisection import HASTY, settle
    from roam.solvers.order.leaf_search import search_leaves
    from roam.solvers.order.segment import Segment

    curve = live_curve(problem, order, find_reuse(problem, order))
    proven = cut_bound(problem, order, curve, known, work).bound
    phases = problem.spans
    peaks = [max((curve[t] for t in times), default=0) for times in phases]
    orders = [[order[t] for t in times] for times in phases]
    for phase in sorted(range(len(phases)), key=peaks.__getitem__, reverse=True):
        if not proven < claimed <= peaks[phase] or work.is_over():
            break

        def peak_of(order: list[OpId], phase: int = phase) -> int:
            whole = [i for p, own in enumerate(orders) for i in (order if p == phase else own)]
            found = live_curve(problem, whole, find_reuse(problem, whole))
            return max(found[t] for t in phases[phase])

        answer = settle(problem, phase, orders[phase], peak_of, proven, work, HASTY)
        proven, orders[phase] = answer.bound, answer.found
        peaks[phase] = min(peaks[phase], answer.value)
        if proven < claimed <= peaks[phase] and not work.is_over():
            whole = Segment(phase, tuple(orders[phase]), "")
            leaves = search_leaves(problem, phase, whole, proven, work)
            proven, peaks[phase] = leaves.bound, leaves.value
            orders[phase] = [i for segment in leaves.found.segments for i in segment.ops]
    _refute(claimed, "another order", max(peaks, default=0))
    return proven


def _refute(claimed: int, whose: str, takes: int) -> None:
    if takes < claimed:
        raise FigureError(
            f"the plan states a lower bound of {claimed} bytes, and {whose} takes {takes}"
        )
