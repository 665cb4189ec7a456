"""Reads, writes and checks packing instances: lists of rectangles, some with fixed offsets."""

from __future__ import annotations

import csv
import io
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import gcd

import numpy as np

from roam.core.errors import FileFormatError, OffsetError, OverlapError
from roam.solvers.layout.greedy_fits import Rect
from roam.solvers.layout.packing.skyline import NOWHERE, Items
from roam.solvers.zobrist import random_words

REQUIRED = ("id", "lower", "upper", "size")
OPTIONAL = ("alignment", "offset")


@dataclass(frozen=True)
class Instance:
    """The rectangles to pack, and the name of each, in the order in which the CSV lists them."""

    names: tuple[str, ...]
    rects: tuple[Rect, ...]


# limit on every time, and on the sum of all sizes, alignments and offsets, so that 64 bits suffice
LARGEST = 2**62


def read_csv(text: str) -> Instance:
    """Reads an instance from CSV in MiniMalloc's format.

    The columns are `id,lower,upper,size`, and perhaps `alignment` and `offset`. A buffer is alive
    during times [lower, upper). If a buffer has an offset, a packing must place the buffer at that
    offset. Sizes, alignments and offsets are in bytes.

    Raises:
        FileFormatError: the text has another format, or no buffer. The message names the line. Also
            raised, without a line, if a time, or the sum of all sizes, alignments and fixed
            offsets, is beyond 2^62.
    """
    rows = csv.reader(io.StringIO(text), strict=True)
    try:
        columns = next(rows, [])
        _check_columns(columns)
        found: dict[str, Rect] = {}
        for row in rows:
            if row:  # an empty line has no fields
                name, rect = _read_row(columns, row, rows.line_num)
                if name in found:
                    raise FileFormatError(f"line {rows.line_num}: a second buffer {name!r}")
                found[name] = rect
    except csv.Error as error:
        raise FileFormatError(f"line {rows.line_num}: {error}") from None
    if not found:
        raise FileFormatError(f"line {rows.line_num}: no buffer stands below the columns")
    last = max(r.upper for r in found.values())
    if max(last, sum(r.size + r.align + (r.fixed or 0) for r in found.values())) > LARGEST:
        raise FileFormatError("the times, or all sizes together, go beyond 2^62")
    return Instance(tuple(found), tuple(found.values()))


def _check_columns(columns: Sequence[str]) -> None:
    missing = [c for c in REQUIRED if c not in columns]
    unknown = [c for c in columns if c not in REQUIRED + OPTIONAL]
    if missing or unknown or len(set(columns)) < len(columns):
        raise FileFormatError(
            f"line 1: a CSV of buffers has the columns {','.join(REQUIRED)} and perhaps "
            f"{','.join(OPTIONAL)}, each once, not {','.join(columns)}"
        )


def _read_row(columns: Sequence[str], row: Sequence[str], line: int) -> tuple[str, Rect]:
    """Returns the id and the rectangle of one row of a CSV file.

    Raises:
        FileFormatError: the row is malformed. The message names `line`, the number of the line.
    """
    if len(row) != len(columns):
        raise FileFormatError(
            f"line {line}: buffer {row[0]!r} has {len(row)} fields for {len(columns)} columns"
        )
    fields = dict(zip(columns, row, strict=True))
    name = fields.pop("id")
    for column, text in fields.items():
        if not re.fullmatch(r"\s*-?[0-9]{1,30}\s*", text) and (text or column in REQUIRED):
            raise FileFormatError(
                f"line {line}: buffer {name!r} has a {column} that is no whole number: {text!r}"
            )
    value = {column: int(text) for column, text in fields.items() if text}
    lower, upper, size = value["lower"], value["upper"], value["size"]
    align, fixed = value.get("alignment", 1), value.get("offset")
    if not (0 <= lower < upper and size >= 0 and align > 0 and (fixed or 0) >= 0):
        raise FileFormatError(
            f"line {line}: buffer {name!r} needs 0 <= lower < upper, size >= 0, alignment > 0, "
            "offset >= 0"
        )
    if (fixed or 0) % align:
        raise FileFormatError(
            f"line {line}: buffer {name!r} has the fixed offset {fixed}, which is no multiple of "
            f"its alignment {align}"
        )
    return name, Rect(lower, upper, size, align, fixed)


