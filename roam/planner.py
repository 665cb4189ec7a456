"""The story of planning: an order, what it lets be written in place, a layout, and a proof.

Problem ── order ── reuse ── layout ── bound ── check ── Plan
             │                 │         │
    the best of several,  what of it   what must be alive whatever ran, at the cheapest
    then from valley to   may cost no  moment of each op, or because no order keeps below
    valley to the limit   peak

What is placed is the lowering's choice: all buffers in one arena (`Arena`), or, if every op
allocates for itself, blocks for what the forward saves (`SavedBlocks`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from roam.core.check import check
from roam.core.lifetime import find_reuse, live_curve, live_peak
from roam.core.machine import ANY, Blocking
from roam.core.plan import Plan
from roam.core.problem import BufferId, OpId, Problem
from roam.core.proof import Bound
from roam.solvers.bound.min_cut import cut_bound
from roam.solvers.layout.arena import Layout, lay_out
from roam.solvers.layout.saved_layout import stack_saved
from roam.solvers.order.adjacent_calls import gather, small_folds
from roam.solvers.order.best_order import best_order
from roam.solvers.work import PATIENCE, Work

__all__ = ["ANY", "Arena", "Blocking", "SavedBlocks", "Settings", "plan", "replaced_peak"]

ORDER_SHARE = 0.6  # of the work: the layout and the bound come after
STAGGER_SHARE = 0.001  # of the peak: what staggering may cost

Over = dict[BufferId, BufferId]  # a buffer -> the dying one that it is written over


class Placement(Protocol):
    """What a plan places, and what that may cost."""

    def arrange(self, problem: Problem, order: list[OpId]) -> list[OpId]:
        """Returns an order that suits the placement better, of no higher peak."""

    def limit(self, problem: Problem, live: int) -> int:
        """Returns the bytes that the peak may be if the live peak is `live`."""

    def place(
        self, problem: Problem, order: Sequence[OpId], reuse: Over, limit: int, work: Work
    ) -> Layout:
        """Returns a layout whose peak is within `limit` bytes."""


@dataclass(frozen=True)
class Arena:
    """Every buffer that may lie in the arena does, if that costs nothing.

    hold: the arena is one block, kept from step to step.
    """

    hold: bool = False

    def arrange(self, problem: Problem, order: list[OpId]) -> list[OpId]:
        return order

    def limit(self, problem: Problem, live: int) -> int:
        return arena_limit(problem, live, self.hold)

    def place(
        self, problem: Problem, order: Sequence[OpId], reuse: Over, limit: int, work: Work
    ) -> Layout:
        return lay_out(problem, order, reuse, limit=limit, hold=self.hold, work=work)


@dataclass(frozen=True)
class SavedBlocks:
    """Every op allocates for itself; only what is saved for a later phase is placed, in blocks.

    held: bytes that the ops of the fixed phases hold, alive or not. blocking: what the machine
    asks of blocks. sharing: ops that share one call if they run one after another.
    """

    held: Sequence[int] = ()
    blocking: Blocking = ANY
    sharing: frozenset[OpId] = frozenset()

    def arrange(self, problem: Problem, order: list[OpId]) -> list[OpId]:
        """Puts ops that share a call side by side: room below the peak is free here."""
        for sharing in (small_folds(problem), self.sharing):
            order = gather(problem, order, sharing)
        return order

    def limit(self, problem: Problem, live: int) -> int:
        """Staggering may cost a little of what the order saves."""
        if not self.blocking.stagger:
            return live
        saved = live_peak(problem, range(len(problem.ops))) - live
        return live + min(saved, int(live * STAGGER_SHARE))

    def place(
        self, problem: Problem, order: Sequence[OpId], reuse: Over, limit: int, work: Work
    ) -> Layout:
        return stack_saved(
            problem, order, reuse, self.held, limit=limit, blocking=self.blocking, work=work
        )


@dataclass(frozen=True)
class Settings:
    """How to plan.

    seconds: how much work the searches may do: a fixed number of counted steps a second
        (`solvers/work.py`), about what an ordinary machine does in that time. 60 seconds are six
        times the work of 10, on every machine.
    placement: what is placed.
    fixed: how many phases, from the first, keep program order: their code is generated already.
    patience: after how many times `seconds` (and a little overhead) the clock ends the searches
        wherever they are. Such a plan is `cut_short`: another machine might find another one.
    """

    seconds: float = 10.0
    placement: Placement = Arena()
    fixed: int = 0
    patience: float = PATIENCE


def plan(problem: Problem, settings: Settings | None = None) -> Plan:
    """Returns the best plan found within the work that is allowed, checked.

    The same problem and the same settings give the same plan, but for a plan that is `cut_short`.
    """
    settings = settings or Settings()
    start = time.monotonic()
    work = Work.worth(settings.seconds, settings.patience)
    placement = settings.placement
    with work.share(ORDER_SHARE):
        ordered = best_order(problem, work, settings.fixed)
    order = placement.arrange(problem, ordered.found.order)
    reuse = find_reuse(problem, order)
    curve = live_curve(problem, order, reuse)
    live = max(curve, default=0)
    layout = placement.place(problem, order, reuse, placement.limit(problem, live), work)
    known = Bound(ordered.bound, ordered.found.proof)
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


def arena_limit(problem: Problem, live: int, hold: bool) -> int:
    """Returns what the peak may be with an arena: the live peak, so that the arena costs nothing.

    One that is held between the steps may cost as much as the plan saves.
    """
    return max(live, replaced_peak(problem)) if hold else live


def replaced_peak(problem: Problem) -> int:
    """What the step takes without a plan: program order, nothing written in place, no arena."""
    return max(live_curve(problem, range(len(problem.ops)), {}), default=0)
