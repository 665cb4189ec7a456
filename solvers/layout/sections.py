"""Cuts an arena into sections: the blocks that placed buffers need, each held while one is alive.

    address   [--a--)   [----c----)         one piece of addresses, two sections: one of a and b,
                 [-b-)                      one of c
              ^      ^  ^         ^  time

No buffer crosses from one piece of addresses into another. A section becomes one block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from roam.core.lifetime import Slot
from roam.core.plan import Block

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Placed = tuple[Slot, int]  # a slot and its address


class Table(NamedTuple):
    """Placed buffers as arrays. Buffer k lies at [bottom[k], top[k]) in times [lower, upper)."""

    lower: Ints
    upper: Ints
    bottom: Ints
    top: Ints
    align: Ints

    def only(self, kept: Mask | Ints) -> Table:
        """Returns the table of some of the buffers: of a mask, or of indices."""
        return Table(*(column[kept] for column in self))


def table_of(placed: Sequence[Placed]) -> Table:
    rows = [(s.lower, s.upper, offset, offset + s.size, s.align) for s, offset in placed]
    return Table(*np.array(rows, np.int64).reshape(-1, len(Table._fields)).T)


class Sections(NamedTuple):
    """Sections, ordered by piece and then by time.

    Attributes:
        piece: by section, the index of the piece of addresses in which it lies.
        lower: by section, the first time at which one of its buffers is alive.
        upper: by section, the time after the last one at which one of its buffers is alive.
        offset: by section, its lowest address.
        size: by section, its bytes.
        of: by buffer, its section.
    """

    piece: Ints
    lower: Ints
    upper: Ints
    offset: Ints
    size: Ints
    of: Ints

    def blocks(self) -> tuple[Block, ...]:
        columns = self.offset, self.size, self.lower, self.upper
        return tuple(Block(*row) for row in zip(*(c.tolist() for c in columns), strict=True))


def cut_into_sections(table: Table, edges: Sequence[int]) -> Sections:
    """Returns the sections of placed buffers.

    Args:
        table: the buffers.
        edges: the lowest address of each piece, in ascending order; the last piece has no end.
    """
    if not len(table.lower):
        return Sections(*np.zeros((len(Sections._fields), 0), np.int64))
    pieces = np.searchsorted(np.array(edges, np.int64), table.bottom, side="right") - 1
    order = np.lexsort((table.lower, pieces))
    _, upper, bottom, top, align = sorted_table = table.only(order)
    piece = pieces[order]
    # one axis of time on which the pieces lie one after another, so that no section spans two
    later = piece * (int(table.upper.max()) + 1)
    end = np.maximum.accumulate(upper + later)
    begins = np.append(True, sorted_table.lower[1:] + later[1:] >= end[:-1])
    first = np.flatnonzero(begins)
    coarsest = np.maximum.reduceat(align, first)
    offset = np.minimum.reduceat(bottom, first) // coarsest * coarsest
    of = np.empty(len(order), np.int64)
    of[order] = np.cumsum(begins) - 1
    return Sections(
        piece=piece[first],
        lower=sorted_table.lower[first],
        upper=np.maximum.reduceat(upper, first),
        offset=offset,
        size=np.maximum.reduceat(top, first) - offset,
        of=of,
    )
