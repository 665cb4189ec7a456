"""What a plan places, and what that may cost: a lowering chooses one of two.

InArena        all buffers of the step, in one arena that the lowering hands out
SavedBlocks    every op allocates for itself; only what the forward saves lies in blocks
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from roam.core.lifetime import live_curve, live_peak
from roam.core.machine import ANY, Blocking
from roam.core.problem import BufferId, OpId, Problem
from roam.solvers.layout.arena import Layout, lay_out
from roam.solvers.layout.saved_layout import stack_saved
from roam.solvers.order.adjacent_calls import gather, small_folds
from roam.solvers.work import Work

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
class InArena:
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


IN_ARENA = InArena()


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


def arena_limit(problem: Problem, live: int, hold: bool) -> int:
    """Returns what the peak may be with an arena: the live peak, so that the arena costs nothing.

    One that is held between the steps may cost as much as the plan saves.
    """
    return max(live, replaced_peak(problem)) if hold else live


def replaced_peak(problem: Problem) -> int:
    """What the step takes without a plan: program order, nothing written in place, no arena."""
    return max(live_curve(problem, range(len(problem.ops)), {}), default=0)
