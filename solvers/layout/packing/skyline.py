"""The skyline of a partial packing: placed items lie below it, all others go above.

Time is cut into sections, in each of which the same rectangles are alive:

    address
      ^          ____
      |     ____|    |        height   by section: the top of the placed rectangles
      |    |    |    |__      floor    by section: the lowest address of any remaining rectangle
      |____|____|____|__|_    lowest   by rectangle: the lowest address that it can have. Later
        s=0   1    2   3               rectangles lie higher: none goes below a placed one

All three only rise, and a trail stores their old values for `undo`. `raise_floor` prunes: in every
section it piles up the remaining rectangles, each no lower than its lowest address. If the pile
exceeds the capacity, no packing above this skyline fits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from roam.solvers.jit import compiled

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
NOWHERE = -1  # the offset of an item that is not placed, or the fixed offset of a free item
NEVER = 2**62  # an address that stands for "nowhere"


class Items(NamedTuple):
    """The rectangles, in the order of their first section: sections [lower, upper), bytes."""

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
    twin: Ints  # an item of the same sections and size that has to be placed before this one
    key: Words  # random words of the sections, then of the items, to hash states


class Skyline(NamedTuple):
    height: Ints
    floor: Ints
    load: Ints  # by section, bytes of the items that are not placed
    offset: Ints
    lowest: Ints


class Scratch(NamedTuple):
    stack: Ints  # working memory of one function: items, or counts by section
    words: Words  # the set of sections that prove the last failure


@compiled
def lift(items: Items, b: int, address: int) -> int:
    """Returns the lowest offset of an item from `address` on, around fixed items, or NEVER."""
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
    """Marks the section whose height keeps an item from lying lower."""
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
    """Updates floors and lowest addresses after sections [left, right) have risen to one height.

    Returns the trail's new length, and whether the remaining items may still fit. If they cannot,
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
    """Returns the lowest address of any item left in section s, NEVER if the pile is too high.

    Piling up items is scheduling one machine with release dates: in the order of their lowest
    addresses the pile is lowest. The items above the last gap of the pile prove its height.
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
    """Restores the skyline to its state when the trail had length `down_to`."""
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
    """Places an item at its lowest address. Returns the trail's new length."""
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
    """Gives up the space of section s below `height`. Returns the trail's new length."""
    sections, n = len(sky.floor), len(sky.offset)
    trail[top, 0] = sections + n + s
    trail[top, 1] = sky.height[s]
    trail[top + 1, 0] = s
    trail[top + 1, 1] = sky.floor[s]
    sky.height[s] = height
    sky.floor[s] = height
    return top + 2
