"""Packs without waste: goes through time once, and keeps all orders of addresses that are possible.

A buffer is a rectangle: its sides are its lifetime and its size. If every address is taken at all
times, the rectangles that begin at a time lie where rectangles end at that time:

    address    |   a   |--d--      a and b end where d and e begin: the group {a, b | d, e}
        ^      |-------|  e        of rectangles that end, and of rectangles of the same total
        |      |   b   |  e        size that take their addresses
        |      |-------|-----
                   c               c lives on

The ending rectangles of a group are consecutive in the order of addresses. A hole, which no buffer
uses, is treated as one more rectangle.

In this file, the *dead* of a time are the rectangles that end at that time, and the *born* are the
rectangles that begin at it. A PQ-tree represents all orders of addresses that are possible so far:
the dead of a group become consecutive, and the born of the group take their place in any order. If
the groups are known, no choice is left. Sizes mostly determine the groups, since few sums of sizes
are equal by chance. If there are several ways to form groups, a beam search follows the ways that
are most likely right. So a sweep that fails does not prove that no packing exists.
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

# limit on the subsets that are listed of one set of rectangles: of those that end at one time, of
# those that begin at that time, and of the open holes
SUBSETS = 4096
# limit on the guesses how to group ending with beginning rectangles, per partial packing to return
TRIES = 16
# A group is rectangles that end at one time, and rectangles of the same total size that begin then.
# Per partial packing and time, PAIRS limits the groups scored, and GROUPS those kept of them.
PAIRS, GROUPS = 4096, 64
# units of work to continue one partial packing from one time to the next; measured: 40 to 400 µs
A_WAY = 100_000


class _Step(NamedTuple):
    """One replacement: rectangles that end were replaced by others that begin at the same time.

    Attributes:
        before: the replacement before this one in the same partial packing; None for the first.
        run: the rectangles that end, as a row of subtrees (PQ-trees) in the order of addresses.
        beside: a rectangle next to the first subtree of `run`; None if `run` may be reversed.
        born: the set of the rectangles that begin: bit i is rectangle i.
    """

    before: _Step | None
    run: tuple[Tree, ...]
    beside: int | None
    born: int


class _Way(NamedTuple):
    """A way to pack all rectangles that begin up to some time: a partial packing.

    Attributes:
        score: the natural logarithm of how likely it is that the way leads to a packing.
        tree: the possible orders of addresses of the rectangles that are alive at that time.
        steps: the last replacement of rectangles that ended by rectangles that began, which links
            to all replacements before it.
    """

    score: float
    tree: Tree
    steps: _Step | None


class _Group(NamedTuple):
    """A guess at a group: rectangles that end, and rectangles of the same total size that begin.

    Attributes:
        score: the natural logarithm of how likely the guess is right; added to the score of the
            partial packing (`_Way`).
        dead: the parts of which the group's ending rectangles consist: bit i is part i. A part is
            ending rectangles that are consecutive in every possible order of addresses.
        born: the group's beginning rectangles: bit i is the i-th rectangle that begins at this
            time.
    """

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
    """Searches for a packing within the capacity, by going through time once (a beam search).

    Treats the space that stays empty as further rectangles: `holes` chooses their times and sizes
    before the search, and the search chooses their addresses. Ignores alignments and fixed offsets.

    Args:
        rects: the rectangles, all with sizes above 0.
        capacity: the bytes that the packing must keep within. At no time are more bytes alive.
        beam: limit on the partial packings that are kept at one time.
        node_limit: limit on the nodes, after which the sweep returns None. A node continues one
            partial packing from one time to the next.
        work: limits the search, which returns None when the work is spent; unlimited if left out.

    Returns:
        The offsets in bytes, or None if no packing is found; and the number of nodes.
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
    """Returns holes: rectangles whose sizes add up to the capacity minus the load at each time.

    The load is the bytes of the given rectangles that are alive; it must not exceed the capacity.
    If the load falls at some time, a hole begins. If the load rises, holes end whose total size is
    the rise. If none of the first SUBSETS sets of holes have that total size, the largest holes
    end, until they have at least that total size. The excess begins as a new hole.

    Raises:
        TimeoutError: the work is spent before all holes are found.
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
    """Guesses which beginning rectangles take the addresses of which ending rectangles.

    A group is rectangles that end at a time (dead), and rectangles of the same total size that
    begin at that time in their place (born). Two sums of sizes are equal by chance once in
    exp(`sums`) cases. So a guessed group is likely right if few other subsets of rectangles have
    its total size. Rectangles begin or end at few of all possible times: at a share of
    exp(`together`). So it is rare that two groups are replaced at the same time by chance, or that
    rectangles of different groups end at the same time by chance.
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
        """Returns continuations of a partial packing: ways to pack one time more.

        In each, the rectangles that end are replaced by those that begin, in different groups.

        Args:
            way: the partial packing of all rectangles that began before.
            dead: the rectangles that end now.
            born: the rectangles that begin now.
            limit: limit on the partial packings returned: those of the highest scores.
        """
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
            """Yields partial packings that replace the set `dead` by the set `born`.

            Replaces the sets as one group, or as several groups one after another. The first of
            several groups is in the list `groups` at index `start` or later. Yields None for a
            group whose ending rectangles cannot be consecutive.
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
        """Returns the possible groups of rectangles that end and begin now, the best score first.

        Returns at most GROUPS groups, none of which contains all rectangles that end or all
        rectangles that begin.

        Args:
            way: the partial packing of all rectangles that began before.
            parts: sets of rectangles that end now. Each set is consecutive in every order of
                addresses that is possible in the partial packing.
            born: the rectangles that begin now.
        """
        found = islice(self.equal(parts, born), PAIRS)
        possible: list[tuple[float, _Group]] = []
        for group in nlargest(4 * GROUPS, found):
            some = sum(parts[i] for i in bits(group.dead))
            gathered = gather(way.tree, some, self.tree([born[i] for i in bits(group.born)]))
            if gathered is not None:
                possible.append((group.score + gathered.chance, group))
        return [group for _, group in nlargest(GROUPS, possible)]

    def equal(self, parts: Sequence[int], born: Sequence[int]) -> Iterator[_Group]:
        """Yields groups: ending parts and beginning rectangles, whose total sizes are equal.

        A part is ending rectangles that are consecutive in every possible order of addresses.
        Groups with fewer parts come first. No group has all parts or all beginning rectangles.
        """
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


@lru_cache(maxsize=1)  # one entry: all partial packings ask for the same sizes at one time
def _by_sum(sizes: tuple[int, ...]) -> dict[int, list[tuple[int, int]]]:
    """Returns, by sum, up to SUBSETS subsets of `sizes`: (number of members, members as bits)."""
    found: dict[int, list[tuple[int, int]]] = {}
    for n, some, total in _subsets(sizes):
        found.setdefault(total, []).append((n, some))
    return found


def _subsets(sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yields up to SUBSETS subsets of the sizes: (number of members, members as bits, their sum).

    Subsets with fewer members come first. Bit i of the members is the i-th size.
    """
    one = [(1 << i, size) for i, size in enumerate(sizes)]
    every = (some for n in range(1, len(sizes) + 1) for some in combinations(one, n))
    for some in islice(every, SUBSETS):
        bits_of, sizes_of = zip(*some, strict=True)
        yield len(some), sum(bits_of), sum(sizes_of)


def _offsets(way: _Way, sizes: Sequence[int]) -> list[int]:
    """Returns the offset in bytes, by index, of every rectangle that a way to pack contains.

    Goes back in time from the last replacement of rectangles that end by rectangles that begin. The
    rectangles that end lie at the addresses at which the rectangles that begin lie.
    """
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
