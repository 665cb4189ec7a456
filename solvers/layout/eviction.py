"""Chooses buffers that leave the arena, so that the waste of its blocks does not raise the peak.

    block  [  a  ]          ┐
           [  b  |  empty   ├─ held until c dies: while `op` runs, the block wastes the bytes in
           [     c          ┘  which no buffer is alive
                    ^ op

`evict` looks at the time at which live and wasted bytes together exceed the limit most, and at the
block that wastes most at that time. There are three ways to lower the waste of that block:

    every buffer that is alive at that time leaves    then the block is not held at that time
    every buffer that is dead at that time leaves     then the block spans its live buffers only
    every buffer that reaches into the upper part     then the block is lower by at least the bytes
    of the block leaves (if all are dead then)        by which the limit is exceeded

`evict` chooses the way on which the fewest buffers leave the arena; if there are several, the one
on which the fewest bytes leave. A buffer outside of the arena takes only its own size while it is
alive. So if no buffer is left in the arena, nothing is wasted. Buffers that are written over one
another (a slot) count as one buffer here, and leave together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import compress

import numpy as np

from roam.solvers.layout.sections import Ints, Placed, Sections, Table, table_of
from roam.solvers.work import Work

# A_ROUND: units of work of a round of evictions, for each placed buffer and each time of the step
# A_SECTION: units of work to lower the waste of one section (a future block) at one time
# AN_ITEM: units of work to compute what a section wastes, per buffer in it and per time it is held
A_ROUND, A_SECTION, AN_ITEM = 60, 50_000, 4
STRETCH = 512  # number of neighbouring times for which `_Worst` stores their highest value


def evict(
    placed: Sequence[Placed],
    sections: Callable[[Table], Sections],
    live: Sequence[int],
    limit: int,
    work: Work,
) -> list[Placed]:
    """Returns the buffers that stay in the arena, at their old addresses.

    With these buffers in the arena, live and wasted bytes together are within `limit` at every
    time. No buffer stays if the live bytes alone exceed the limit.

    Args:
        placed: all buffers of the arena, with their addresses.
        sections: returns the sections (parts of the arena that become one block each) in which
            placed buffers lie.
        live: the live curve of the step, in bytes.
        limit: the most bytes that may be alive or wasted at one time.
        work: limits the search.

    Raises:
        TimeoutError: the work is spent before live and wasted bytes are within the limit.
    """
    if max(live, default=0) > limit:
        return []
    room = limit - np.array(live, np.int64)
    everything = table_of(placed)
    stays = np.ones(len(placed), bool)
    while stays.any():
        if work.is_over():
            raise TimeoutError(f"the waste of {stays.sum()} buffers is not within the limit")
        some = everything.only(stays)
        waste = _Waste(some, sections(some), room)
        leaving = waste.leaving(work)
        work.spend(A_ROUND * (len(some.lower) + len(room)))
        if not len(leaving):
            break
        stays[np.flatnonzero(stays)[leaving]] = False
    return list(compress(placed, stays.tolist()))


class _Waste:
    """The bytes that sections waste at each time.

    A section is a part of the arena that becomes one block. It is held while at least one of its
    buffers is alive, and wastes the bytes in which no buffer is alive.

    Args:
        room: by time, the limit on live and wasted bytes together, minus the live bytes.

    Attributes:
        table: the placed buffers.
        sections: the sections in which the placed buffers lie.
        members: the indices of the buffers in `table`, one section after another.
        first: by section, the index in `members` of its first buffer; the last entry is the number
            of all buffers.
        excess: by time, the bytes by which live and wasted bytes together exceed the limit;
            negative if they are below it.
    """

    def __init__(self, table: Table, sections: Sections, room: Ints) -> None:
        self.table, self.sections = table, sections
        self.members = np.argsort(sections.of, kind="stable")
        counts = np.bincount(sections.of, minlength=len(sections.size))
        self.first = np.concatenate(([0], np.cumsum(counts)))
        change = np.zeros(len(room) + 1, np.int64)
        np.add.at(change, sections.lower, sections.size)
        np.subtract.at(change, sections.upper, sections.size)
        sizes = table.top - table.bottom
        np.subtract.at(change, table.lower, sizes)
        np.add.at(change, table.upper, sizes)
        self.excess = _Worst(change.cumsum()[:-1] - room)
        # `begins`: by section, its first time, plus `span` for each piece of addresses below the
        # section; ascending, so that `held` can search it
        self.pieces, self.span = int(sections.piece[-1]) + 1, len(room) + 1
        self.begins = sections.lower + sections.piece * self.span

    def inside(self, section: int) -> Ints:
        """Returns the indices in `table` of the buffers of a section."""
        return self.members[self.first[section] : self.first[section + 1]]

    def held(self, t: int) -> Ints:
        """Returns the indices of the sections held at time t.

        The addresses of an arena are cut into pieces. In each piece, at most one section is held.
        """
        pieces = np.arange(self.pieces)
        found = np.searchsorted(self.begins, t + pieces * self.span, side="right") - 1
        return found[(self.sections.piece[found] == pieces) & (self.sections.upper[found] > t)]

    def at(self, section: int, t: int) -> int:
        """Returns the bytes that a section wastes at time t. The section has to be held then."""
        some = self.table.only(self.inside(section))
        alive = (some.lower <= t) & (t < some.upper)
        return int(self.sections.size[section] - (some.top - some.bottom)[alive].sum())

    def curve(self, section: int) -> Ints:
        """Returns the bytes that a section wastes at each time from its first to its last one."""
        start, end = self.sections.lower[section], self.sections.upper[section]
        some = self.table.only(self.inside(section))
        change = np.zeros(end - start + 1, np.int64)
        change[0] = self.sections.size[section]
        np.subtract.at(change, some.lower - start, some.top - some.bottom)
        np.add.at(change, some.upper - start, some.top - some.bottom)
        wasted: Ints = change[:-1].cumsum()
        return wasted

    def leaving(self, work: Work) -> Ints:
        """Returns the indices in `table` of buffers that leave the arena, to lower the waste.

        Chooses buffers of each section at most once, and then counts the section's waste as gone.
        So live and wasted bytes together may still exceed the limit at some time, and `evict` asks
        again with the buffers that are left. Returns early if the work is spent.
        """
        leaving = [np.zeros(0, np.int64)]
        waiting = np.ones(len(self.sections.size), bool)
        while True:
            t, need = self.excess.worst()
            held = self.held(t)
            held = held[waiting[held]]
            if need <= 0 or not len(held) or work.is_over():
                return np.concatenate(leaving)
            section = max(held.tolist(), key=lambda k: self.at(k, t))
            leaving.append(self.fewest(section, t, need))
            waiting[section] = False
            wasted = self.curve(section)
            self.excess.lower(int(self.sections.lower[section]), wasted)
            buffers = sum(int(self.first[k + 1] - self.first[k]) for k in held.tolist())
            work.spend(A_SECTION + AN_ITEM * (buffers + len(wasted)))

    def fewest(self, section: int, t: int, need: int) -> Ints:
        """Returns buffers (indices in `table`) that leave a section to lower its waste at time t.

        Compares three sets: the section's buffers that are alive at t, its buffers that are dead at
        t, and its buffers that reach into its top `need` bytes: live and wasted bytes exceed the
        limit by so many at t. The last set is considered only if all its buffers are dead at t.
        Returns the set with the fewest buffers; if there are several, the one with the fewest
        bytes. An empty set is never returned.
        """
        inside = self.inside(section)
        some = self.table.only(inside)
        alive = (some.lower <= t) & (t < some.upper)
        top = self.sections.offset[section] + self.sections.size[section]
        high = some.top > top - need
        choices = [alive, ~alive] + ([] if (high & alive).any() else [high])
        sizes = some.top - some.bottom
        least = min(
            (c for c in choices if c.any()), key=lambda c: (int(c.sum()), int(sizes[c].sum()))
        )
        return inside[least]


class _Worst:
    """A curve of bytes by time, which can be lowered and knows the time of its highest value.

    Stores the highest value of every STRETCH neighbouring times, to find the highest of all fast.
    """

    def __init__(self, curve: Ints) -> None:
        stretches = -(-len(curve) // STRETCH)
        self.curve = np.full((stretches, STRETCH), np.iinfo(np.int64).min)
        self.curve.flat[: len(curve)] = curve
        self.highest = self.curve.max(axis=1)

    def worst(self) -> tuple[int, int]:
        """Returns the first time at which the curve is highest, and the curve's value there."""
        stretch = int(np.argmax(self.highest))
        t = int(np.argmax(self.curve[stretch]))
        return stretch * STRETCH + t, int(self.curve[stretch, t])

    def lower(self, start: int, by: Ints) -> None:
        """Lowers the curve at time `start` + k by `by[k]` bytes, for every k."""
        end = start + len(by)
        self.curve.reshape(-1)[start:end] -= by
        first, beyond = start // STRETCH, -(-end // STRETCH)
        self.highest[first:beyond] = self.curve[first:beyond].max(axis=1)
