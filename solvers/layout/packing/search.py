"""Branch and bound over skylines: finds a packing within a capacity, or proves that there is none.

The scheme is MiniMalloc's (Moffitt, ASPLOS 2023). It builds packings from the bottom up, in which
every item (a rectangle) rests on another item or on address 0. It computes a lower bound on the
height in every section of time, and solves parts that share no time separately. This search differs
from MiniMalloc's in three ways:

1. It branches on the next item in the section of time with the fewest choices (`branching.py`).
   MiniMalloc branches on all buffers by offset.
2. It remembers partial packings that failed, by a hash of 64 bits, in a table of limited size.
3. A failure names the sections of time whose heights prove the failure. The search goes back past
   all choices that changed none of these sections (conflict-directed backjumping, Prosser 1993).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from roam.solvers.jit import compiled
from roam.solvers.layout.packing.branching import (
    choose_section,
    explain_choices,
    explain_floors,
    list_choices,
    state_key,
    waste_to,
)
from roam.solvers.layout.packing.skyline import (
    NOWHERE,
    Ints,
    Items,
    Scratch,
    Skyline,
    empty_skyline,
    marked,
    place,
    raise_floor,
    undo,
    waste,
)
from roam.solvers.zobrist import Words

DOES_NOT_FIT, FITS, UNKNOWN = 0, 1, 2
# columns of the table of frames, the stack of the search; a frame is a node on the search's path
(
    LO,  # first section of time that the frame packs
    HI,  # section after the last section of time that the frame packs
    NEXT_PART,  # index of the part to pack after the sections of the frame; -1: no part is left
    PARENT,  # index of the frame to which the search returns after a failure; -1: no such frame
    SECTION,  # section of time at which the frame branches
    WASTE,  # address up to which the frame's last choice wastes space; 0: space may not be wasted
    AT,  # row of the frame's first untried choice in the table of choices
    END,  # row after the frame's last choice in the table of choices
    TAKEN,  # choice that the frame took last: an item, NOTHING or WASTED
    TRAIL,  # length of the trail (old values of the skyline) when the frame began
    PARTS,  # length of the list of parts still to pack when the frame began
) = range(11)
NOTHING, WASTED = -2, -1  # values in column TAKEN: no choice was taken yet; space was wasted


@compiled
def search(
    items: Items,
    capacity: int,
    rank: Ints,
    node_limit: int,
    failed: Words,
    reasons: Words,
    offsets: Ints,
) -> tuple[int, int]:
    """Searches for a packing within `capacity`.

    Args:
        items: the items to pack.
        capacity: the bytes that the packing must keep within.
        rank: by item, its rank; items of low rank are tried first.
        node_limit: limit on the nodes of the search tree, after which the search returns UNKNOWN.
        failed: a hash table of failed states, filled in by the search; its length is a power of
            two. A state is the capacity, the floors of sections and the items in them that are not
            placed. A later search for the same items may use the table again.
        reasons: by row of `failed`, the set of sections of time whose heights prove the failure.
        offsets: by item, its offset in bytes; filled in if a packing is found.

    Returns:
        FITS, DOES_NOT_FIT (proven) or UNKNOWN (the node limit is reached); and the number of nodes
        of the search tree.
    """
    sections, n = len(items.first) - 1, len(items.lower)
    sky = empty_skyline(items)
    most = 4 * (sections + n)  # limit on the entries that one choice adds to the trail
    trail = np.empty((8 * most, 2), np.int64)
    frames = np.zeros((n + 1, 11), np.int64)
    keys = np.zeros((n + 1, 1), np.uint64)
    why = np.zeros((n + 1, (sections + 63) // 64), np.uint64)
    parts = np.empty((n + 1, 4), np.int64)
    choices = np.empty((16 * n, 2), np.int64)
    scratch = Scratch(np.zeros(max(n, sections), np.int64), np.zeros(why.shape[1], np.uint64))
    words = scratch.words
    mask = np.uint64(len(failed) - 1)
    waiting = depth = nodes = 0
    lo, hi, next_part, parent = 0, sections, -1, -1
    top, fits = raise_floor(items, sky, capacity, 0, sections, trail, 0, scratch)
    while fits:
        start, reach = _first_part(items, sky, lo, hi)
        if start == reach:
            if next_part < 0:
                offsets[:] = sky.offset
                return FITS, nodes
            part = parts[next_part]
            lo, hi, parent, next_part = part[0], part[1], part[2], part[3]
            continue
        if reach < hi:
            parts = _grown(parts, waiting + 1)
            parts[waiting, 0], parts[waiting, 1] = reach, hi
            parts[waiting, 2], parts[waiting, 3] = parent, next_part
            next_part = waiting
            waiting += 1
        lo, hi = start, reach
        key = state_key(items, sky, capacity, lo, hi)
        words[:] = 0
        if failed[key & mask] == key:
            words[:] = reasons[key & mask]
            explain_floors(items, sky, words)
        else:
            if nodes == node_limit:
                return UNKNOWN, nodes
            nodes += 1
            frames = _grown(frames, depth + 1)
            keys, why = _grown(keys, depth + 1), _grown(why, depth + 1)
            s, left, right = choose_section(items, sky, capacity, lo, hi, scratch.stack)
            wasted = waste_to(items, sky, s)
            at = frames[depth - 1, END] if depth else 0
            choices = _grown(choices, at + n)
            f = frames[depth]
            f[LO], f[HI], f[NEXT_PART], f[PARENT], f[SECTION] = lo, hi, next_part, parent, s
            f[WASTE] = wasted if wasted + sky.load[s] <= capacity else 0
            f[AT], f[END] = at, list_choices(items, sky, s, left, right, rank, choices, at)
            f[TAKEN], f[TRAIL], f[PARTS] = NOTHING, top, waiting
            keys[depth, 0] = key
            why[depth] = 0
            parent = depth
        while True:  # takes the next choice of frame `parent`; if none is left, of an earlier frame
            if parent < 0:
                return DOES_NOT_FIT, nodes
            f, reason = frames[parent], why[parent]
            top = undo(items, sky, trail, top, f[TRAIL])
            trail = _grown(trail, top + most)
            lo, hi, next_part = f[LO], f[HI], f[NEXT_PART]
            waiting, depth = f[PARTS], parent + 1
            to_blame = _touches(items, f, words)
            if to_blame:
                reason |= words
            else:  # the failure does not depend on the choice taken: all other choices fail too
                reason[:] = words
            words[:] = 0
            if to_blame and f[AT] < f[END]:
                b = choices[f[AT], 0]
                f[AT] += 1
                f[TAKEN] = b
                top = place(items, sky, b, trail, top)
                left, right = items.lower[b], items.upper[b]
            elif to_blame and f[WASTE]:
                left, right = f[SECTION], f[SECTION] + 1
                top = waste(sky, left, f[WASTE], trail, top)
                f[WASTE] = 0
                f[TAKEN] = WASTED
            else:
                if to_blame:
                    explain_choices(items, sky, capacity, f[SECTION], reason)
                failed[keys[parent, 0] & mask] = keys[parent, 0]
                reasons[keys[parent, 0] & mask] = reason
                words[:] = reason
                parent = f[PARENT]
                continue
            top, fits = raise_floor(items, sky, capacity, left, right, trail, top, scratch)
            if fits:
                break
    return DOES_NOT_FIT, nodes


@compiled
def _first_part(items: Items, sky: Skyline, lo: int, hi: int) -> tuple[int, int]:
    """Returns (start, end) of the first part of the sections of time [lo, hi).

    A part is a range of sections such that every item that is not placed lies inside or outside of
    the range. Returns (hi, hi) if all items are placed.
    """
    b, end = items.first[lo], items.first[hi]
    while b < end and sky.offset[b] != NOWHERE:
        b += 1
    if b == end:
        return hi, hi
    start, reach = items.lower[b], items.upper[b]
    while b < end and items.lower[b] < reach:
        if sky.offset[b] == NOWHERE:
            reach = max(reach, items.upper[b])
        b += 1
    return start, reach


@compiled
def _touches(items: Items, frame: Ints, words: Words) -> bool:
    """Returns whether the choice of a frame raised the height of one of the sections of time given.

    A frame is a node on the path of the search, and its choice an item that it placed, or waste.
    `words` has a bit for each section of time, which is 1 for the sections given. Returns True if
    the frame has taken no choice yet.
    """
    taken = frame[TAKEN]
    if taken == NOTHING:
        return True
    if taken == WASTED:
        return marked(words, frame[SECTION])
    found = False
    for s in range(items.lower[taken], items.upper[taken]):
        found = found or marked(words, s)
    return found


@compiled
def _grown(table: NDArray, wanted: int) -> NDArray:  # type: ignore[type-arg]
    """Returns `table`, or a larger copy of it if it has fewer than `wanted` rows."""
    if wanted <= len(table):
        return table
    larger = np.zeros((2 * wanted, table.shape[1]), table.dtype)
    larger[: len(table)] = table
    return larger
