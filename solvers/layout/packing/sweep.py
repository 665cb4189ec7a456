"""Packs without waste: sweeps over time and leaves the order of addresses open.

If every address is taken at all times, buffers that begin lie where others end:

    address    |   a   |--d--      the ending and beginning buffers of a time form groups of equal
        ^      |-------|  e        size, here {a, b} and {d, e}; the ending buffers of a group are
        |      |   b   |-----      consecutive in the order of addresses
        |      |-------------
                   c               a hole, which no buffer uses, is a rectangle like the others

Below, buffers that end are called dead, and those that begin born. A PQ-tree represents all orders
that are possible so far: the dead of a group become consecutive, and the born take their place in
any order. If the groups are known, no choice is left. Sizes mostly determine the groups, since few
sums of sizes are equal by chance. If there are several ways to form groups, a beam search follows
the likeliest. So a failure proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from heapq import nlargest
from itertools import combinations, islice, takewhile
from math import comb, gcd, inf, log
from typing import NamedTuple

from roam.solvers.layout.greedy_fits import Rect
from roam.solvers.layout.packing.instance import load_changes
from roam.solvers.layout.packing.pq_tree import Tree, bits, frontier, gather, join, leaf, runs
from roam.solvers.work import Work

SUBSETS = 4096  # subsets of the dead, and of the born, whose sums are compared at one time
TRIES = 16  # attempts to form groups at one time, for each way in the beam
PAIRS, GROUPS = 4096, 64  # pairs of subsets with equal sums that are looked at, and that are kept
A_WAY = 100_000  # units of following a way over a moment; measured: 40 to 400 microseconds


class _Step(NamedTuple):
    """One replacement: the dead in `run`, which starts next to leaf `beside`, became the born."""

    before: _Step | None
    run: tuple[Tree, ...]
    beside: int | None
    born: int


class _Way(NamedTuple):
    """One way to pack up to some time. score: the logarithm of how likely it is right."""

    score: float
    tree: Tree
    steps: _Step | None


class _Group(NamedTuple):
    """A guess at a group: some dead runs and some born, as bits. score: as that of a way."""

    score: float
    dead: int
    born: int


def sweep(
    rects: Sequence[Rect],
    capacity: int,
    beam: int,
    *,
    node_limit: float = inf,
    work: Work | None = None,
) -> tuple[list[int] | None, int]:
    """Searches for offsets in bytes that stay below the capacity.

    Sizes are above 0; alignment and fixed offsets are not looked at.

    Args:
        beam: how many ways are followed over each moment.
        node_limit: how many are followed in all.
        work: what the search may do; unlimited if left out.

    Returns:
        The offsets, or None if none were found; and how many ways were followed over a moment.
    """
    work = work or Work()
    try:
        full = [*rects, *holes(rects, capacity, work)]
    except TimeoutError:
        return None, 0
    moments = sorted({r.lower for r in full})
    born: dict[int, list[int]] = {t: [] for t in moments}
    dead: dict[int, list[int]] = {t: [] for t in moments}
    for i, r in enumerate(full):
        born[r.lower].append(i)
        dead.setdefault(r.upper, []).append(i)
    groups = _Groups(full, capacity, moments, work)
    ways = [_Way(0.0, groups.tree(born[moments[0]]), None)]
    nodes = 0
    for t in moments[1:]:
        found: dict[int, _Way] = {}
        for way in ways:
            if nodes >= node_limit or work.is_over():
                return None, nodes
            nodes += 1
            work.spend(A_WAY)
            for new in groups.replaced(way, dead[t], born[t], beam):
                same = found.get(new.tree.kind)
                if same is None or same.score < new.score:
                    found[new.tree.kind] = new
        ways = nlargest(beam, found.values(), key=lambda way: way.score)
        if not ways:
            return None, nodes
    return _offsets(ways[0], [r.size for r in full])[: len(rects)], nodes


def holes(rects: Sequence[Rect], capacity: int, work: Work | None = None) -> list[Rect]:
    """Returns rectangles that fill the space between load and capacity at all times.

    When the load falls, a hole begins. When it rises, holes of the same total size end; if there
    are none, a hole is cut.

    Raises TimeoutError when the work is over.
    """
    work = work or Work()
    (first, load), *others, (last, _) = load_changes(rects)
    found: list[Rect] = []
    open_since = [(capacity - load, first)]
    for t, more in others:
        if work.is_over():
            raise TimeoutError(f"the holes from time {t} on are not found")
        room = -more
        if room < 0:
            sizes = [size for size, _ in open_since]
            same = next((some for _, some, total in _subsets(sizes) if total == -room), None)
            if same is None:
                open_since.sort()
            while room < 0:
                i = len(open_since) - 1 if same is None else same.bit_length() - 1
                size, lower = open_since.pop(i)
                same = None if same is None else same & ~(1 << i)
                found.append(Rect(lower, t, size))
                room += size
        if room > 0:
            open_since.append((room, t))
    found += (Rect(lower, last, size) for size, lower in open_since)
    return [r for r in found if r.size and r.lower < r.upper]


class _Groups:
    """Guesses how the dead and the born of a time are grouped, and how likely each guess is.

    Two sums of sizes are equal by chance once in `sums` times, so a group of a size for which
    there are few candidates is likely to be real. And rectangles begin or end at few of the `span`
    possible times, so it is rare that two groups change at the same time by chance, or that
    rectangles of different groups end at the same time.
    """

    def __init__(
        self, rects: Sequence[Rect], capacity: int, moments: Sequence[int], work: Work
    ) -> None:
        self.rects, self.work = rects, work
        self.kind = [hash((r.size, r.upper)) for r in rects]
        start, end = moments[0], max(r.upper for r in rects)
        span = (end - start) // gcd(*(t - start for t in (*moments, end)))
        self.together = log((len(moments) + 1) / (span + 1))
        self.sums = log(capacity // gcd(*(r.size for r in rects)))

    def in_time(self, _: object) -> bool:
        return not self.work.is_late()

    def tree(self, born: Sequence[int]) -> Tree:
        return join([leaf(i, self.kind[i]) for i in born])

    def replaced(
        self, way: _Way, dead: Sequence[int], born: Sequence[int], limit: int
    ) -> list[_Way]:
        """Returns the likeliest ways, at most `limit`, to replace the dead by the born."""
        parts = runs(way.tree, sum(1 << i for i in dead))
        all_dead, all_born = (1 << len(parts)) - 1, (1 << len(born)) - 1
        groups = self.groups(way, parts, born) if len(parts) > 1 else []

        def put(way: _Way, group: _Group) -> _Way | None:
            gone = sum(parts[i] for i in bits(group.dead))
            come = [born[i] for i in bits(group.born)]
            found = gather(way.tree, gone, self.tree(come))
            if found is None:
                return None
            step = _Step(way.steps, found.run, found.beside, sum(1 << i for i in come))
            return _Way(way.score + group.score + found.chance, found.tree, step)

        def go_on(way: _Way, dead: int, born: int, start: int) -> Iterator[_Way | None]:
            """Yields ways: all that is left as one group, or first a group from `start` on.

            Yields None for a group that cannot be consecutive.
            """
            yield put(way, _Group(0.0, dead, born))
            for k in range(start, len(groups)):
                _, some, come = group = groups[k]
                if not some & ~dead and not come & ~born and some != dead and come != born:
                    new = put(way, group)
                    if new is None:
                        yield None
                    else:
                        yield from go_on(new, dead & ~some, born & ~come, k + 1)

        tried = takewhile(self.in_time, islice(go_on(way, all_dead, all_born, 0), TRIES * limit))
        return nlargest(limit, (new for new in tried if new), key=lambda way: way.score)

    def groups(self, way: _Way, parts: Sequence[int], born: Sequence[int]) -> list[_Group]:
        """Returns groups of equal size, the likeliest first, without the group of everything."""
        found = islice(self.equal(parts, born), PAIRS)
        possible: list[tuple[float, _Group]] = []
        for group in nlargest(4 * GROUPS, found):
            some = sum(parts[i] for i in bits(group.dead))
            gathered = gather(way.tree, some, self.tree([born[i] for i in bits(group.born)]))
            if gathered is not None:
                possible.append((group.score + gathered.chance, group))
        return [group for _, group in nlargest(GROUPS, possible)]

    def equal(self, parts: Sequence[int], born: Sequence[int]) -> Iterator[_Group]:
        """Yields groups of equal size, those with few parts first."""
        ends: dict[int, int] = {}
        for i, b in enumerate(born):
            ends[self.rects[b].upper] = ends.get(self.rects[b].upper, 0) | 1 << i
        by_sum = _by_sum(tuple(self.rects[b].size for b in born))
        sizes = [sum(self.rects[i].size for i in bits(part)) for part in parts]
        for k, some, total in _subsets(sizes):
            for m, come in by_sum.get(total, ()):
                if k < len(parts) and m < len(born):
                    alike = comb(len(parts), k) * comb(len(born), m) * len(parts) * len(born)
                    parted = sum(1 for end in ends.values() if end & come and end & ~come)
                    score = self.sums + self.together * (1 + parted) - log(alike)
                    yield _Group(score, some, come)


@lru_cache(maxsize=1)  # all ways have the same born
def _by_sum(sizes: tuple[int, ...]) -> dict[int, list[tuple[int, int]]]:
    """Returns, by sum, the subsets with that sum: their number of members, and bits."""
    found: dict[int, list[tuple[int, int]]] = {}
    for n, some, total in _subsets(sizes):
        found.setdefault(total, []).append((n, some))
    return found


def _subsets(sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yields subsets, smaller ones first: number of members, bits, and sum."""
    one = [(1 << i, size) for i, size in enumerate(sizes)]
    every = (some for n in range(1, len(sizes) + 1) for some in combinations(one, n))
    for some in islice(every, SUBSETS):
        bits_of, sizes_of = zip(*some, strict=True)
        yield len(some), sum(bits_of), sum(sizes_of)


def _offsets(way: _Way, sizes: Sequence[int]) -> list[int]:
    """Returns the offsets, from the last step back: the dead of a step lie where its born do."""
    offsets = [0] * len(sizes)

    def stack(leaves: Iterator[int], top: int) -> None:
        for i in leaves:
            offsets[i] = top
            top += sizes[i]

    stack(frontier(way.tree), 0)
    step = way.steps
    while step is not None:
        bottom = min(offsets[i] for i in bits(step.born))
        turned = step.beside is not None and offsets[step.beside] > bottom
        run = step.run[::-1] if turned else step.run
        stack((i for part in run for i in frontier(part)), bottom)
        step = step.before
    return offsets
