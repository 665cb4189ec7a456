"""Chooses buffers that leave the arena, so that the waste of its blocks does not raise the peak.

    block  [  a  ]          ┐
           [  b  |  empty   ├─ held to the end of c: while `op` runs, the block wastes what it
           [     c          ┘  holds and does not need
                    ^ op

At the worst time of a layout, look at the block that wastes most. There are three ways to lower its
waste. The buffers in it that are alive at that time leave, and the block ends earlier. Or the
buffers that are not alive leave, and the block shrinks. Or only those leave that reach above the
height for which that time has room. The way with the fewest leaving buffers is taken. A buffer
outside takes its own size while it lives, so in the end, with no buffer inside, nothing is wasted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from roam.core.lifetime import Slot
from roam.core.plan import Block
from roam.solvers.work import Work

A_CURVE, AN_ITEM = 20_000, 3  # units of the waste of a block, for a buffer or a moment; measured

Placed = tuple[Slot, int]  # a slot and its address
Curve = NDArray[np.int64]
Mask = NDArray[np.bool_]


def evict(
    placed: Sequence[Placed],
    sections: Callable[[Sequence[Placed]], tuple[Block, ...]],
    live: Sequence[int],
    limit: int,
    work: Work,
) -> list[Placed]:
    """Returns those that stay: live bytes and waste are within `limit` together at every moment.

    Nothing stays if the live bytes alone are above the limit.

    Args:
        sections: returns the blocks of what is placed.
        live: bytes alive at every moment, with nothing wasted.
        work: what this takes is spent; it is not asked.
    """
    staying = list(placed)
    if max(live, default=0) > limit:
        return []
    room = limit - np.array(live, np.int64)
    while staying:
        waste = _Waste(staying, sections(staying), room)
        leaving = waste.leaving()
        work.spend(waste.spent)
        if not leaving.any():
            break
        staying = [p for p, leaves in zip(staying, leaving, strict=True) if not leaves]
    return staying


class _Waste:
    """What the blocks of some placed buffers waste, moment by moment. spent: units of work."""

    def __init__(self, placed: Sequence[Placed], blocks: Sequence[Block], room: Curve) -> None:
        self.blocks, self.room, self.spent = blocks, room, 0
        table = np.array([(s.lower, s.upper, o, o + s.size) for s, o in placed], np.int64)
        self.lower, self.upper, self.bottom, self.top = table.T
        self.total = sum((self.curve(b) for b in blocks), np.zeros(len(room), np.int64))

    def inside(self, block: Block) -> Mask:
        """Returns a mask of the placed buffers that lie in a block."""
        then = (block.lower <= self.lower) & (self.lower < block.upper)
        there = (block.offset <= self.bottom) & (self.bottom < block.offset + block.size)
        return then & there

    def curve(self, block: Block) -> Curve:
        """Returns the bytes that a block wastes at each time."""
        self.spent += A_CURVE + AN_ITEM * (len(self.lower) + len(self.room))
        mine = self.inside(block)
        change = np.zeros(len(self.room) + 1, np.int64)
        change[block.lower] += block.size
        change[block.upper] -= block.size
        sizes = (self.top - self.bottom)[mine]
        np.subtract.at(change, self.lower[mine], sizes)
        np.add.at(change, self.upper[mine], sizes)
        return change.cumsum()[:-1]

    def leaving(self) -> Mask:
        """Returns a mask of the buffers that leave, so that all times have room.

        Looks at each block once.
        """
        leaving = np.zeros(len(self.lower), bool)
        waiting, total = list(self.blocks), self.total
        while True:
            t = int(np.argmax(total - self.room))
            need = int(total[t] - self.room[t])
            held = [b for b in waiting if b.lower <= t < b.upper]
            if need <= 0 or not held:
                return leaving
            worst = max(held, key=lambda b: int(self.curve(b)[t]))
            leaving |= self.fewest(worst, t, need)
            waiting.remove(worst)
            total = total - self.curve(worst)

    def fewest(self, block: Block, t: int, need: int) -> Mask:
        """Returns the fewest buffers that must leave for a block to waste `need` bytes less at t.

        If that much cannot be saved, the block wastes nothing at t.
        """
        mine = self.inside(block)
        alive = mine & (self.lower <= t) & (t < self.upper)
        high = mine & (self.top > block.offset + block.size - need)
        choices = [alive, mine & ~alive] + ([] if (high & alive).any() else [high])
        sizes = self.top - self.bottom
        return min(
            (c for c in choices if c.any()), key=lambda c: (int(c.sum()), int(sizes[c].sum()))
        )
