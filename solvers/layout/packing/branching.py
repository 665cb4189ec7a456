"""Chooses the section of time at which the search branches, and the items that may lie there next.

An item is a rectangle to place. A section is a period in which the same items are alive. Its floor
is the lowest address that any item of the section can have, of those not placed yet.

         |         |         A niche is a row of sections with equal floors. The sections beside
    _____|   s     |____     it have higher floors: its walls. An item on the niche's floor is not
         |_________|         wider than the niche, since a wider item would rest on a wall. So there
                             is one choice for each item that fits and may be the next in section s.
                             The last choice is to waste space: no item lies on the floor of s.

Any packing can be changed, without getting higher, so that every item rests on another item or on
address 0, or is as near to resting as its alignment and the fixed items allow. Such a packing
agrees with one of these choices, so the search is complete. Whether a partial packing can be
completed depends only on its skyline (its top edge) and on the items that are not placed. The
search stores a hash of these two for partial packings that failed, in a table of limited size. It
branches at the section with the fewest choices.
"""

from __future__ import annotations

import numpy as np

from roam.solvers.jit import compiled
from roam.solvers.layout.packing.skyline import (
    NEVER,
    NOWHERE,
    Ints,
    Items,
    Skyline,
    blame,
    lift,
    mark,
    marked,
)
from roam.solvers.zobrist import Words


@compiled
def is_choice(items: Items, sky: Skyline, b: int, floor: int) -> bool:
    """Returns whether item `b` may be placed next at address `floor`.

    The item may if it is not placed yet and the lowest address that it can have above the placed
    items is `floor`. Of equal items, only the first that is not placed may be placed next, so that
    the search does not try all of them.
    """
    twin = items.twin[b]
    return (
        sky.offset[b] == NOWHERE
        and sky.lowest[b] == floor
        and (twin == NOWHERE or sky.offset[twin] != NOWHERE)
    )


@compiled
def choose_section(
    items: Items, sky: Skyline, capacity: int, lo: int, hi: int, count: Ints
) -> tuple[int, int, int]:
    """Finds the section of time with the fewest choices among all niches of the sections [lo, hi).

    The floor of a section is the lowest address that any of its items can have that are not placed.
    A niche is a row of sections with equal floors. The sections beside it, if any, have higher
    floors. A choice is an item that may be placed next. To waste the space on the floor, if that is
    possible, counts as half a choice. Of sections with equally many choices, returns the section
    with the lowest floor.

    Args:
        items: the items.
        sky: the skyline, which is the state of the partial packing.
        capacity: the height that the packing must keep within, in bytes.
        lo: the first section to look at.
        hi: the section after the last one to look at.
        count: working memory, by section.

    Returns:
        The section with the fewest choices, and left and right: its niche is the sections [left,
        right).
    """
    best, best_left, best_right, fewest = lo, lo, hi, np.inf
    left = lo
    while left < hi:
        floor = sky.floor[left]
        right = left + 1
        while right < hi and sky.floor[right] == floor:
            right += 1
        walled = left == lo or sky.floor[left - 1] > floor
        if walled and (right == hi or sky.floor[right] > floor):
            count[left:right] = 0
            for b in range(items.first[left], items.first[right]):
                if is_choice(items, sky, b, floor):
                    count[items.lower[b] : items.upper[b]] += 1
            for s in range(left, right):
                choices = count[s] + 0.25 * floor / capacity
                if floor + sky.load[s] < capacity:
                    choices += 0.5
                if choices < fewest:
                    best, best_left, best_right, fewest = s, left, right, choices
        left = right
    return best, best_left, best_right


@compiled
def list_choices(
    items: Items, sky: Skyline, s: int, left: int, right: int, rank: Ints, choices: Ints, at: int
) -> int:
    """Lists the items that may be placed next in section s, in the order in which to try them.

    The floor of a section is the lowest address that any of its items can have that are not placed.
    A niche is a row of sections with equal floors; its walls are the sections beside it, with
    higher floors. An item comes the sooner, the more of these hold: it fills the niche from wall to
    wall, its top is level with the left wall beside it, its top is level with the right wall beside
    it. Items for which equally many hold come by rank.

    Args:
        items: the items.
        sky: the skyline, which is the state of the partial packing.
        s: a section of the niche.
        left: the first section of the niche.
        right: the section after the niche.
        rank: by item, its rank; items of low rank are tried first.
        choices: the table to fill in. A row is (item, score); items of low score are tried first.
        at: the first row of `choices` to fill in.

    Returns:
        The index of the row after the last row that was filled in.
    """
    n = len(sky.offset)
    end = at
    for i in range(items.cover_start[s], items.cover_start[s + 1]):
        b = items.cover[i]
        if not is_choice(items, sky, b, sky.floor[s]):
            continue
        score = rank[b]
        top = sky.lowest[b] + items.size[b]
        at_left, at_right = items.lower[b] == left, items.upper[b] == right
        if at_left and left > 0 and sky.floor[left - 1] == top:
            score -= n
        if at_right and right < len(sky.floor) and sky.floor[right] == top:
            score -= n
        if at_left and at_right:
            score -= n
        j = end
        while j > at and choices[j - 1, 1] > score:
            choices[j] = choices[j - 1]
            j -= 1
        choices[j, 0] = b
        choices[j, 1] = score
        end += 1
    return end


