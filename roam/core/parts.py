"""What a Problem is made of: buffers and ops, and what they can be."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TypeVar

import msgspec

BufferId = int  # index into Problem.buffers
OpId = int  # index into Problem.ops, which is also the op's place in program order


class Kind(StrEnum):
    """What a buffer is to the person who trains."""

    PARAMETER = "parameter"
    INPUT = "input"
    STATE = "state"  # of the optimizer
    SAVED = "saved"  # written by the forward, read by the backward
    TEMPORARY = "temporary"
    GRADIENT = "gradient"  # the user's, in `.grad`
    RELEASED = "released"  # a gradient that a fold absorbs
    OUTPUT = "output"
    TANGENT = "tangent"  # the gradient of an output, which somebody else holds as well


class Home(StrEnum):
    """Who provides a buffer's memory."""

    ARENA = "arena"  # the plan may place it
    EXTERNAL = "external"  # allocated by itself during the step
    USER = "user"  # there before the step, and after it


class Tier(StrEnum):
    """A place for bytes. Only what lies in the device's memory can be computed with."""

    DEVICE = "device"
    HOST = "host"  # memory of the machine that holds the device
    FILE = "file"


class Lane(StrEnum):
    """What carries an op out. Ops of different lanes may run at the same time."""

    COMPUTE = "compute"
    COPY_IN = "copy_in"  # from another tier to the device
    COPY_OUT = "copy_out"  # from the device to another tier
    COMMUNICATION = "communication"  # with other ranks


T = TypeVar("T")


def _written(default: T) -> T:
    """Returns a default for a field that files and fingerprints state even at its default.

    Fields without it came later: left out at their defaults, they change no older file and no
    fingerprint. msgspec leaves out a default value, but never what a factory made.
    """
    made: T = msgspec.field(default_factory=lambda: default)
    return made


class Buffer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One piece of memory. Views and aliases of it are the same buffer.

    size: bytes.
    align: what its address must be a multiple of, bytes.
    where: the module that made it, for reports.
    tier: where its bytes lie. An arena buffer has an address in the arena of its tier.
    """

    name: str
    size: int
    kind: Kind = _written(Kind.TEMPORARY)
    home: Home = _written(Home.ARENA)
    align: int = _written(64)
    where: str = _written("")
    tier: Tier = Tier.DEVICE

    @property
    def kept(self) -> bool:
        """Whether the user holds it once it is made: to the end of the step, in no arena."""
        return self.kind in (Kind.OUTPUT, Kind.GRADIENT, Kind.TANGENT)

    @property
    def transient(self) -> int:
        """Bytes of the device that the step allocates for it."""
        return self.size if self.home is not Home.USER and self.tier is Tier.DEVICE else 0

    @property
    def persistent(self) -> int:
        """Bytes of the device that are there before the step and after it."""
        return self.size if self.home is Home.USER and self.tier is Tier.DEVICE else 0


class Op(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One operator, or the start of a transfer between tiers, or the wait for its end.

    reads, creates, mutates: the buffers it reads, allocates and writes, and changes in place.
    over: pairs (created, read): the created buffer may take the place of the read one, where
        the read one dies at this op.
    scratch: bytes the operator allocates for itself while it runs.
    phase: 0 for the forward, 1 for the backward; every op of a phase runs before the next phase.
    cost: seconds it takes, measured or estimated; 0 if nobody asked.
    after: ops that must have run before, beyond what the buffers say (random state, effects).
    where: the module it belongs to, for reports.
    lane: what carries it out.
    once: whether it must run exactly once, as a whole: it has effects, or draws random numbers
        that nobody could draw again. Such an op is never copied and never split.
    """

    name: str
    reads: tuple[BufferId, ...] = _written(())
    creates: tuple[BufferId, ...] = _written(())
    mutates: tuple[BufferId, ...] = _written(())
    over: tuple[tuple[BufferId, BufferId], ...] = _written(())
    scratch: int = _written(0)
    phase: int = _written(0)
    cost: float = _written(0.0)
    after: tuple[OpId, ...] = _written(())
    where: str = _written("")
    lane: Lane = Lane.COMPUTE
    once: bool = False

    @property
    def is_copy(self) -> bool:
        """Whether it is another op that runs again: `gelu~1` is a copy of `gelu`."""
        _, mark, number = self.name.rpartition("~")
        return bool(mark) and number.isdigit()

    @property
    def touches(self) -> Iterable[BufferId]:
        """Every buffer that must be alive while the op runs."""
        return dict.fromkeys((*self.reads, *self.mutates, *self.creates))

    @property
    def may_be_copied(self) -> bool:
        """Whether `edits.Recompute` may run the op again: nobody could tell that it ran twice."""
        return not self.once and not self.mutates and self.lane is Lane.COMPUTE
