"""Who is alive when: lifetimes, in-place reuse, and the live curve of an order.

Time is the index of the op in the order and lifetimes are half open. A buffer that is written
over a dying one shares its slot:

    time        0   1   2   3   4
    a           [-------)                 op 2 reads a for the last time and writes b over it
    b                   [---------)
    slot        [-----------------)       one rectangle, one address

At the op where the one becomes the other, only one of the two is counted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from roam.core.problem import BufferId, Home, OpId, Problem, Tier

Reuse = Mapping[BufferId, BufferId]  # a buffer -> the dying one whose place it takes
Ints = NDArray[np.int64]


class Slot(NamedTuple):
    """A buffer, or a chain of buffers written over one another: one rectangle of memory.

    Alive at times lower <= t < upper. `home` says where it may lie: a chain that ends in
    something the user keeps is external altogether.
    """

    buffers: tuple[BufferId, ...]
    lower: int
    upper: int
    size: int
    align: int
    home: Home


def lifetimes(problem: Problem, order: Sequence[OpId]) -> list[tuple[int, int]]:
    """The half-open lifetime of every buffer. The user's own live throughout."""
    lower, upper = _lives(problem, order)
    return list(zip(lower.tolist(), upper.tolist(), strict=True))


def _lives(problem: Problem, order: Sequence[OpId]) -> tuple[Ints, Ints]:
    """Returns when each buffer's lifetime begins and ends, as two arrays by buffer."""
    end, table = len(order), problem.buffer_table
    time = np.empty(end, np.int64)
    time[np.fromiter(order, np.int64, end)] = np.arange(end)
    lower = np.zeros(len(table.size), np.int64)
    upper = np.full(len(table.size), end, np.int64)
    if end:
        lower[table.made] = time[table.maker[table.made]]
        last = np.maximum.reduceat(time[table.uses], table.first_use)
        upper[table.dies] = last[table.dies] + 1
    return lower, upper


def find_reuse(problem: Problem, order: Sequence[OpId]) -> dict[BufferId, BufferId]:
    """Every in-place reuse that the order allows, each dying buffer given away once.

    Taking all of them is right: a reuse lowers the live bytes at its op and nowhere raises them.
    """
    upper = _lives(problem, order)[1]
    reuse: dict[BufferId, BufferId] = {}
    for t, i in enumerate(order):
        taken: set[BufferId] = set()
        for made, dying in problem.ops[i].over:
            if made in reuse or dying in taken or not can_take(problem, made, dying):
                continue
            if upper[dying] == t + 1:
                reuse[made] = dying
                taken.add(dying)
    return reuse


def can_take(problem: Problem, made: BufferId, dying: BufferId) -> bool:
    """Whether `made` may ever be written over `dying`, whatever the order."""
    a, b = problem.buffers[made], problem.buffers[dying]
    fits = a.size == b.size and a.align <= b.align and a.tier is b.tier
    return fits and b.home is not Home.USER and not b.kept


def slots(
    problem: Problem, order: Sequence[OpId], reuse: Reuse, tier: Tier = Tier.DEVICE
) -> list[Slot]:
    """The rectangles of memory that the step needs of a tier, in the order in which they begin."""
    lower, upper = (ends.tolist() for ends in _lives(problem, order))
    chain: dict[BufferId, list[BufferId]] = {}
    heads: list[list[BufferId]] = []
    for i in order:
        for b in problem.ops[i].creates:
            if problem.buffers[b].tier is not tier:
                continue
            if b in reuse:
                links = chain[reuse[b]]
                links.append(b)
            else:
                links = [b]
                heads.append(links)
            chain[b] = links
    return [_slot(problem, links, lower[links[0]], upper[links[-1]]) for links in heads]


def _slot(problem: Problem, links: list[BufferId], lower: int, upper: int) -> Slot:
    first, last = problem.buffers[links[0]], problem.buffers[links[-1]]
    arena = all(problem.buffers[b].home is Home.ARENA for b in links) and not last.kept
    home = Home.ARENA if arena else Home.EXTERNAL
    return Slot(tuple(links), lower, upper, first.size, first.align, home)


def live_curve(
    problem: Problem, order: Sequence[OpId], reuse: Reuse, without: Collection[BufferId] = ()
) -> list[int]:
    """Returns the transient bytes of the device alive while each op of the order runs.

    The scratch space of the op is counted. The buffers of `without` are not. What is written over
    one of them counts from its own start.
    """
    skipped = frozenset(without)
    if skipped:
        reuse = {b: over for b, over in reuse.items() if skipped.isdisjoint((b, over))}
    table = problem.buffer_table
    lower, upper = _lives(problem, order)
    counts = table.made & table.on_device
    counts[np.fromiter(without, np.int64, len(without))] = False
    begins, ends = counts.copy(), counts
    # where one buffer becomes another, neither end of the slot is
    begins[np.fromiter(reuse.keys(), np.int64, len(reuse))] = False
    ends[np.fromiter(reuse.values(), np.int64, len(reuse))] = False
    change = np.zeros(len(order) + 1, np.int64)
    np.add.at(change, lower[begins], table.size[begins])
    np.subtract.at(change, upper[ends], table.size[ends])
    scratch = problem.scratch[np.fromiter(order, np.int64, len(order))]
    curve: list[int] = (change[:-1].cumsum() + scratch).tolist()
    return curve


def live_peak(problem: Problem, order: Sequence[OpId]) -> int:
    """Transient bytes of the device at the worst moment of an order, all in-place reuse taken."""
    return max(live_curve(problem, order, find_reuse(problem, order)), default=0)
