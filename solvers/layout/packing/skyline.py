"""The skyline of a partial packing: placed items lie below it, all other items will lie above it.

An item is a rectangle: a buffer with its lifetime and its size. Time is cut into sections, in each
of which the same items are alive:

    address
      ^          ____
      |     ____|    |        height   by section: the top of the placed items
      |    |    |    |__      floor    by section: the lowest address that an item of it can have,
      |____|____|____|__|_             among the items that are not placed
        s=0   1    2   3      lowest   by item: the lowest address that it can have above the placed
                                       items

Placing an item can only raise heights, floors and lowest addresses. A trail stores their old values
for `undo`. `raise_floor` detects failures: in every section that a change may concern, it piles up
the items that are not placed, each no lower than its lowest address. If the pile exceeds the
capacity, the partial packing cannot be completed within the capacity.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from roam.solvers.jit import compiled
from roam.solvers.zobrist import Words

Ints = NDArray[np.int64]
NOWHERE = -1  # value of an item's offset if it is not placed, or if it has no fixed offset
NEVER = 2**62  # value in place of an address, if no address is possible


class Items(NamedTuple):
    """The items (rectangles to place), sorted by the first section of time that each covers.

    A section is a period in which the same items are alive. An item covers the sections [lower,
    upper). Sizes, alignments and fixed offsets are in bytes; if an item has no fixed offset, its
    entry of `fixed` is NOWHERE.
    """

    lower: Ints
    upper: Ints
    size: Ints
    align: Ints
    fixed: Ints
    obstacles: Ints  # the items that have a fixed offset
    first: Ints  # by section s: the index of the first item with lower >= s
    reaching: Ints  # by section s: the index of the first item with upper > s
    cover_start: Ints  # cover[cover_start[s] : cover_start[s + 1]] are the items alive in section s
    cover: Ints
    twin: Ints  # by item: an equal item to be placed before this item; NOWHERE if there is none
    key: Words  # random 64-bit numbers to hash states: one for each section, then one for each item


class Skyline(NamedTuple):
    """The state of a partial packing, in bytes.

    A section is a period in which the same items are alive.

    Attributes:
        height: by section, the top of its placed items.
        floor: by section, the lowest address at which any of its items that are not placed can lie.
        load: by section, the bytes of its items that are not placed.
        offset: by item, its offset if it is placed, else NOWHERE.
        lowest: by item, the lowest address that it can have above the placed items.
    """

    height: Ints
    floor: Ints
    load: Ints
    offset: Ints
    lowest: Ints


class Scratch(NamedTuple):
    stack: Ints  # working memory of `_pile` (items) and of `choose_section` (counts by section)
    words: Words  # set of the sections whose heights prove the last failure: one bit for each


@compiled
def lift(items: Items, b: int, address: int) -> int:
    """Returns the lowest aligned offset, from `address` on, at which `b` overlaps no fixed item.

    If item `b` has a fixed offset, returns that offset, or NEVER if it is below `address`.
    """
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
    """Adds to the set `words` the highest of the sections that item `b` covers.

    This section, whose placed items reach up highest, keeps item `b` from lying lower.
    """
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

    The lowest address of an item is the lowest address that it can have above the placed items. The
    floor of a section is the least of the lowest addresses of its items that are not placed.

    Args:
        items: the items.
        sky: the skyline.
        capacity: the height that the packing must keep within, in bytes.
        left: the first section that has risen.
        right: the section after the last one that has risen.
        trail: old values of the skyline, which `undo` restores; new entries are added.
        top: the length of the trail.
        scratch: working memory. If the items do not fit, the sections whose heights prove that are
            added to the set `scratch.words`.

    Returns:
        The new length of the trail, and whether the items that are not placed may still fit. If
        they cannot, the skyline is updated only in part, and has to be restored by `undo`.
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
    """Returns the lowest address at which an item of section s that is not placed can lie.

    Piles up the items that are not placed, each no lower than its lowest address. The pile is
    lowest if the items are in the order of these addresses, as jobs with release dates on one
    machine. Returns NEVER if the pile exceeds the capacity. The items above the pile's last gap
    prove that: for each of these items, the section that keeps the item from lying lower is added
    to the set `scratch.words`. Returns 0 if all items of the section are placed.
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
    """Restores the skyline as it was when the trail had length `down_to`, and returns that length.

    The trail is the old values of the skyline.
    """
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
    """Places item `b` at its lowest address, and raises the sections that it covers to its top.

    Returns the new length of the trail (old values of the skyline, for `undo`). The caller updates
    the other floors and lowest addresses by `raise_floor`.
    """
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
    """Raises the height and the floor of section s to `height`: no other item can lie below it.

    Returns the new length of the trail (old values of the skyline, for `undo`).
    """
    sections, n = len(sky.floor), len(sky.offset)
    trail[top, 0] = sections + n + s
    trail[top, 1] = sky.height[s]
    trail[top + 1, 0] = s
    trail[top + 1, 1] = sky.floor[s]
    sky.height[s] = height
    sky.floor[s] = height
    return top + 2
