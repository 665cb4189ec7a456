"""Stores the addresses that placed rectangles take, and finds those taken during a lifetime.

A rectangle is a buffer: its sides are its lifetime and its size. Time is cut into sections, at the
times at which lifetimes begin or end. The sections are the leaves of a tree. A lifetime covers some
nodes of the tree as a whole, and others in part:

                       *
         .-------------+-------------.          a, b, c   nodes that the lifetime covers as a whole,
         *             b             *                    but not their parents
     .---+---.     .---+---.     .---+---.      *         nodes that the lifetime covers in part
     .   .   a     .   .   .     c   .   .
            [      lifetime       ]

Every node keeps two sets of addresses:

    through   addresses of the rectangles that cover the node as a whole, but not its parent
    within    the addresses in `through`, and those of the rectangles that cover the node in part

The addresses taken during a lifetime are `within` the nodes that the lifetime covers as a whole,
and `through` the nodes that it covers in part. The number of these nodes grows with the logarithm
of the number of sections.

Neighbouring addresses that are taken form one span. Buffers are mostly stacked without gaps, so a
set has few spans even if it contains the addresses of thousands of rectangles.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable

BRANCHES = 8  # number of children of a node in the tree over sections of time

Node = int
# a set of addresses, as the sorted bottoms and tops of its spans: [bottom, top, bottom, top, ...]
Borders = list[int]
Span = tuple[int, int]  # (bottom, top) of neighbouring addresses that are taken
# (nodes that a lifetime covers as a whole, but not their parents; nodes that it covers in part)
Nodes = tuple[list[Node], list[Node]]


class Occupied:
    """The addresses that placed rectangles take, by time.

    Args:
        moments: all times at which the lifetime of a rectangle begins or ends.
    """

    def __init__(self, moments: Iterable[int]) -> None:
        self.section = {t: s for s, t in enumerate(sorted(set(moments)))}
        self.through: defaultdict[Node, Borders] = defaultdict(list)
        self.within: defaultdict[Node, Borders] = defaultdict(list)
        width = len(self.section)
        # by level of the tree, leaves first: the number of the level's first node; then root + 1
        self.first = [0]
        while width > 1:
            self.first.append(self.first[-1] + width)
            width = -(-width // BRANCHES)
        self.first.append(self.first[-1] + 1)

    def nodes(self, lower: int, upper: int) -> Nodes:
        """Returns the tree nodes that the lifetime [lower, upper) covers wholly, and in part.

        Of the nodes covered wholly, returns only those whose parent is not covered wholly. Both
        times must be among the `moments` given when the object was made.
        """
        whole: list[Node] = []
        part: list[Node] = []
        # first and last node of a level that the lifetime touches; the lowest level is the sections
        begin, end = self.section[lower], self.section[upper] - 1
        low, high = begin, end + 1  # [low, high): nodes of the level that are covered as a whole
        for first in self.first[:-1]:
            if low >= high:
                part += {first + begin, first + end}
            else:
                if low > begin:
                    part.append(first + begin)
                if high <= end:
                    part.append(first + end)
                above, beyond = -(-low // BRANCHES), high // BRANCHES
                if above >= beyond:
                    whole += range(first + low, first + high)
                    low = high = 0
                else:
                    whole += range(first + low, first + above * BRANCHES)
                    whole += range(first + beyond * BRANCHES, first + high)
                    low, high = above, beyond
            begin, end = begin // BRANCHES, end // BRANCHES
        return whole, part

    def take(self, nodes: Nodes, bottom: int, top: int) -> None:
        """Marks the addresses [bottom, top) as taken during a lifetime.

        `nodes` are the tree nodes that the lifetime covers wholly and in part, as the method
        `nodes` returns them.
        """
        if bottom == top:
            return
        whole, part = nodes
        for node in whole:
            _unite(self.within[node], bottom, top)
            if node >= self.first[1]:  # a leaf needs no `through`: no lifetime covers it in part
                _unite(self.through[node], bottom, top)
        for node in part:
            _unite(self.within[node], bottom, top)

    def taken(self, nodes: Nodes) -> list[Span]:
        """Returns (bottom, top) of the spans of addresses taken at some time of a lifetime.

        The spans are sorted by their bottoms, and may overlap. `nodes` are the tree nodes that the
        lifetime covers wholly and in part, as the method `nodes` returns them.
        """
        whole, part = nodes
        spans: list[Span] = []
        for sets, some in ((self.within, whole), (self.through, part)):
            for node in some:
                if node in sets:
                    borders = sets[node]
                    spans += zip(borders[::2], borders[1::2], strict=True)
        spans.sort()
        return spans


def _unite(borders: Borders, bottom: int, top: int) -> None:
    """Adds the addresses [bottom, top) to a set of addresses.

    The set is stored in `borders` as the sorted bottoms and tops of its spans.
    """
    i, j = bisect_left(borders, bottom), bisect_right(borders, top)
    # an odd i (or j) means that `bottom` (or `top`) lies in an old span and is no border of its own
    borders[i:j] = ([] if i % 2 else [bottom]) + ([] if j % 2 else [top])
