"""The addresses that placed rectangles occupy, by time: which ones are taken during a lifetime?

Time is cut into sections, and the sections are the leaves of a tree. A rectangle covers whole
subtrees, and parts of the subtrees around them:

    node                     .------------------.           a, b: covered as a whole, by nodes
                  .----------+---------.        |           whose parents are not
                .----.     .----.    .----.    ...          *: covered in part
               .  .  .    .  .  .   .  .  .
                     [a]  [   b  ]  [a]                     a rectangle's lifetime

Every node keeps two sets of addresses: those of the rectangles that cover it as a whole and its
parent in part (`through`), and those of all rectangles within it or through it (`within`). What is
taken during a lifetime is taken within the nodes that it covers as a whole, or through those that
it covers in part. Both are few: they grow with the logarithm of the number of sections.

Addresses that are taken side by side are one span. Buffers are mostly stacked without gaps, so
that a set has few spans even if it holds thousands of rectangles.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable

BRANCHES = 8  # children of a node

Node = int
# sorted addresses at which taken ones begin and end, in turn: [begin, end, begin, end, ...]
Borders = list[int]
Span = tuple[int, int]  # (bottom, top)
Nodes = tuple[list[Node], list[Node]]  # those that a lifetime covers as a whole, and in part


class Occupied:
    """Which addresses are taken when.

    Args:
        moments: all times at which a lifetime begins or ends.
    """

    def __init__(self, moments: Iterable[int]) -> None:
        self.section = {t: s for s, t in enumerate(sorted(set(moments)))}
        self.through: defaultdict[Node, Borders] = defaultdict(list)
        self.within: defaultdict[Node, Borders] = defaultdict(list)
        width = len(self.section)
        self.first = [0]  # by level from the leaves up: its first node; at last, one after the root
        while width > 1:
            self.first.append(self.first[-1] + width)
            width = -(-width // BRANCHES)
        self.first.append(self.first[-1] + 1)

    def nodes(self, lower: int, upper: int) -> Nodes:
        """Returns the nodes that the lifetime [lower, upper) covers as a whole, and in part.

        Of the nodes covered as a whole, only those are returned whose parents are not.
        """
        whole: list[Node] = []
        part: list[Node] = []
        begin, end = self.section[lower], self.section[upper] - 1  # first and last section
        low, high = begin, end + 1  # the nodes of the level that are covered as a whole
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
        """Takes the addresses [bottom, top) during the lifetime that `nodes` stands for."""
        if bottom == top:
            return
        whole, part = nodes
        for node in whole:
            _unite(self.within[node], bottom, top)
            if node >= self.first[1]:  # no leaf is covered in part
                _unite(self.through[node], bottom, top)
        for node in part:
            _unite(self.within[node], bottom, top)

    def taken(self, nodes: Nodes) -> list[Span]:
        """Returns the spans of addresses taken at some time of a lifetime, as (bottom, top).

        They are sorted by their bottoms, and may overlap.
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
    """Adds the addresses [bottom, top) to a set."""
    i, j = bisect_left(borders, bottom), bisect_right(borders, top)
    # a border at an odd place ends a span: the new one begins, or ends, within that span
    borders[i:j] = ([] if i % 2 else [bottom]) + ([] if j % 2 else [top])
