"""Where the search branches: a section of a valley, and what may lie there next.

         |         |         A valley is a stretch of equal floors between higher ones. Whatever
    _____|   s     |____     lies on it lies in it whole, for what is wider lies on a wall. So in
         |_________|         section s either one of those is next, or nothing lies at the floor
                             of s at all, and a little is wasted there.

In a packing where everything rests on something, as any can be made, one of these choices holds.
So the search is complete, and whether it fails depends on the skyline and on what is left alone:
states that failed are remembered. The section with the fewest choices comes first.
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
    Words,
    blame,
    lift,
    mark,
    marked,
)


@compiled
def is_choice(items: Items, sky: Skyline, b: int, floor: int) -> bool:
    """Whether an item may come next on that floor. Of equal items only the first may."""
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
    """Of the sections of all valleys in [lo, hi), one with the fewest choices, then the lowest.

    Returns it and its valley, [left, right). Wasting is half a choice.
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
    """Writes what may come next in section s of the valley [left, right) to `choices` from `at`
    on, best first; returns the end.

    Best is what fills the valley from wall to wall, and what ends level with a wall; then by rank.
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
    """If nothing lies at the floor of section s, the lowest address where something might: on a
    wall, or on top of something that is beside s and not yet there.
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
    """Marks the sections whose heights left section s these choices and no others."""
    mark(words, s)
    left, right = s, s + 1  # where that lies which may come next
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
    """Adds to marked floors the heights that put them there: a floor is above the height of its
    section where everything left there lies on something elsewhere.
    """
    for s in range(len(sky.floor)):
        if marked(words, s) and sky.height[s] < sky.floor[s]:
            for i in range(items.cover_start[s], items.cover_start[s + 1]):
                if sky.offset[items.cover[i]] == NOWHERE:
                    blame(items, sky, items.cover[i], words)


@compiled
def state_key(items: Items, sky: Skyline, capacity: int, lo: int, hi: int) -> np.uint64:
    """64 bits for the floors, what is left, and the capacity; never 0."""
    key = np.uint64(capacity) * np.uint64(0x9E3779B97F4A7C15)
    for s in range(lo, hi):
        x = np.uint64(sky.floor[s]) * np.uint64(0x9E3779B97F4A7C15) + items.key[s]
        x = (x ^ (x >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        key += (x ^ (x >> np.uint64(32))) * np.uint64(0x94D049BB133111EB)
    for b in range(items.first[lo], items.first[hi]):
        if sky.offset[b] == NOWHERE:
            key ^= items.key[len(sky.floor) + b]
    return key | np.uint64(1)
