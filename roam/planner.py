"""The story of planning: an order, what it lets be written in place, a layout, and a proof.

Problem ── order ── reuse ── layout ── bound ── check ── Plan
             │                 │         │
    the best of several,  the most in    what must be alive whatever ran, at the cheapest
    then from valley to   the arena at   moment of each op, or because no order keeps below
    valley to the limit   no more than
                          the live peak
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from roam.core.bounds import must_live
from roam.core.check import check
from roam.core.lifetime import find_reuse, live_curve, live_peak
from roam.core.machine import ANY, Blocking
from roam.core.plan import Plan
from roam.core.problem import OpId, Problem
from roam.solvers.bound.min_cut import cut_bound
from roam.solvers.layout.arena import lay_out
from roam.solvers.layout.saved_layout import stack_saved
from roam.solvers.order.adjacent_calls import gather, small_folds
from roam.solvers.order.bisection import HASTY, WORTH, settle
from roam.solvers.order.greedy import CANDIDATES, program_order
from roam.solvers.order.local_search import local_search

ORDER_SHARE = 0.6  # of the time: the layout and the bound come after
STAGGER_SHARE = 0.001  # of the peak: what staggering may cost


@dataclass(frozen=True)
class Settings:
    """How to plan. seconds: the deadline. hold: the arena is kept between steps, in one block.
    fixed: how many phases, from the first, keep program order: their code is generated already.
    held: where every op allocates for itself, bytes that the fixed ones hold, alive or not; then
    only what is saved for a later phase is placed, in blocks as the machine asks for them.
    sharing: ops that share one call there, if they run one after another.
    """

    seconds: float = 10.0
    hold: bool = False
    fixed: int = 0
    held: Sequence[int] | None = None
    blocking: Blocking = ANY
    sharing: frozenset[OpId] = frozenset()


def plan(problem: Problem, settings: Settings | None = None) -> Plan:
    """The best plan found by the deadline, checked. Same problem, same settings, same plan."""
    settings = settings or Settings()
    start = time.monotonic()
    deadline = start + settings.seconds
    ordering = start + ORDER_SHARE * settings.seconds
    order, order_method, bound = best_order(problem, ordering, settings.fixed)
    if settings.held is not None:  # without an arena, room below the peak costs nothing
        for sharing in (small_folds(problem), settings.sharing):
            order = gather(problem, order, sharing)
    reuse = find_reuse(problem, order)
    curve = live_curve(problem, order, reuse)
    live = max(curve, default=0)
    limit = arena_limit(problem, live, settings)
    if settings.held is None:
        layout = lay_out(problem, order, reuse, limit=limit, hold=settings.hold, deadline=deadline)
    else:
        layout = stack_saved(
            problem,
            order,
            reuse,
            settings.held,
            limit=limit,
            blocking=settings.blocking,
            deadline=deadline,
        )
    found = Plan(
        problem=problem.name,
        fingerprint=problem.fingerprint,
        order=tuple(order),
        offsets=layout.offsets,
        reuse=reuse,
        blocks=layout.blocks,
        peak=layout.peak,
        live_peak=live,
        lower_bound=cut_bound(problem, order, curve, bound, deadline),
        persistent=problem.persistent,
        method=f"{order_method}, {layout.method}",
        seconds=time.monotonic() - start,
    )
    check(problem, found)
    return found


def arena_limit(problem: Problem, live: int, settings: Settings) -> int:
    """What the peak may be with an arena: the live peak, so that it costs nothing.

    One that is held between the steps may cost as much as the plan saves. What is left empty
    for speed may cost a little of what the order saves.
    """
    if settings.hold:
        return max(live, replaced_peak(problem))
    if settings.blocking.stagger:
        saved = live_peak(problem, range(len(problem.ops))) - live
        return live + min(saved, int(live * STAGGER_SHARE))
    return live


def replaced_peak(problem: Problem) -> int:
    """What the step takes without a plan: program order, nothing written in place, no arena."""
    return max(live_curve(problem, range(len(problem.ops)), {}), default=0)


def best_order(problem: Problem, deadline: float, fixed: int = 0) -> tuple[list[OpId], str, int]:
    """The order with the lowest peak for every phase but the first that are fixed; who found it; a
    lower bound.

    The phases can be judged apart: what is alive between them does not depend on the order. The
    one with the highest peak comes first, for below its bound the others need not go.
    """
    bound = must_live(problem)
    best = _Orders(problem)
    phases = range(fixed, len(problem.phases))
    for phase in phases:
        for name, solve in CANDIDATES.items():
            if best.peak(phase) > bound and time.monotonic() < deadline:
                best.offer(phase, name, solve(problem, phase))
    for phase in sorted(phases, key=best.peak, reverse=True):
        bound = best.settle(phase, bound, deadline, HASTY)
        if best.peak(phase) > bound * (1 + WORTH) and time.monotonic() < deadline:
            found = local_search(problem, phase, best.orders[phase], bound, deadline=deadline)
            best.offer(phase, "local search", found)
            bound = best.settle(phase, bound, deadline)
    return [i for order in best.orders for i in order], " / ".join(best.methods), bound


class _Orders:
    """The best order of every phase so far, program order at first, and who found it."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.orders = [program_order(problem, phase) for phase in range(len(problem.phases))]
        self.methods = ["program" for _ in self.orders]

    def peak(self, phase: int, order: list[OpId] | None = None) -> int:
        """What a phase takes, in an order other than its best if one is given."""
        phases = list(self.orders)
        phases[phase] = phases[phase] if order is None else order
        whole = [i for ops in phases for i in ops]
        curve = live_curve(self.problem, whole, find_reuse(self.problem, whole))
        before = sum(len(ops) for ops in phases[:phase])
        return max(curve[before : before + len(phases[phase])], default=0)

    def offer(self, phase: int, name: str, order: list[OpId]) -> bool:
        """Takes an order if it is better; returns whether it is."""
        better = self.peak(phase, order) < self.peak(phase)
        if better:
            self.orders[phase], self.methods[phase] = order, name
        return better

    def settle(self, phase: int, bound: int, deadline: float, effort: float = 1.0) -> int:
        """Searches between the bound and the phase's peak; returns the better bound."""
        peak_of = partial(self.peak, phase)
        found = settle(self.problem, phase, peak_of, self.peak(phase), bound, deadline, effort)
        if found.order is not None:
            self.offer(phase, "valleys", found.order)
        return found.bound
