"""Where the bytes of a step are, by kind and by module: what plans are compared by.

The parts add up: the transient ones to the peak, the persistent ones to the rest of the total.
A breakdown is small, and as a file it is stable from line to line, so that the diff of two says
what changed. Such a file is what a memory regression test is held against.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from roam.core.errors import FileFormatError, FileVersionError
from roam.inspect.moment import module_of

if TYPE_CHECKING:
    from roam.inspect.step_plan import StepPlan

VERSION = 1
_PART = re.compile(r"\{[^{}]*\}")  # the innermost objects of a file


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, order=True):
    """`size` bytes of one kind that one module makes. persistent: there before and after."""

    module: str
    kind: str
    persistent: bool
    size: int


class Breakdown(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """peak, persistent, lower_bound: bytes, as a StepPlan has them; parts: what they consist of.

    The transient parts are those of the step's worst moment.
    """

    peak: int
    persistent: int
    lower_bound: int
    parts: tuple[Part, ...]

    @property
    def total(self) -> int:
        return self.peak + self.persistent

    def to_json(self, test: str = "") -> bytes:
        """One part a line, ordered by module. test: the test that the file is the golden of."""
        text = msgspec.json.encode(_File(VERSION, test, self))
        lines = msgspec.json.format(text, indent=1).decode()
        return _PART.sub(lambda found: " ".join(found.group().split()), lines).encode() + b"\n"


class _Head(msgspec.Struct):
    roam_breakdown: int


class _File(msgspec.Struct, forbid_unknown_fields=True):
    roam_breakdown: int
    test: str
    breakdown: Breakdown


def breakdown(step: StepPlan) -> Breakdown:
    """What the step holds at its worst moment, and all the time."""
    sizes: Counter[tuple[str, str, bool]] = Counter()
    for held in step.held_at_worst:
        sizes[held.module, held.kind, False] += held.size
    for buffer in step.persistent_buffers:
        sizes[module_of(buffer), buffer.kind.value, True] += buffer.size
    parts = sorted(Part(*key, size) for key, size in sizes.items() if size)
    return Breakdown(step.peak, step.persistent, step.lower_bound, tuple(parts))


def breakdown_from_json(text: bytes | str) -> tuple[Breakdown, str]:
    """A breakdown's file, and the test it is the golden of.

    Raises FileFormatError or FileVersionError.
    """
    try:
        version = msgspec.json.decode(text, type=_Head).roam_breakdown
        if version != VERSION:
            raise FileVersionError(
                f"the breakdown has version {version}, this roam reads {VERSION}: write it again"
            )
        file = msgspec.json.decode(text, type=_File)
    except msgspec.MsgspecError as error:
        raise FileFormatError(f"not a whole breakdown file: {error}") from None
    return file.breakdown, file.test
