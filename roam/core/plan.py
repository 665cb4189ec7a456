"""The Plan: an order of the ops, an address for every arena buffer, and how good that is.

The arena is one address space. It is backed by blocks, each one allocation, and no buffer
crosses from one block into another:

    address
      ^        ....[scratch )..   ..[ scratch  )....     each phase its own top block
      |            :              :
      |         [      block 2       )                   saved by the last layers: made last,
      |      [         block 1            )              dead first
      |   [            block 0                   )
      +--------------------------------------------> time
          forward             |  backward

A block is held from its first use to its last. So the arena grows with the forward and shrinks
with the backward, while the gradients, which are the user's and lie outside, pile up.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from enum import StrEnum

import msgspec

from roam.core.errors import FileFormatError, FileVersionError, GraphMismatchError
from roam.core.lifetime import Reuse, Slot, live_curve, slots
from roam.core.problem import BufferId, OpId, Problem

VERSION = 1


class Status(StrEnum):
    OPTIMAL = "OPTIMAL"  # peak = lower bound
    FEASIBLE = "FEASIBLE"


class Block(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One allocation of the arena: addresses [offset, offset + size), times [lower, upper)."""

    offset: int
    size: int
    lower: int
    upper: int


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to run when, and where everything lies.

    order: op ids in the order to run them.
    offsets: buffer id -> address in the arena, bytes; what is not in it allocates for itself.
    reuse: buffer id -> the dying buffer it is written over.
    blocks: the allocations that back the arena.
    peak: transient bytes at the worst moment: blocks, external buffers, gradients, scratch.
    live_peak: the same with every buffer counted at its own size: what no layout can beat.
    lower_bound: bytes that no order can beat.
    persistent: bytes of parameters, inputs and optimizer state.
    method, seconds: which candidates won, and how long planning took.
    """

    problem: str
    fingerprint: str
    order: tuple[OpId, ...]
    offsets: dict[BufferId, int]
    reuse: dict[BufferId, BufferId]
    blocks: tuple[Block, ...]
    peak: int
    live_peak: int
    lower_bound: int
    persistent: int
    method: str = ""
    seconds: float = 0.0

    @property
    def total(self) -> int:
        """Transient and persistent bytes together."""
        return self.peak + self.persistent

    @property
    def gap(self) -> float:
        """How far the peak may be from the best possible, as a fraction of the bound."""
        return self.peak / self.lower_bound - 1 if self.lower_bound else 0.0

    @property
    def status(self) -> Status:
        return Status.OPTIMAL if self.peak == self.lower_bound else Status.FEASIBLE

    @property
    def fragmentation(self) -> float:
        """Bytes lost to the layout: the peak over what is alive at the worst moment, minus 1."""
        return self.peak / self.live_peak - 1 if self.live_peak else 0.0

    @property
    def arena(self) -> int:
        """The extent of the arena's address space, bytes."""
        return max((b.offset + b.size for b in self.blocks), default=0)

    def committed(self, problem: Problem) -> list[int]:
        """Transient bytes held while each op of the order runs; the peak is the highest."""
        return committed_curve(problem, self.order, self.reuse, self.offsets, self.blocks)

    def to_json(self) -> bytes:
        return msgspec.json.encode(_File(roam_plan=VERSION, plan=self))

    @staticmethod
    def from_json(text: bytes | str, problem: Problem | None = None) -> Plan:
        """Reads a plan file; with a problem, also that it is a plan of that problem.

        Raises FileFormatError, FileVersionError or GraphMismatchError.
        """
        try:
            version = msgspec.json.decode(text, type=_Head).roam_plan
        except msgspec.MsgspecError as error:
            raise FileFormatError(f"not a whole plan file: {error}") from None
        if version != VERSION:
            raise FileVersionError(
                f"the plan file has version {version}, this roam reads {VERSION}: plan again"
            )
        try:
            plan = msgspec.json.decode(text, type=_File).plan
        except msgspec.MsgspecError as error:
            raise FileFormatError(f"not a plan: {error}") from None
        if problem is not None and plan.fingerprint != problem.fingerprint:
            raise GraphMismatchError(
                f"the plan is of {plan.problem!r} ({plan.fingerprint}), not of "
                f"{problem.name!r} ({problem.fingerprint}): plan this graph again"
            )
        return plan


class _Head(msgspec.Struct):
    roam_plan: int


class _File(msgspec.Struct, forbid_unknown_fields=True):
    roam_plan: int
    plan: Plan


def allocations(
    problem: Problem,
    order: Sequence[OpId],
    reuse: Reuse,
    placed: Container[BufferId],
    blocks: Sequence[Block],
) -> list[Slot | Block]:
    """What is allocated apart, each for its time: the blocks, then what lies outside of them."""
    outside = (s for s in slots(problem, order, reuse) if s.buffers[0] not in placed)
    return [*blocks, *outside]


def committed_curve(
    problem: Problem,
    order: Sequence[OpId],
    reuse: dict[BufferId, BufferId],
    placed: dict[BufferId, int],
    blocks: Sequence[Block],
) -> list[int]:
    """Transient bytes held while each op runs: blocks, what lies outside them, and scratch."""
    change = [0] * (len(order) + 1)
    for held in allocations(problem, order, reuse, placed, blocks):
        change[held.lower] += held.size
        change[held.upper] -= held.size
    curve: list[int] = []
    now = 0
    for t, i in enumerate(order):
        now += change[t]
        curve.append(now + problem.ops[i].scratch)
    return curve


def measure(
    problem: Problem,
    order: Sequence[OpId],
    reuse: dict[BufferId, BufferId],
    placed: dict[BufferId, int],
    blocks: Sequence[Block],
) -> tuple[int, int]:
    """(peak, live peak) of an order and a layout, bytes."""
    held = committed_curve(problem, order, reuse, placed, blocks)
    live = live_curve(problem, order, reuse)
    return max(held, default=0), max(live, default=0)
