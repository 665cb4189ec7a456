"""Decides which buffers a plan gives addresses, and by how much the layout may raise the peak.

A lowering chooses one of two placements:

InArena        all buffers that may lie in an arena lie in one, as far as the peak allows
SavedBlocks    only saved tensors lie in blocks; every other buffer is an allocation of its own
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

# limit on the bytes that gaps between saved tensors add to the peak, as a share of the live peak
STAGGER_SHARE = 0.001

Over = dict[BufferId, BufferId]  # maps a buffer to the dying buffer over which it is written


class Placement(Protocol):
    """Decides which buffers get planned addresses, and by how much that may raise the peak."""

    def arrange(self, problem: Problem, order: list[OpId]) -> list[OpId]:
        """Returns an order whose peak is no higher than that of `order`; it may be `order` itself.

        Lets a placement put ops next to each other that can run in one call.
        """

    def limit(self, problem: Problem, live: int) -> int:
        """Returns the highest peak that a layout may have, for an order whose live peak is `live`.

        Both peaks are in bytes. The bytes that a layout wastes may raise the peak above `live`.
        """

    def place(
        self, problem: Problem, order: Sequence[OpId], reuse: Over, limit: int, work: Work
    ) -> Layout:
        """Returns a layout whose peak is at most `limit` bytes, or one that places no buffer.

        `reuse` maps each buffer that is written over a dying buffer to that dying buffer.
        """


@dataclass(frozen=True)
class InArena:
    """Places all buffers that may lie in the arena, as far as the limit on the peak allows.

    Attributes:
        hold: whether the arena is kept from step to step, as one block if any tensor is saved.
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
    """Places only saved tensors, in blocks. Every other buffer is an allocation of its own.

    Attributes:
        held: by time, an upper bound on the bytes that the generated code holds while an op runs,
            including dead buffers that it has not freed. Has entries only for the times of the
            phases whose code exists already. Empty if no code exists.
        blocking: the largest size of a block, and the gap to leave above a saved tensor.
        sharing: ops that Inductor can generate as one function together with neighbouring ops.
    """

    held: Sequence[int] = ()
    blocking: Blocking = ANY
    sharing: frozenset[OpId] = frozenset()

    def arrange(self, problem: Problem, order: list[OpId]) -> list[OpId]:
        """Moves ops next to each other that one call of a function can run, if the peak allows it.

        Such ops are small folds, which share a call of the optimizer, and ops in `sharing`, which
        share a call of a generated function.
        """
        for sharing in (small_folds(problem), self.sharing):
            order = gather(problem, order, sharing)
        return order

    def limit(self, problem: Problem, live: int) -> int:
        """Returns the highest peak that a layout may have, in bytes: `live`, or more with gaps.

        Some machines want gaps between saved tensors. The gaps may add a share STAGGER_SHARE to
        `live`, but no more than the order saves compared with program order.
        """
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
    """Returns the highest peak that a layout in an arena may have, in bytes.

    Args:
        problem: the step.
        live: the live peak of the planned order, in bytes. Without `hold`, it is returned.
        hold: whether the arena is kept between steps. Such an arena may waste as many bytes as the
            planned order and reuse save compared with the step without a plan.
    """
    return max(live, replaced_peak(problem)) if hold else live


def replaced_peak(problem: Problem) -> int:
    """Returns the peak in bytes of the step without a plan: in program order, without reuse."""
    return max(live_curve(problem, range(len(problem.ops)), {}), default=0)
