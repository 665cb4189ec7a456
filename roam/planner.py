"""The story of planning: an order, what it lets be written in place, a layout, and a proof.

Problem ── order ── reuse ── layout ── bound ── check ── Plan
             │                 │         │
    the best of several,  the most in    what must be alive whatever ran,
    divided at its peak   the arena at   or at the cheapest moment of each op
                          no more than
                          the live peak
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from roam.core.bounds import must_live
from roam.core.check import check
from roam.core.lifetime import find_reuse, live_curve
from roam.core.plan import Plan
from roam.core.problem import OpId, Problem
from roam.solvers.cut_bound import cut_bound
from roam.solvers.divide import divide
from roam.solvers.layout import lay_out
from roam.solvers.order import CANDIDATES, OrderSolver, program_order

TOLERANCE = 0.005  # of the live peak: what an arena may cost for sparing the allocator


@dataclass(frozen=True)
class Settings:
    """How to plan. seconds: the deadline. hold: the arena is kept between steps, in one block.
    settled: how many phases, from the first, keep program order: their code is generated already.
    """

    seconds: float = 10.0
    hold: bool = False
    settled: int = 0


def plan(problem: Problem, settings: Settings | None = None) -> Plan:
    """The best plan found by the deadline, checked. Same problem, same settings, same plan."""
    settings = settings or Settings()
    start = time.monotonic()
    deadline = start + settings.seconds
    order, order_method, bound = best_order(problem, deadline, settings.settled)
    reuse = find_reuse(problem, order)
    curve = live_curve(problem, order, reuse)
    live = max(curve, default=0)
    for limit in _limits(problem, live, settings.hold):
        layout = lay_out(problem, order, reuse, limit=limit, hold=settings.hold, deadline=deadline)
        if layout.blocks:
            break
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


def _limits(problem: Problem, live: int, hold: bool) -> Sequence[int]:
    """What the peak may be with an arena: the live peak, or, where that leaves no arena, a little
    more. Never above what the plan replaces.
    """
    replaced = max(live, replaced_peak(problem))
    return (live, replaced) if hold else (live, min(int(live * (1 + TOLERANCE)), replaced))


def replaced_peak(problem: Problem) -> int:
    """What the step takes without a plan: program order, nothing written in place, no arena."""
    return max(live_curve(problem, range(len(problem.ops)), {}), default=0)


def best_order(problem: Problem, deadline: float, settled: int = 0) -> tuple[list[OpId], str, int]:
    """For every phase that is not settled the candidate with the lowest peak, the first found in a
    draw; the names of the methods; and a lower bound, at which the search stops.

    The phases can be judged apart: what is alive between them does not depend on the order.
    """
    bound = must_live(problem)
    solvers: dict[str, OrderSolver] = {**CANDIDATES, "divide": partial(divide, deadline=deadline)}
    best = [program_order(problem, phase) for phase in range(len(problem.phases))]
    method = ["program" for _ in best]
    for phase in range(settled, len(best)):
        lowest = _phase_peak(problem, best, phase)
        for name, solve in solvers.items():
            if lowest <= bound or time.monotonic() > deadline:
                break
            trial = [*best[:phase], solve(problem, phase), *best[phase + 1 :]]
            peak = _phase_peak(problem, trial, phase)
            if peak < lowest:
                best, lowest, method[phase] = trial, peak, name
    return [i for phase in best for i in phase], " / ".join(method), bound


def _phase_peak(problem: Problem, phases: list[list[OpId]], phase: int) -> int:
    order = [i for ops in phases for i in ops]
    curve = live_curve(problem, order, find_reuse(problem, order))
    before = sum(len(ops) for ops in phases[:phase])
    return max(curve[before : before + len(phases[phase])], default=0)