def write_csv(instance: Instance, offsets: Sequence[int]) -> str:
    """Returns the instance as CSV that `read_csv` reads, with an offset for every buffer."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*REQUIRED, *OPTIONAL])
    for name, r, offset in zip(instance.names, instance.rects, offsets, strict=True):
        writer.writerow([name, r.lower, r.upper, r.size, r.align, offset])
    return out.getvalue()


def height(rects: Sequence[Rect], offsets: Sequence[int]) -> int:
    """Returns the height of a packing: the highest address that a rectangle reaches, in bytes."""
    return max((o + r.size for r, o in zip(rects, offsets, strict=True) if r.size), default=0)


def max_load(rects: Sequence[Rect]) -> int:
    """Returns the most bytes alive at one time: a lower bound on the height of every packing."""
    return max(accumulate(change for _, change in load_changes(rects)), default=0)


def load_changes(rects: Sequence[Rect]) -> list[tuple[int, int]]:
    """Returns, in order of time, (time, change) for every time at which the load may change.

    The load is the number of bytes alive. A change is positive if the load rises.
    """
    change: dict[int, int] = {}
    for r in rects:
        change[r.lower] = change.get(r.lower, 0) + r.size
        change[r.upper] = change.get(r.upper, 0) - r.size
    return sorted(change.items())


def granule(rects: Sequence[Rect]) -> int:
    """Returns the greatest common divisor, in bytes, of all sizes, alignments and fixed offsets.

    Leaves out alignments of 1, which allow every address. The height of the lowest packing is a
    multiple of this number of bytes.
    """
    return gcd(*(r.size for r in rects), *(r.align for r in rects if r.align > 1),
               *(r.fixed for r in rects if r.fixed is not None)) or 1  # fmt: skip


def check_packing(
    rects: Sequence[Rect], offsets: Sequence[int], names: Sequence[str] | None = None
) -> None:
    """Raises an error, which names the buffers, if the offsets are not a valid packing.

    If `names` is left out, calls them "buffer 0" and so on. The check is simple on purpose, and
    independent of all packing algorithms. It goes through time with a list of the live rectangles,
    sorted by address. The rectangles in the list do not overlap, so a new rectangle can only
    overlap its two neighbours in the list.

    Raises:
        OffsetError: an offset is negative, not aligned, or not the rectangle's fixed offset.
        OverlapError: two buffers share an address while both are alive.
    """
    name = [repr(n) for n in names] if names else [f"buffer {i}" for i in range(len(rects))]
    for i, (r, o) in enumerate(zip(rects, offsets, strict=True)):
        if o < 0 or o % r.align:
            raise OffsetError(f"{name[i]} lies at {o}, and must lie at a multiple of {r.align}")
        if r.fixed is not None and o != r.fixed:
            raise OffsetError(f"{name[i]} lies at {o}, and must lie at {r.fixed}")
    kept = [i for i, r in enumerate(rects) if r.size and r.lower < r.upper]
    ends = [(rects[i].upper, False, i) for i in kept]
    alive: list[tuple[int, int]] = []  # (address, index) of the live rectangles, sorted
    for now, begins, i in sorted([*ends, *((rects[i].lower, True, i) for i in kept)]):
        at = bisect_left(alive, (offsets[i], i))
        if not begins:
            del alive[at]
            continue
        for _, k in alive[max(at - 1, 0) : at + 1]:
            if offsets[i] < offsets[k] + rects[k].size and offsets[k] < offsets[i] + rects[i].size:
                raise OverlapError(
                    f"{name[k]} and {name[i]} overlap at time {now}: they lie at "
                    f"{offsets[k]} and {offsets[i]}, with {rects[k].size} and {rects[i].size} bytes"
                )
        alive.insert(at, (offsets[i], i))


def touches(rects: Sequence[Rect]) -> int:
    """Returns the number of pairs of a rectangle and a section of time in which it is alive.

    A section is the period between two neighbouring times at which rectangles begin or end. The
    tables of the branch and bound search (`Items`) have about as many entries.
    """
    kept = [r for r in rects if r.size]
    times = sorted({t for r in kept for t in (r.lower, r.upper)})
    section = {t: s for s, t in enumerate(times)}
    return sum(section[r.upper] - section[r.lower] for r in kept)


def to_items(rects: Sequence[Rect]) -> tuple[Items, list[int]]:
    """Returns the rectangles as arrays for the search, and the index in `rects` of each item.

    An item is a rectangle of more than 0 bytes. The arrays count time in sections: a section is the
    period between two neighbouring times at which rectangles begin or end.
    """
    kept = [i for i, r in enumerate(rects) if r.size]
    times = sorted({t for i in kept for t in (rects[i].lower, rects[i].upper)})
    section = {t: s for s, t in enumerate(times)}
    shape = {
        i: (
            section[r.lower],
            section[r.upper],
            r.size,
            r.align,
            NOWHERE if r.fixed is None else r.fixed,
        )
        for i, r in ((i, rects[i]) for i in kept)
    }
    kept.sort(key=lambda i: shape[i])
    lower, upper, size, align, fixed = (
        np.array([shape[i] for i in kept], dtype=np.int64).reshape(-1, 5).T.copy()
    )
    sections = max(len(times) - 1, 0)
    cover: list[list[int]] = [[] for _ in range(sections)]
    for b in range(len(kept)):
        for s in range(lower[b], upper[b]):
            cover[s].append(b)
    twins = [a == b for a, b in pairwise(shape[i] for i in kept)]
    ends = np.maximum.accumulate(upper) if len(kept) else upper
    return Items(
        lower=lower,
        upper=upper,
        size=size,
        align=align,
        fixed=fixed,
        obstacles=np.flatnonzero(fixed != NOWHERE),
        first=np.searchsorted(lower, np.arange(sections + 1)),
        reaching=np.searchsorted(ends, np.arange(sections + 1), side="right"),
        cover_start=np.cumsum([0, *map(len, cover)]),
        cover=np.array([b for c in cover for b in c], dtype=np.int64),
        twin=np.array(
            [NOWHERE, *(b if t else NOWHERE for b, t in enumerate(twins))][: len(kept)],
            dtype=np.int64,
        ),
        key=random_words(sections + len(kept)),
    ), kept
