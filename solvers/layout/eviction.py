"""Chooses buffers that leave the arena, so that the waste of its blocks does not raise the peak.

    block  [  a  ]          ┐
           [  b  |  empty   ├─ held to the end of c: while `op` runs, the block wastes the bytes in
           [     c          ┘  which no buffer is alive
                    ^ op

`evict` looks at the time at which a layout exceeds its limit most, and at the block that wastes
most at that time. There are three ways to lower the waste of that block at that time:

    all buffers leave that are alive then         so the block is not held then
    all buffers leave that are not alive then     so the block is as small as its live ones need
    all buffers leave that reach above some       so the block becomes so much lower that its
    height                                        waste fits

`evict` chooses the way on which the fewest buffers leave. A buffer outside of the arena takes only
its own size while it is alive. So in the end, with no buffer in the arena, nothing is wasted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from roam.core.lifetime import Slot
from roam.core.plan import Block
from roam.solvers.work import Work

# units of work to compute the waste of one block: A_CURVE, and AN_ITEM per buffer and per time
A_CURVE, AN_ITEM = 20_000, 3

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
    """Returns the buffers that stay in the arena, with their addresses.

    With these buffers in the arena, live and wasted bytes together are within `limit` at every
    time. No buffer stays if the live bytes alone exceed the limit.

    Args:
        placed: all buffers of the arena, with their addresses.
        sections: returns the blocks that the placed buffers need.
        live: the live curve of the step, in bytes.
        limit: the most bytes that may be alive or wasted at one time.
        work: is spent, but does not limit the search.
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
    """The bytes that blocks waste at each time.

    Attributes:
        blocks: the blocks of some placed buffers.
        room: by time, the bytes that may be wasted.
        spent: units of work that it took to compute the waste.
        total: by time, the bytes that all blocks waste.
    """

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
        """Returns a mask of buffers that leave the arena, so that all blocks waste less.

        Lowers the waste of each block at most once. So at some time, more bytes than `room` allows
        may still be wasted.
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
        """Returns a mask of the buffers that leave a block so that it wastes less at time t.

        The block then wastes `need` bytes less, or nothing if it wastes less than `need`. Either
        the buffers alive at t leave, or the buffers not alive at t, or the buffers that reach into
        the top `need` bytes of the block. Of these ways, takes that on which the fewest leave.
        """
        mine = self.inside(block)
        alive = mine & (self.lower <= t) & (t < self.upper)
        high = mine & (self.top > block.offset + block.size - need)
        choices = [alive, mine & ~alive] + ([] if (high & alive).any() else [high])
        sizes = self.top - self.bottom
        return min(
            (c for c in choices if c.any()), key=lambda c: (int(c.sum()), int(sizes[c].sum()))
        )
