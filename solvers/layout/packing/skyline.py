"""The skyline of a partial packing: what is placed lies below it, everything else goes above.

Time is cut into sections, in each of which the same rectangles are alive:

    address
      ^          ____
      |     ____|    |        height   the top of what is placed, section by section
      |    |    |    |__      floor    the lowest address that anything left can have there
      |____|____|____|__|_    lowest   the lowest address that a rectangle can have: what is placed
        s=0   1    2   3               later lies higher, so nothing slips below it any more

All three only rise; a trail remembers what they were. `raise_floor` is the inference: in every
section the rectangles left are put on top of one another, each no lower than it can be; if that
passes the capacity, nothing above this skyline fits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from roam.solvers.jit import compiled

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
NOWHERE = -1  # the offset of what is not placed, the fixed offset of what may lie anywhere
NEVER = 2**62


class Items(NamedTuple):
    """Rectangles in the order of their first section; sections [lower, upper), sizes in bytes."""

    lower: Ints
    upper: Ints
    size: Ints
    align: Ints
    fixed: Ints
    obstacles: Ints  # the items that have a fixed offset
    first: Ints  # of section s: the first item with lower >= s
    reaching: Ints  # of section s: the first item with upper > s
    cover_start: Ints  # cover[cover_start[s] : cover_start[s + 1]] are the items alive in s
    cover: Ints
    twin: Ints  # another item of the same shape, which is placed earlier
    key: Words  # random words, of sections and then of items, to tell states apart


class Skyline(NamedTuple):
    height: Ints
    floor: Ints
    load: Ints  # bytes of what is not placed, by section
    offset: Ints
    lowest: Ints


class Scratch(NamedTuple):
    stack: Ints  # items, or counts by section: what one function needs for itself
    words: Words  # a set of sections: why the last skyline failed


@compiled
def lift(items: Items, b: int, address: int) -> int:
    """The lowest offset of an item at or above an address, around what is fixed; or NEVER."""
    if items.fixed[b] != NOWHERE:
        return items.fixed[b] if address <= items.fixed[b] else NEVER
    align = items.align[b]
    o = -(-address // align) * align
    moved = len(items.obstacles) > 0
    while moved:
        moved = False
        for f in items.obstacles:
            top = items.fixed[f] + items.size[f]
            if (
                o < top
                and items.fixed[f] < o + items.size[b]
                and items.lower[f] < items.upper[b]
                and items.lower[b] < items.upper[f]
            ):
                o = -(-top // align) * align
                moved = True
    return o


@compiled
def empty_skyline(items: Items) -> Skyline:
    sections, n = len(items.first) - 1, len(items.lower)
    load = np.zeros(sections, np.int64)
    for b in range(n):
        load[items.lower[b] : items.upper[b]] += items.size[b]
    return Skyline(
        np.zeros(sections, np.int64),
        np.zeros(sections, np.int64),
        load,
        np.full(n, NOWHERE, np.int64),
        np.zeros(n, np.int64),
    )


@compiled
def marked(words: Words, s: int) -> bool:
    return words[s >> 6] >> np.uint64(s & 63) & np.uint64(1) != 0


@compiled
def mark(words: Words, s: int) -> None:
    words[s >> 6] |= np.uint64(1) << np.uint64(s & 63)


@compiled
def blame(items: Items, sky: Skyline, b: int, words: Words) -> None:
    """Marks the section whose height makes an item lie no lower than it does."""
    best = items.lower[b]
    for s in range(items.lower[b] + 1, items.upper[b]):
        if sky.height[s] > sky.height[best]:
            best = s
    mark(words, best)


@compiled
def raise_floor(
    items: Items, sky: Skyline, capacity: int, left: int, right: int, trail: Ints, top: int,
    scratch: Scratch,
) -> tuple[int, bool]:  # fmt: skip
    """Sections [left, right) have all risen to one height: what follows from that.

    Returns the trail's new top, and whether everything may still fit; where it cannot,
    `scratch.words` marks the sections whose heights prove it.
    """
    height = sky.height[left]
    low, high = left, right
    for b in range(items.reaching[left], items.first[right]):
        if sky.offset[b] != NOWHERE or items.upper[b] <= left or sky.lowest[b] >= height > 0:
            continue
        o = lift(items, b, height)
        if o + items.size[b] > capacity:
            mark(scratch.words, max(left, items.lower[b]))
            return top, False
        if o > sky.lowest[b]:
            trail[top, 0] = len(sky.floor) + b
            trail[top, 1] = sky.lowest[b]
            top += 1
            sky.lowest[b] = o
            low = min(low, items.lower[b])
            high = max(high, items.upper[b])
    for s in range(low, high):
        bottom = _pile(items, sky, capacity, s, scratch)
        if bottom == NEVER:
            return top, False
        if bottom > sky.floor[s]:
            trail[top, 0] = s
            trail[top, 1] = sky.floor[s]
            top += 1
            sky.floor[s] = bottom
    return top, True


@compiled
def _pile(items: Items, sky: Skyline, capacity: int, s: int, scratch: Scratch) -> int:
    """The lowest address of anything left in section s; NEVER if they cannot all be piled up.

    One machine with release dates: in the order of their lowest addresses they end soonest. What
    lies above the last gap of the pile is the proof.
    """
    stack = scratch.stack
    k = 0
    for i in range(items.cover_start[s], items.cover_start[s + 1]):
        b = items.cover[i]
        if sky.offset[b] == NOWHERE:
            j = k
            while j > 0 and sky.lowest[stack[j - 1]] > sky.lowest[b]:
                stack[j] = stack[j - 1]
                j -= 1
            stack[j] = b
            k += 1
    end = np.int64(0)
    base = 0
    for j in range(k):
        b = stack[j]
        if sky.lowest[b] > end:
            end = sky.lowest[b]
            base = j
        end += items.size[b]
        if end > capacity:
            for i in range(base, j + 1):
                blame(items, sky, stack[i], scratch.words)
            return NEVER
    return sky.lowest[stack[0]] if k else 0


@compiled
def undo(items: Items, sky: Skyline, trail: Ints, top: int, down_to: int) -> int:
    """Takes the skyline back to where the trail was `down_to` long."""
    sections, n = len(sky.floor), len(sky.offset)
    while top > down_to:
        top -= 1
        where, old = trail[top, 0], trail[top, 1]
        if where < sections:
            sky.floor[where] = old
        elif where < sections + n:
            sky.lowest[where - sections] = old
        elif where < 2 * sections + n:
            sky.height[where - sections - n] = old
        else:
            b = where - 2 * sections - n
            sky.offset[b] = NOWHERE
            for s in range(items.lower[b], items.upper[b]):
                sky.load[s] += items.size[b]
    return top


@compiled
def place(items: Items, sky: Skyline, b: int, trail: Ints, top: int) -> int:
    """Puts an item where it is lowest. The trail's new top."""
    sections, n = len(sky.floor), len(sky.offset)
    sky.offset[b] = sky.lowest[b]
    trail[top, 0] = 2 * sections + n + b
    top += 1
    for s in range(items.lower[b], items.upper[b]):
        sky.load[s] -= items.size[b]
        top = waste(sky, s, sky.lowest[b] + items.size[b], trail, top)
    return top


@compiled
def waste(sky: Skyline, s: int, height: int, trail: Ints, top: int) -> int:
    """Nothing more goes into section s below that height. The trail's new top."""
    sections, n = len(sky.floor), len(sky.offset)
    trail[top, 0] = sections + n + s
    trail[top, 1] = sky.height[s]
    trail[top + 1, 0] = s
    trail[top + 1, 1] = sky.floor[s]
    sky.height[s] = height
    sky.floor[s] = height
    return top + 2