@compiled
def waste_to(items: Items, sky: Skyline, s: int) -> int:
    """Returns the lowest address above the floor of section s at which an item of s might lie.

    The floor of a section is the lowest address that any of its items can have that are not placed.
    Section s has to lie in a niche: a row of sections with equal floors, beside which the floors
    are higher. An item above the floor of s rests on the top of another section that it covers, or
    on an item that is yet to be placed beside s. Returns NEVER if there is no such address.
    """
    best = NEVER
    for i in range(items.cover_start[s], items.cover_start[s + 1]):
        b = items.cover[i]
        if sky.offset[b] != NOWHERE:
            continue
        if sky.lowest[b] > sky.floor[s]:
            best = min(best, int(sky.lowest[b]))
            continue
        for c in range(items.reaching[items.lower[b]], items.first[items.upper[b]]):
            beside = s < items.lower[c] or items.upper[c] <= s
            if sky.offset[c] == NOWHERE and items.upper[c] > items.lower[b] and beside:
                best = min(best, lift(items, b, sky.lowest[c] + items.size[c]))
    return best


@compiled
def explain_choices(items: Items, sky: Skyline, capacity: int, s: int, words: Words) -> None:
    """Adds to the set `words` the sections whose heights rule out all choices but those tried.

    The height of a section is the top of its placed items. A choice is to place an item next in
    section s, or to waste the space on the floor of s. The search tries the items that
    `list_choices` returns, and to waste space if the items of s then still fit below `capacity`.
    """
    mark(words, s)
    left, right = s, s + 1  # [left, right): sections of the items that can lie on the floor of s
    for i in range(items.cover_start[s], items.cover_start[s + 1]):
        b = items.cover[i]
        if sky.offset[b] == NOWHERE:
            blame(items, sky, b, words)
            if sky.lowest[b] == sky.floor[s]:
                left, right = min(left, items.lower[b]), max(right, items.upper[b])
    if sky.floor[s] + sky.load[s] < capacity:
        for c in range(items.reaching[left], items.first[right]):
            beside = s < items.lower[c] or items.upper[c] <= s
            if sky.offset[c] == NOWHERE and items.upper[c] > left and beside:
                blame(items, sky, c, words)


@compiled
def explain_floors(items: Items, sky: Skyline, words: Words) -> None:
    """Adds to the set `words` the sections whose heights raise the floors of sections in the set.

    The height of a section is the top of its placed items. Its floor is the lowest address that any
    of its items can have that are not placed. The floor is above the height if each of these items
    must lie higher, because of another section that the item covers.
    """
    for s in range(len(sky.floor)):
        if marked(words, s) and sky.height[s] < sky.floor[s]:
            for i in range(items.cover_start[s], items.cover_start[s + 1]):
                if sky.offset[items.cover[i]] == NOWHERE:
                    blame(items, sky, items.cover[i], words)


@compiled
def state_key(items: Items, sky: Skyline, capacity: int, lo: int, hi: int) -> np.uint64:
    """Returns a 64-bit hash of the state of sections [lo, hi); never 0.

    The state is the floors of these sections, the items in them that are not placed, and the
    capacity.
    """
    key = np.uint64(capacity) * np.uint64(0x9E3779B97F4A7C15)
    for s in range(lo, hi):
        x = np.uint64(sky.floor[s]) * np.uint64(0x9E3779B97F4A7C15) + items.key[s]
        x = (x ^ (x >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        key += (x ^ (x >> np.uint64(32))) * np.uint64(0x94D049BB133111EB)
    for b in range(items.first[lo], items.first[hi]):
        if sky.offset[b] == NOWHERE:
            key ^= items.key[len(sky.floor) + b]
    return key | np.uint64(1)
