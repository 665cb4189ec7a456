"""Breaks the bytes of a step down by kind and module, to compare plans.

The transient parts add up to the peak, and the persistent parts to the persistent bytes. A
breakdown's file is small and has one part a line in a fixed order, so that the diff of two files
shows what changed. The golden files of memory regression tests are breakdowns.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from roam.core.errors import FileFormatError
from roam.core.problem import LARGEST, Kind
from roam.core.strict_json import read_versioned
from roam.inspect.moment import FRAGMENTATION, SCRATCH, module_of

if TYPE_CHECKING:
    from roam.inspect.step_plan import StepPlan

VERSION = 1
KINDS = {*(kind.value for kind in Kind), SCRATCH, FRAGMENTATION}
_PART = re.compile(r"\{[^{}]*\}")  # the innermost objects of a file


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, order=True):
    """Bytes of one kind that belong to one module.

    Attributes:
        module: its path, "" for the model itself.
        kind: of the buffers, or SCRATCH or FRAGMENTATION.
        persistent: whether they exist before and after the step, as parameters do.
        size: bytes.
    """

    module: str
    kind: str
    persistent: bool
    size: int


class Breakdown(msgspec.Struct, frozen=True):
    """The bytes of a step, by module and kind.

    The transient parts are those of the step's worst moment. A breakdown that was read from a file
    proves no lower bound: its bound is `stated`.

    Attributes:
        peak, persistent, lower_bound, stated: bytes, as in StepPlan.
        parts: of peak and persistent bytes.
    """

    peak: int
    persistent: int
    lower_bound: int
    parts: tuple[Part, ...]
    stated: int = 0

    @property
    def total(self) -> int:
        return self.peak + self.persistent

    @property
    def claimed_bound(self) -> int:
        """The lower bound, proven or stated."""
        return max(self.lower_bound, self.stated)

    def to_json(self, test: str = "") -> bytes:
        """Returns the file: one part a line, ordered by module.

        test: the name of the test whose golden file this is.
        """
        stored = _Stored(self.peak, self.persistent, self.claimed_bound, self.parts)
        text = msgspec.json.encode(_File(VERSION, test, stored))
        lines = msgspec.json.format(text, indent=1).decode()
        return _PART.sub(lambda found: " ".join(found.group().split()), lines).encode() + b"\n"


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    peak: int
    persistent: int
    lower_bound: int
    parts: tuple[Part, ...]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    roam_breakdown: int
    test: str
    breakdown: _Stored


def breakdown(step: StepPlan) -> Breakdown:
    """Returns the breakdown of a step: of its worst moment, and of its persistent bytes."""
    sizes: Counter[tuple[str, str, bool]] = Counter()
    for held in step.held_at_worst:
        sizes[held.module, held.kind, False] += held.size
    for buffer in step.persistent_buffers:
        sizes[module_of(buffer), buffer.kind.value, True] += buffer.size
    parts = sorted(Part(*key, size) for key, size in sizes.items() if size)
    return Breakdown(step.peak, step.persistent, step.lower_bound, tuple(parts), step.stated)


def breakdown_from_json(text: bytes | str) -> tuple[Breakdown, str]:
    """Reads a breakdown's file. Returns it with the name of the test whose golden it is.

    Raises FileFormatError, also for parts that do not add up, or FileVersionError.
    """
    file = read_versioned(
        text, _File, what="breakdown", key="roam_breakdown", version=VERSION, again="write it again"
    )
    found = file.breakdown
    _check(found)
    parts = (found.peak, found.persistent, 0, found.parts, found.lower_bound)
    return Breakdown(*parts), file.test


def _check(found: _Stored) -> None:
    """Raises FileFormatError for a breakdown that contradicts itself."""
    seen = set()
    for part in found.parts:
        name = f"{part.kind!r} of module {part.module!r}"
        if part.kind not in KINDS:
            raise FileFormatError(f"the breakdown has bytes of the unknown kind {name}")
        if not 0 < part.size <= LARGEST:
            raise FileFormatError(f"the breakdown has {part.size} bytes of the kind {name}")
        if (key := (part.module, part.kind, part.persistent)) in seen:
            raise FileFormatError(f"the breakdown has bytes of the kind {name} twice")
        seen.add(key)
    for what, stated, persistent in (
        ("a peak", found.peak, False),
        ("persistent memory", found.persistent, True),
    ):
        true = sum(part.size for part in found.parts if part.persistent == persistent)
        if stated != true:
            raise FileFormatError(
                f"the breakdown states {what} of {stated} bytes, its parts add up to {true}"
            )
    if not 0 <= found.lower_bound <= found.peak:
        raise FileFormatError(
            f"the breakdown states a lower bound of {found.lower_bound} bytes, its peak is "
            f"{found.peak}"
        )
