"""Runs branch and bound searches on one part again and again, in new orders of its items.

A part is the rectangles between two times that no rectangle spans.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np

from roam.solvers.layout.greedy_fits import Rect
from roam.solvers.layout.packing.instance import to_items
from roam.solvers.layout.packing.search import search
from roam.solvers.layout.packing.skyline import Ints

# limit on the nodes of the shortest branch and bound search: NODES, plus NODES_AN_ITEM per item
NODES, NODES_AN_ITEM = 500, 4
REMEMBERED = 2**26  # limit on the bytes of the table in which the search keeps failed states
# exponents (p, q), used in turn: a search tries items by decreasing size^p × lifetime^q
RANKS: tuple[tuple[float, float], ...] = ((1, 0.3), (1, 1), (0.3, 1))
# standard deviation of the noise on log(size^p × lifetime^q), once every (p, q) has been used
NOISE = 0.3


def restarts() -> Iterator[int]:
    """Yields the node limit of each search, as a multiple of that of the shortest search.

    Follows the restart sequence of Luby, Sinclair and Zuckerman (1993), 1 1 2 1 1 2 4 ... Yields
    each term several times: once for every entry of RANKS, that is for every order of the items.
    """
    for i in count(1):
        k = i
        while k & (k + 1):  # if k is not 2^j - 1, the sequence repeats its beginning
            k -= (1 << (k.bit_length() - 1)) - 1
        for _ in RANKS:
            yield (k + 1) // 2


class Searcher:
    """Runs branch and bound searches on one part, with tables kept from one search to the next.

    Attributes:
        items, kept: the rectangles of more than 0 bytes as arrays, and their indices in `rects`.
        failed: a hash table of the states of partial packings that are proven to fail.
        reasons: by row of `failed`, the set of sections of time whose heights prove the failure.
        found: by item, its offset in the last packing found.
        shortest: the limit on the nodes of the shortest search: the unit of `restarts`.
    """

    def __init__(self, rects: Sequence[Rect]) -> None:
        self.rects = rects
        self.items, self.kept = to_items(rects)
        words = (len(self.items.first) - 1 + 63) // 64
        entries = 1 << (REMEMBERED // (8 * (words + 1))).bit_length() - 1
        self.failed = np.zeros(entries, np.uint64)
        self.reasons = np.empty((entries, words), np.uint64)
        self.found = np.zeros(len(self.kept), np.int64)
        self.random = np.random.default_rng(0)
        self.shortest = NODES + NODES_AN_ITEM * len(self.kept)

    def ask(self, capacity: int, nodes: int, turn: int) -> tuple[int, int]:
        """Searches for a packing within `capacity` bytes, with at most `nodes` nodes.

        The number `turn`, from 0 on, chooses the order in which items are tried: that of an entry
        of RANKS (exponents of size and lifetime), with random noise once all entries have been
        used. Returns the outcome (FITS, DOES_NOT_FIT or UNKNOWN) and the number of nodes used. If
        the outcome is FITS, `offsets` returns the packing.
        """
        noise = 0.0 if turn < len(RANKS) else NOISE
        by_size, by_time = RANKS[turn % len(RANKS)]
        with np.errstate(over="ignore"):  # hashing overflows on purpose; numpy would warn of it
            return search(
                self.items,
                capacity,
                self.rank(by_size, by_time, noise),
                nodes,
                self.failed,
                self.reasons,
                self.found,
            )

    def rank(self, by_size: float, by_time: float, noise: float) -> Ints:
        """Returns, by item, its rank: items are ranked by size^by_size × lifetime^by_time.

        The item of the largest product has rank 0. `noise` is the standard deviation of random
        noise on the logarithms of the products.
        """
        time = np.log(self.items.upper - self.items.lower)
        value = by_size * np.log(self.items.size) + by_time * time
        value += noise * self.random.normal(size=len(value))
        rank = np.empty(len(value), np.int64)
        rank[np.argsort(-value, kind="stable")] = np.arange(len(value))
        return rank

    def offsets(self) -> list[int]:
        offsets = [r.fixed or 0 for r in self.rects]
        for i, offset in zip(self.kept, self.found.tolist(), strict=True):
            offsets[i] = offset
        return offsets
