"""Packing without waste: a sweep over time, with the order of addresses left open.

Where every address is taken at every moment, what is born lies where something dies:

    address    |   a   |--d--      the dead and the born of a moment fall into groups of equal
        ^      |-------|  e        size, here {a, b} and {d, e}; the dead of a group are
        |      |   b   |-----      consecutive in the order of addresses
        |      |-------------
                   c               a hole, where nothing lies, is a rectangle like others

All orders that are possible so far are a PQ-tree: the dead of a group are gathered, and the born
take their place in any order. Where it is known who is in which group, no choice is left, and the
answer is exact. Sizes tell, for few sums of sizes are equal by chance; where there is more than
one way to form groups, a beam of the likeliest goes on. So a failure is no proof.
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

SUBSETS = 4096  # of what dies at a moment, and of what is born, whose sums are compared
TRIES = 16  # to form groups at a moment, for every way that may be kept
PAIRS, GROUPS = 4096, 64  # of those, how many of equal sum are looked at, and how many are kept
A_WAY = 100_000  # units of following a way over a moment; measured: 40 to 400 microseconds


class _Step(NamedTuple):
    """A run of the dead, from the side of the leaf `beside` on, gave place to the born."""

    before: _Step | None
    run: tuple[Tree, ...]
    beside: int | None
    born: int


class _Way(NamedTuple):
    """What may have happened up to some moment. score: the logarithm of how likely that is."""

    score: float
    tree: Tree
    steps: _Step | None


class _Group(NamedTuple):
    """Some of the dead runs and some of the born, as bits; score as that of a way."""

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
    """Returns rectangles that fill what is left of the capacity.

    Where the load falls, a hole is born; where it rises, those die that have the same size. If
    there are none, one is cut.

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
    """How the dead and the born of a moment may be grouped, and how likely that is.

    Two sums of sizes are equal by chance once in `sums` times, so a group is the likelier to be
    real the fewer there might be of its kind; and at few of the `span` moments that there might be
    anything begins or ends, so groups of one moment are rare by chance, and so are rectangles of
    different groups that end together.
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
        """The likeliest ways to go on with the born in place of the dead."""
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
            """All that is left as one group, or first one of the others, from `start` on.

            None where a group cannot be gathered.
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
        """Groups of equal size, the likeliest first, but not all as one group."""
        found = islice(self.equal(parts, born), PAIRS)
        possible: list[tuple[float, _Group]] = []
        for group in nlargest(4 * GROUPS, found):
            some = sum(parts[i] for i in bits(group.dead))
            gathered = gather(way.tree, some, self.tree([born[i] for i in bits(group.born)]))
            if gathered is not None:
                possible.append((group.score + gathered.chance, group))
        return [group for _, group in nlargest(GROUPS, possible)]

    def equal(self, parts: Sequence[int], born: Sequence[int]) -> Iterator[_Group]:
        """Groups of equal size, those of few parts first."""
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


@lru_cache(maxsize=1)  # all ways have the same births to put somewhere
def _by_sum(sizes: tuple[int, ...]) -> dict[int, list[tuple[int, int]]]:
    """Of which sum: of how many, and which, as bits."""
    found: dict[int, list[tuple[int, int]]] = {}
    for n, some, total in _subsets(sizes):
        found.setdefault(total, []).append((n, some))
    return found


def _subsets(sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Of how many, which, as bits, and their sum: the smaller sets first."""
    one = [(1 << i, size) for i, size in enumerate(sizes)]
    every = (some for n in range(1, len(sizes) + 1) for some in combinations(one, n))
    for some in islice(every, SUBSETS):
        bits_of, sizes_of = zip(*some, strict=True)
        yield len(some), sum(bits_of), sum(sizes_of)


def _offsets(way: _Way, sizes: Sequence[int]) -> list[int]:
    """From the last moment back: the dead of a step lie where its born do."""
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
