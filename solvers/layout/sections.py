"""Cuts an arena into sections. A section becomes one block, held while one of its buffers is alive.

    address   [--a--)   [----c----)         one piece of addresses with two sections: one section
                 [-b-)                      contains the buffers a and b, the other contains c
              ^      ^  ^         ^  time

The addresses of an arena are cut into pieces, such that no buffer lies in two pieces.
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
Placed = tuple[Slot, int]  # (slot: a buffer, or buffers written over one another; its address)


class Table(NamedTuple):
    """Slots and their addresses, as arrays.

    A slot is one buffer, or a chain of buffers that are written over one another. Slot k lies at
    addresses [bottom[k], top[k]) during times [lower[k], upper[k]). Its address has to be a
    multiple of align[k] bytes.
    """

    lower: Ints
    upper: Ints
    bottom: Ints
    top: Ints
    align: Ints

    def only(self, kept: Mask | Ints) -> Table:
        """Returns a table of the slots that `kept` selects, by a mask or by their indices."""
        return Table(*(column[kept] for column in self))


def table_of(placed: Sequence[Placed]) -> Table:
    rows = [(s.lower, s.upper, offset, offset + s.size, s.align) for s, offset in placed]
    return Table(*np.array(rows, np.int64).reshape(-1, len(Table._fields)).T)


class Sections(NamedTuple):
    """The sections of an arena, ordered by piece of addresses and then by time.

    A section becomes one block of memory.

    Attributes:
        piece: by section, the index of the piece of addresses in which it lies.
        lower: by section, the first time at which one of its slots is alive.
        upper: by section, the time after the last time at which one of its slots is alive.
        offset: by section, its lowest address: that of its lowest slot, rounded down to a multiple
            of the largest alignment among its slots.
        size: by section, the bytes from `offset` to the end of its highest slot.
        of: by entry of the table of placed slots, the index of the slot's section.
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
    """Returns the sections of placed slots. A section becomes one block of memory.

    Args:
        table: the placed slots.
        edges: the lowest address of each piece of addresses, in ascending order. A piece ends where
            the next piece begins; the last piece has no upper end.
    """
    if not len(table.lower):
        return Sections(*np.zeros((len(Sections._fields), 0), np.int64))
    pieces = np.searchsorted(np.array(edges, np.int64), table.bottom, side="right") - 1
    order = np.lexsort((table.lower, pieces))
    _, upper, bottom, top, align = sorted_table = table.only(order)
    piece = pieces[order]
    # shift times so that pieces of addresses follow one another: no section spans two pieces
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
