"""Plans a Problem: finds an order of its ops, a place for each buffer, and a lower bound.

    Problem ── order ── reuse ── layout ── bound ── check ── Plan

    order     an order of the ops with a low peak                     solvers/order/best_order.py
    reuse     the results that are written over an input that dies    core/lifetime.py
    layout    the buffers that lie in blocks, and their addresses:    solvers/layout/placement.py
              as many as possible without a higher peak
    bound     bytes that no order of the ops goes below               solvers/bound/min_cut.py
    check     accepts the plan, or names what is wrong with it        core/check.py

The order is searched for phase by phase. Simple rules make first orders. If the best of them is not
proven optimal, an exact search goes from valley to valley (sets of ops after which few bytes are
alive). If that takes too long, the phase is cut at key points (moments with few live bytes) into
segments, and each segment is ordered by itself, by exact and by local search:

    step ─┬─ forward ──┬─ segment
          │            └─ segment
          └─ backward ─┬─ segment
                       └─ ...
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from roam.core.check import check
from roam.core.lifetime import find_reuse, live_curve
from roam.core.plan import Plan
from roam.core.problem import Problem
from roam.core.proof import Bound
from roam.solvers.bound.min_cut import cut_bound
from roam.solvers.budget.choose import QUICK, Chosen, Limits, choose, smallest_peak
from roam.solvers.budget.copies import Choice, Copies, Copy, Step, usual_forms
from roam.solvers.budget.hull import placed
from roam.solvers.budget.lowest_peak import (
    least_with_copies,
    lowest_peak,
    peak_without,
    saved_buffers,
)
from roam.solvers.budget.proof import extra_time_bound, least_at_once, least_needed
from roam.solvers.budget.segments import cut_backward
from roam.solvers.form import Form
from roam.solvers.layout.placement import IN_ARENA, InArena, Placement, SavedBlocks, replaced_peak
from roam.solvers.offload.bound import least_live, mixed_time_bound
from roam.solvers.offload.choose import CAUTION, choose_moves
from roam.solvers.offload.loads import find_loads, without_loads
from roam.solvers.offload.movable import Timed
from roam.solvers.offload.moved import stall_with
from roam.solvers.offload.prefetch import prefetch
from roam.solvers.offload.timeline import Link, Transfer
from roam.solvers.order.best_order import best_order
from roam.solvers.simulate.step import Timeline, simulate
from roam.solvers.work import PATIENCE, Work

__all__ = [
    "CAUTION",
    "QUICK",
    "Choice",
    "Chosen",
    "Copies",
    "Copy",
    "Form",
    "InArena",
    "Limits",
    "Link",
    "SavedBlocks",
    "Settings",
    "Step",
    "Timed",
    "Timeline",
    "Transfer",
    "choose",
    "choose_moves",
    "cut_backward",
    "extra_time_bound",
    "find_loads",
    "least_at_once",
    "least_live",
    "least_needed",
    "least_with_copies",
    "lowest_peak",
    "mixed_time_bound",
    "peak_without",
    "placed",
    "plan",
    "replaced_peak",
    "saved_buffers",
    "simulate",
    "smallest_peak",
    "stall_with",
    "usual_forms",
]

ORDER_SHARE = 0.6  # part of the work for the order; the rest is left for the layout and the bound


@dataclass(frozen=True)
class Settings:
    """How to plan.

    Attributes:
        seconds: limits the work of the searches, to about what an ordinary machine does in this
            time. The work is counted (`solvers/work.py`), so it is the same on every machine.
        placement: decides what is placed: all buffers in one arena, or saved buffers in blocks.
        fixed: the number of phases, from the first one, that keep program order, because their code
            is generated already.
        link: the rates of the tier where optimizer states lie between steps, to fetch them early
            enough; None if no states are in a tier, or if each is fetched when it is needed.
        patience: the clock ends the searches after `patience` times `seconds`, plus some overhead.
            Such a plan is `cut_short`: another machine might find another plan.
    """

    seconds: float = 10.0
    placement: Placement = IN_ARENA
    fixed: int = 0
    link: Link | None = None
    patience: float = PATIENCE


def plan(problem: Problem, settings: Settings | None = None) -> Plan:
    """Returns the best plan found within the work that is allowed, checked.

    The same problem and the same settings give the same plan, but for a plan that is `cut_short`.
    """
    settings = settings or Settings()
    start = time.monotonic()
    work = Work.worth(settings.seconds, settings.patience)
    placement = settings.placement
    bare = without_loads(problem)
    with work.share(ORDER_SHARE):
        ordered = best_order(problem if bare is None else bare.problem, work, settings.fixed)
    order = ordered.found.order
    known = Bound(ordered.bound, ordered.found.proof)
    if bare is not None:
        known = Bound(ordered.bound, bare.proof(known.proof))
        link = settings.link
        order = bare.with_loads(order) if link is None else prefetch(problem, bare, order, link)
    order = placement.arrange(problem, order)
    reuse = find_reuse(problem, order)
    curve = live_curve(problem, order, reuse)
    live = max(curve, default=0)
    layout = placement.place(problem, order, reuse, placement.limit(problem, live), work)
    bound = cut_bound(problem, order, curve, known, work)
    found = Plan(
        problem=problem.name,
        fingerprint=problem.fingerprint,
        order=tuple(order),
        offsets=layout.offsets,
        reuse=reuse,
        blocks=layout.blocks,
        peak=layout.peak,
        live_peak=live,
        lower_bound=bound.bound,
        persistent=problem.persistent,
        method=f"{ordered.found.method}, {layout.method}",
        seconds=time.monotonic() - start,
        proof=bound.found,
        cut_short=work.cut_short,
    )
    check(problem, found)
    return found
