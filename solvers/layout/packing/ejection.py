"""Lowers a packing by ejection: rectangles above a target height push others off their addresses.

    target ┄┄┄┄┌───┐┄┄┄┄┄┄┄       x reaches above the target. It takes the place of a and b, which
         ______│_x_│______        go to gaps, or push off others in turn, until all are placed.
        |___a____|__b__|__|
        |______c_______|d_|

Rectangles without a place wait, and the one of the largest area comes next. If it fits into no gap
below the target, it goes where the rectangles that it overlaps cost least together. A rectangle
costs the square root of its area (size × lifetime), times a penalty: 1, and 1 more each time that
it has found no gap itself. So a rectangle that is hard to place is pushed off less and less. This
is guided ejection search (Nagata and Bräysy 2009, for vehicle routes). The search ends when all
rectangles are placed, when fixed rectangles leave no address to the next one, or when its steps are
spent. If the search has not placed all, a packing as low as the target may still exist.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from roam.solvers.jit import compiled
from roam.solvers.layout.greedy_fits import Rect
from roam.solvers.layout.packing.placed import (
    Floats,
    Row,
    Shapes,
    empty_row,
    insert,
    neighbours,
    remove,
    shapes,
)
from roam.solvers.layout.packing.skyline import NOWHERE, Ints
from roam.solvers.work import Units, Work
from roam.solvers.xorshift import below
from roam.solvers.zobrist import Words

# distance of the first target (height to reach) below the height of the packing, as a share of the
# height. The share halves after a failure. It doubles after a success, but only up to FIRST_FALL.
FIRST_FALL = 0.01
STEPS = 200_000  # limit on the steps towards one target, per rectangle
# units of work of one step, which looks at one placed rectangle, and of one search; measured
A_STEP: Units = 10
A_SEARCH: Units = 10_000
PLACING = 20  # steps counted for placing one rectangle, besides one for each it looks at; measured


class Ejection:
    """Lowers packings of the same rectangles again and again.

    A search aims at a target: a height some bytes below that of the packing. Each call of `lower`
    begins with the distance to the target (`fall`, a share of the height) and the random seed at
    which the call before it ended.

    Args:
        rects: the rectangles.
        granule: the number of bytes of which the height of the lowest packing is a multiple.
    """

    def __init__(self, rects: Sequence[Rect], granule: int) -> None:
        self.kept = [i for i, r in enumerate(rects) if r.size]  # others need no place
        self.items, self.granule = shapes([rects[i] for i in self.kept]), granule
        self.fall = FIRST_FALL
        self.seed = 0

    def lower(self, offsets: Sequence[int], goal: int, units: Units, work: Work) -> list[int]:
        """Returns a packing that is lower than `offsets`; `offsets` as they are if none is found.

        Args:
            offsets: the packing given: by rectangle, its offset in bytes.
            goal: a height in bytes, no lower than the top of any fixed rectangle. The search ends
                when the packing is no higher than this.
            units: about how many units of work the search may do.
            work: limits the search, too, by its units and its deadline. Gets the units spent.
        """
        best = np.array(offsets, np.int64)[self.kept]
        top = self.height(best)
        end = work.spent + units
        while top > goal and work.spent < end and not work.is_over():
            fall = max(int(self.fall * top), self.granule)
            target = max(goal, (top - fall) // self.granule * self.granule)
            found = best.copy()
            steps = min(STEPS * len(found), (end - work.spent) // A_STEP)
            self.seed += 1
            fits, done = eject(self.items, found, target, int(steps), self.seed)
            work.spend(A_SEARCH + int(done) * A_STEP)
            if fits:
                best, top = found, self.height(found)
                self.fall = min(2 * self.fall, FIRST_FALL)
            else:
                self.fall = max(self.fall / 2, self.granule / top)
        lower = np.array(offsets, np.int64)
        lower[self.kept] = best
        return lower.tolist()

    def height(self, offsets: Ints) -> int:
        return int((offsets + self.items.size).max(initial=0))


@compiled
def eject(items: Shapes, offset: Ints, target: int, steps: int, seed: int) -> tuple[bool, int]:
    """Searches for a packing that is at most `target` bytes high, from a higher one.

    Args:
        items: the rectangles, all of more than 0 bytes.
        offset: by rectangle, its offset in the known packing; changed to that in the packing found.
            If no packing is found, the offsets are changed, but are no packing.
        target: the height to keep within, in bytes. No fixed rectangle reaches above it.
        steps: limit on the steps. A step looks at one placed rectangle; to place a rectangle counts
            as PLACING steps more. The last placing may exceed the limit.
        seed: the seed of the random numbers; positive.

    Returns:
        Whether a packing was found, and the number of steps.
    """
    n = len(offset)
    random = np.array([seed], np.uint64)
    penalty = np.ones(n, np.float64)
    row, beside = empty_row(n), empty_row(n)
    waiting = np.empty(n, np.int64)
    placed = left = done = 0
    for b in range(n):
        if offset[b] + items.size[b] > target:
            waiting[left] = b
            left += 1
        else:
            placed = insert(row, placed, items, b, offset[b])
    while left > 0 and done < steps:
        left, i = take_heaviest(items, waiting, left)
        count = neighbours(items, row, placed, i, beside)
        done += placed + PLACING
        address = tightest_gap(items, beside, count, i, target, random)
        if address == NOWHERE:
            penalty[i] += 1
            address, looked = cheapest(items, beside, count, i, target, penalty, random)
            done += looked
            if address == NOWHERE:
                return False, done
            top = address + items.size[i]
            for j in range(count):
                if beside.bottom[j] < top and beside.top[j] > address:
                    waiting[left] = beside.which[j]
                    left += 1
                    placed = remove(row, placed, beside.which[j])
        offset[i] = address
        placed = insert(row, placed, items, i, address)
    return left == 0, done


@compiled
def take_heaviest(items: Shapes, waiting: Ints, left: int) -> tuple[int, int]:
    """Takes the rectangle of the largest area (size × lifetime) from `waiting`.

    The indices of the rectangles that wait are waiting[:left]. Returns the number of rectangles
    that still wait, and the index of the rectangle taken.
    """
    best = 0
    for j in range(1, left):
        if items.weight[waiting[j]] > items.weight[waiting[best]]:
            best = j
    found = waiting[best]
    waiting[best] = waiting[left - 1]
    return left - 1, found


@compiled
def tightest_gap(items: Shapes, beside: Row, count: int, i: int, target: int, random: Words) -> int:
    """Returns an address for rectangle i in the smallest gap below the target that holds it.

    The gaps are between the first `count` rectangles of `beside`: the placed ones that are alive
    together with rectangle i (`neighbours`). The address is at the gap's lower or upper end, at
    random, as near as the alignment allows. Returns NOWHERE if there is no gap. `random` is the
    state of the random numbers, which drawing changes.
    """
    size, align = items.size[i], items.align[i]
    least = target + 1
    found = NOWHERE
    end = 0
    for j in range(count + 1):
        bottom = int(beside.bottom[j]) if j < count else target
        low = up(end, int(align))
        if bottom - low >= size and bottom - end < least:
            least = bottom - end
            found = low if below(random, 2) else int((bottom - size) // align * align)
        if j < count:
            end = int(beside.cover[j])
    return found


@compiled
def cheapest(
    items: Shapes, beside: Row, count: int, i: int, target: int, penalty: Floats, random: Words
) -> tuple[int, int]:
    """Finds the address at which the rectangles that rectangle i overlaps cost least together.

    A rectangle costs its penalty times the square root of its area; a fixed one must not be
    overlapped. Tries the addresses at which rectangle i touches the top or the bottom of a
    neighbour, address 0, and the address at which its top is at the target, or the nearest aligned
    ones. The neighbours are the placed rectangles that are alive together with rectangle i.

    Args:
        items: the rectangles.
        beside: the neighbours, by rising address: its first `count` rectangles.
        count: the number of neighbours.
        i: the index of the rectangle to place.
        target: the height to keep within, in bytes.
        penalty: by rectangle, its penalty: 1, and 1 more each time that it found no gap.
        random: the state of the random numbers, which drawing changes.

    Returns:
        One of the best addresses, at random, or NOWHERE if a fixed rectangle is in the way
        everywhere; and how many rectangles were looked at.
    """
    size, align = items.size[i], items.align[i]
    found = NOWHERE
    least = np.inf
    ties = looked = 0
    for j in range(2 * count + 2):
        if j < count:
            address = up(beside.top[j], align)
        elif j < 2 * count:
            address = (beside.bottom[j - count] - size) // align * align
        else:
            address = 0 if j == 2 * count else (target - size) // align * align
        top = address + size
        if address < 0 or top > target:
            continue
        cost = 0.0
        # `cover` is the running maximum of tops: no rectangle before k reaches above `address`
        k = np.searchsorted(beside.cover[:count], address, side="right")
        while k < count and beside.bottom[k] < top and cost <= least:
            looked += 1
            if beside.top[k] > address:
                b = beside.which[k]
                cost += np.inf if items.held[b] else penalty[b] * items.weight[b]
            k += 1
        if cost < least:
            least, found, ties = cost, address, 1
        elif cost == least and found != NOWHERE:
            ties += 1
            if below(random, ties) == 0:
                found = address
    return found, looked


@compiled
def up(address: int, align: int) -> int:
    return -(-address // align) * align
