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

Every other tier with buffers has an arena of its own: a slab of host memory, or a file.

A plan with edits is one of the *unedited* problem, which it names. Its order, offsets and figures
are of the edited one, and so are their ids: `plan.edited(problem)`.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from enum import StrEnum

import msgspec
import numpy as np

from roam.core.bounds import must_live
from roam.core.edits import AnyEdit, apply
from roam.core.errors import GraphMismatchError
from roam.core.lifetime import Reuse, Slot, live_curve, slots
from roam.core.problem import BufferId, OpId, Problem, Tier
from roam.core.proof import UNKNOWN, Proof
from roam.core.sizes import show_size
from roam.core.strict_json import read_versioned

VERSION = 1


class Status(StrEnum):
    OPTIMAL = "OPTIMAL"  # peak = lower bound
    FEASIBLE = "FEASIBLE"


class Block(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One allocation of an arena: addresses [offset, offset + size), times [lower, upper)."""

    offset: int
    size: int
    lower: int
    upper: int


class Arena(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The planned addresses of a tier, bytes, and the allocations that back them."""

    offsets: dict[BufferId, int] = {}
    blocks: tuple[Block, ...] = ()

    @property
    def extent(self) -> int:
        """Where the address space ends, bytes."""
        return max((b.offset + b.size for b in self.blocks), default=0)


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What to run when, and where everything lies.

    problem, fingerprint: of the unedited problem.
    order: op ids in the order to run them.
    offsets: buffer id -> address in the device's arena, bytes; what is not in it allocates for
        itself.
    reuse: buffer id -> the dying buffer it is written over.
    blocks: the allocations that back the device's arena.
    peak: transient bytes of the device at the worst moment: blocks, external buffers, gradients,
        scratch.
    live_peak: the same with every buffer counted at its own size: what no layout can beat.
    lower_bound: bytes that no order can beat: proven in this process.
    stated: a higher bound that the file of the plan states, not proven here; 0 if there is none.
    persistent: bytes of parameters, inputs and optimizer state.
    method, seconds: which candidates won, and how long planning took.
    edits: what was done to the problem before it was planned, in this order.
    elsewhere: the arenas of the other tiers.
    proof: what proved the bound, `stated` or not, for others to prove it again.
    cut_short: whether the clock ended a search that had work left. Only a plan that is not cut
        short is the same on every machine.
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
    stated: int = 0
    proof: Proof = UNKNOWN
    cut_short: bool = False
    edits: tuple[AnyEdit, ...] = ()
    elsewhere: dict[Tier, Arena] = {}

    @property
    def arenas(self) -> dict[Tier, Arena]:
        """The arena of every tier that has one."""
        return {Tier.DEVICE: Arena(self.offsets, self.blocks), **self.elsewhere}

    def edited(self, problem: Problem) -> Problem:
        """Returns what the plan orders and places: the problem with the edits.

        Raises EditError if the problem does not allow them.
        """
        return apply(problem, self.edits)

    def of_unedited(self, problem: Problem, edits: Sequence[AnyEdit]) -> Plan:
        """Returns this plan of an edited problem as one of the problem that the edits are of."""
        return msgspec.structs.replace(
            self, problem=problem.name, fingerprint=problem.fingerprint, edits=tuple(edits)
        )

    def to_edited(self, problem: Problem) -> tuple[Problem, Plan]:
        """Returns the edited problem, and this plan as one of that, without edits.

        Whoever looks at the order and at addresses wants such a pair. `of_unedited` undoes it.
        """
        if not self.edits:
            return problem, self
        edited = self.edited(problem)
        return edited, self.of_unedited(edited, ())

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
        """The extent of the address space of the device's arena, bytes."""
        return Arena(self.offsets, self.blocks).extent

    def committed(self, problem: Problem) -> list[int]:
        """Transient bytes held while each op of the order runs; the peak is the highest.

        Args:
            problem: the unedited one.
        """
        edited = self.edited(problem)
        return committed_curve(edited, self.order, self.reuse, self.offsets, self.blocks)

    @property
    def claimed_bound(self) -> int:
        """The highest bound that the plan states, proven here or not, bytes."""
        return max(self.lower_bound, self.stated)

    def with_proof(self, proven: int) -> Plan:
        """The same plan, of whose bound `proven` bytes are proven; the rest of it is stated."""
        claimed = self.claimed_bound
        stated = claimed if proven < claimed else 0
        return msgspec.structs.replace(self, lower_bound=min(proven, claimed), stated=stated)

    def to_json(self) -> bytes:
        return msgspec.json.encode(_File(roam_plan=VERSION, plan=self))

    @staticmethod
    def from_json(text: bytes | str, problem: Problem) -> Plan:
        """Reads a plan file, and proves of its bound what `must_live` proves.

        `check` says whether the rest is so. Raises FileFormatError, FileVersionError,
        GraphMismatchError for a plan of another problem, and EditError for edits that it does not
        allow.
        """
        plan = read_versioned(
            text, _File, what="plan", key="roam_plan", version=VERSION, again="plan again"
        ).plan
        plan.check_names(problem)
        return plan.with_proof(must_live(plan.edited(problem)))

    def check_names(self, problem: Problem) -> None:
        """Raises GraphMismatchError if the plan is of another problem."""
        if (self.problem, self.fingerprint) != (problem.name, problem.fingerprint):
            raise GraphMismatchError(
                f"the plan is of {self.problem!r} ({self.fingerprint}), not of "
                f"{problem.name!r} ({problem.fingerprint}): plan this graph again"
            )


def stated_note(stated: int) -> str:
    """What people read behind a proven bound if the plan's file states a higher one."""
    return f"; {show_size(stated)} stated, not proven" if stated else ""


def cut_note(plan: Plan) -> str:
    """What people read behind a plan's seconds if the clock cut it short."""
    return ", cut short by the clock" if plan.cut_short else ""


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
    """What the device allocates apart, each for its time: the blocks, then what is in none."""
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
    change = np.zeros(len(order) + 1, np.int64)
    for block in blocks:
        change[block.lower] += block.size
        change[block.upper] -= block.size
    outside = live_curve(problem, order, reuse, placed)
    curve: list[int] = (change[:-1].cumsum() + outside).tolist()
    return curve


def committed_peak(
    problem: Problem,
    order: Sequence[OpId],
    reuse: dict[BufferId, BufferId],
    placed: dict[BufferId, int],
    blocks: Sequence[Block],
) -> int:
    """Returns the peak of an order and a layout, in bytes."""
    return max(committed_curve(problem, order, reuse, placed, blocks), default=0)


def measure(
    problem: Problem,
    order: Sequence[OpId],
    reuse: dict[BufferId, BufferId],
    placed: dict[BufferId, int],
    blocks: Sequence[Block],
) -> tuple[int, int]:
    """(peak, live peak) of an order and a layout, bytes."""
    live = live_curve(problem, order, reuse)
    return committed_peak(problem, order, reuse, placed, blocks), max(live, default=0)
