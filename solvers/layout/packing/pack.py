"""Packing, from the cheap to the exact: greedy fits, then what searches, by counted work.

    parts of time, the highest load first
    fits ── height = max load? ── sweeps where little is wasted, from either end of time
                                  search at the lower bound ──┐ in turns, with growing budgets,
                                  search a step below the best ┘ other orders, restarts

The question of capacity (does it fit in so many bytes?) and the minimization are one: to minimize
is to ask about the lower bound, which a refusal raises, and about less than the best, which a yes
lowers, until the two meet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from math import gcd, inf, lcm

import numpy as np

from roam.solvers.answer import Answer, Outcome, minimized
from roam.solvers.layout.greedy_fits import FITS as GREEDY
from roam.solvers.layout.greedy_fits import Rect, place
from roam.solvers.layout.packing.instance import (
    check_packing,
    granule,
    height,
    max_load,
    to_items,
    touches,
)
from roam.solvers.layout.packing.lines import LINES, area, on_the_lowest_line
from roam.solvers.layout.packing.search import DOES_NOT_FIT, FITS, search
from roam.solvers.layout.packing.skyline import Ints
from roam.solvers.layout.packing.sweep import sweep
from roam.solvers.work import Work

NODES, NODES_AN_ITEM = 500, 4  # of the shortest search
# Units. A node of the search touches about every rectangle in every section that it is alive in,
# and so does building the tables. Measured: 3 to 18 nanoseconds a touch of a node.
A_NODE, A_TOUCH, A_TABLE_TOUCH = 10_000, 10, 100
REMEMBERED = 2**26  # bytes of failed states
# exponents of size and time: by size, area, time
RANKS: tuple[tuple[float, float], ...] = ((1, 0.3), (1, 1), (0.3, 1))
NOISE = 0.3  # of the logarithm, from the second round on
WASTE = 0.1  # of the area at most, where it is worth to sweep
NARROW, WIDE = (1, 4, 16), (64, 256)  # beams of the sweeps, before the search and in turns with it


@dataclass(frozen=True)
class Packing:
    """An offset for every rectangle, in bytes; and what found the part with the greatest height."""

    offsets: tuple[int, ...]
    method: str


def pack(
    rects: Sequence[Rect],
    capacity: int | None = None,
    *,
    work: Work | None = None,
    node_limit: float = inf,
    names: Sequence[str] | None = None,
) -> Answer[Packing]:
    """Searches for a packing below the capacity, or for the lowest one if none is given.

    Args:
        work: what the search may do; only the first greedy fit goes beyond it. Unlimited if left
            out.
        node_limit: of the search, all in all.
        names: of the rectangles, for messages.

    Returns:
        A valid packing, its height and the height that none is below, in bytes. It may be higher
        than the capacity, as the status says. `work` counts nodes.

    Raises:
        OverlapError, OffsetError: the fixed offsets contradict themselves.
    """
    work = work or Work()
    offsets = [r.fixed or 0 for r in rects]
    top = lower_bound = nodes = 0
    method = "nothing to pack"
    fixed = [i for i, r in enumerate(rects) if r.fixed is not None]
    known = None if names is None else [names[i] for i in fixed]
    check_packing([rects[i] for i in fixed], [offsets[i] for i in fixed], known)
    parts = [([rects[i] for i in part], part) for part in _parts(rects)]
    for some, part in sorted(parts, key=lambda p: -max_load(p[0])):
        packer = _Packer(some, capacity, top, work, node_limit - nodes)
        packer.run()
        for i, offset in zip(part, packer.offsets, strict=True):
            offsets[i] = offset
        lower_bound = max(lower_bound, packer.lower_bound)
        nodes += packer.nodes
        if packer.height >= top:
            top, method = packer.height, packer.method
    check_packing(rects, offsets, names)
    packing = Packing(tuple(offsets), method)
    if capacity is None:
        return minimized(packing, top, lower_bound, nodes)
    status = _within(capacity, top, lower_bound)
    return Answer(packing, top, lower_bound, status, nodes)


def _parts(rects: Sequence[Rect]) -> list[list[int]]:
    """The rectangles between one moment at which none is alive and the next."""
    parts: list[list[int]] = []
    end = 0
    for i in sorted(range(len(rects)), key=lambda i: rects[i].lower):
        if not parts or rects[i].lower >= end:
            parts.append([])
            end = rects[i].upper
        parts[-1].append(i)
        end = max(end, rects[i].upper)
    return parts


def _within(capacity: int, top: int, lower_bound: int) -> Outcome:
    if top <= capacity:
        return Outcome.FITS
    return Outcome.DOES_NOT_FIT if capacity < lower_bound else Outcome.UNKNOWN


class _Packer:
    """One part. enough: a height that is no use to go below, that of another part."""

    def __init__(
        self,
        rects: Sequence[Rect],
        capacity: int | None,
        enough: int,
        work: Work,
        node_limit: float,
    ) -> None:
        self.rects, self.capacity, self.enough = rects, capacity, enough
        self.work, self.node_limit = work, node_limit
        self.granule = granule(rects)
        self.nodes = 0
        self.free = [i for i, r in enumerate(rects) if r.fixed is None]
        self.fixed = [(r, r.fixed) for r in rects if r.fixed is not None]
        top = max((o + r.size for r, o in self.fixed if r.size), default=0)
        self.lower_bound = max(-(-max_load(rects) // self.granule) * self.granule, top)
        self.offsets, self.method = self.greedy()
        self.height = height(rects, self.offsets)

    def greedy(self) -> tuple[list[int], str]:
        """The best of all greedy fits and its name."""
        best: list[int] | None = None
        for name, placed in self.candidates():
            found = [r.fixed or 0 for r in self.rects]
            for i, offset in zip(self.free, placed, strict=True):
                found[i] = offset
            if best is None or height(self.rects, found) < height(self.rects, best):
                best, method = found, name
            if height(self.rects, best) <= self.goal:
                break
        assert best is not None, "there are greedy fits"
        return best, method

    def candidates(self) -> Iterator[tuple[str, list[int]]]:
        free = [self.rects[i] for i in self.free]
        first, *others = GREEDY
        yield first.name, place(free, first, self.fixed)
        with suppress(TimeoutError):
            for fit in others:
                yield fit.name, place(free, fit, self.fixed, work=self.work)
            for name, worth in LINES.items() if not self.fixed else ():
                yield name, on_the_lowest_line(free, worth, self.work)

    @property
    def goal(self) -> int:
        """What ends the search when the height comes down to it."""
        if self.capacity is None:
            return max(self.lower_bound, self.enough)
        return self.capacity

    def run(self) -> None:
        for beam in NARROW if self.sweepable else ():
            if not self.done:
                self.sweep(beam)
        if not self.done:
            self.search()

    def sweep(self, beam: int) -> None:
        """At the goal, from the first moment on and, if that finds nothing, from the last."""
        kept = [i for i, r in enumerate(self.rects) if r.size]
        ahead = [self.rects[i] for i in kept]
        for rects in (ahead, [replace(r, lower=-r.upper, upper=-r.lower) for r in ahead]):
            limit = self.node_limit - self.nodes
            found, nodes = sweep(rects, self.goal, beam, node_limit=limit, work=self.work)
            self.nodes += nodes
            if found is not None:
                self.offsets, self.method = [0] * len(self.rects), "sweep"
                for i, offset in zip(kept, found, strict=True):
                    self.offsets[i] = offset
                self.height = height(self.rects, self.offsets)
                break

    @property
    def sweepable(self) -> bool:
        """Whether little is wasted below the goal, and all sums of sizes are free and aligned."""
        used = sum(map(area, self.rects))
        span = max(r.upper for r in self.rects) - min(r.lower for r in self.rects)
        aligned = gcd(*(r.size for r in self.rects)) % lcm(*(r.align for r in self.rects)) == 0
        return not self.fixed and aligned and used >= (1 - WASTE) * self.goal * span

    @property
    def done(self) -> bool:
        return (
            not self.lower_bound <= self.goal < self.height
            or self.nodes >= self.node_limit
            or self.work.is_over()
        )

    def search(self) -> None:
        """Asks about the goal; to minimize, every other time about a step below the best height,
        which is halved when the search gives no answer. Ends with one, or when work or nodes do.

        The clock is not asked within a turn: the longest takes about as long as all before it.
        """
        cover = touches(self.rects)
        if self.work.left < cover * A_TABLE_TOUCH:
            return
        searcher = _Searcher(self.rects)
        self.work.spend(cover * A_TABLE_TOUCH)
        a_node = A_NODE + A_TOUCH * cover
        step = self.height - self.goal
        for turn, restart in enumerate(_restarts()):
            below = turn % 2 == 1 and self.capacity is None
            step = max(min(step, (self.height - self.goal) // 2), self.granule)
            target = self.height - step if below else self.goal
            budget = min(restart * searcher.shortest, self.node_limit - self.nodes)
            budget = max(self.work.steps(a_node, budget), 1)
            outcome, nodes = searcher.ask(
                target, int(budget), turn // 2 if self.capacity is None else turn
            )
            self.nodes += nodes
            self.work.spend(nodes * a_node)
            if outcome == FITS:
                self.offsets, self.method = searcher.offsets(), "branch and bound"
                self.height = height(self.rects, self.offsets)
            elif outcome == DOES_NOT_FIT:
                self.lower_bound = max(self.lower_bound, self.above(target))
            elif below:
                step = max(step // 2, self.granule)
            if turn < len(WIDE) and self.sweepable and not self.done:
                self.sweep(WIDE[turn])
            if self.done:
                break

    def above(self, size: int) -> int:
        """The next height that may be best."""
        return (size // self.granule + 1) * self.granule


def _restarts() -> Iterator[int]:
    """The sequence of Luby, Sinclair and Zuckerman (1993), every term as often as there are ranks:
    1 1 2 1 1 2 4 ...
    """
    for i in count(1):
        k = i
        while k & (k + 1):  # not 2^j - 1: the sequence repeats what came before 2^j - 1
            k -= (1 << (k.bit_length() - 1)) - 1
        for _ in RANKS:
            yield (k + 1) // 2


class _Searcher:
    """The search's tables, and which order to try next."""

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
        """Does everything fit? The outcome and the nodes, `nodes` of them at most."""
        noise = 0.0 if turn < len(RANKS) else NOISE
        by_size, by_time = RANKS[turn % len(RANKS)]
        with np.errstate(over="ignore"):  # hashing overflows, which only the interpreter minds
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
        """Items by size^a × time^b, largest first, as far as noise lets them be."""
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
