"""Packing, from the cheap to the exact: greedy fits, then what searches, under a deadline.

    parts of time, the highest load first
    fits ── height = max load? ── sweeps where little is wasted, from either end of time
                                  search at the lower bound ──┐ in turns, with growing budgets,
                                  search a step below the best ┘ other orders, restarts

The question of capacity (does it fit in so many bytes?) and the minimization are one: to minimize
is to ask about the lower bound, which a refusal raises, and about less than the best, which a yes
lowers, until the two meet.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import count
from math import gcd, inf, lcm

import numpy as np

from roam.solvers.jit import COMPILED
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

NODES, NODES_AN_ITEM = 500, 4  # of the shortest search
# a node of the search touches every rectangle in every section that it is alive in, at worst
A_TOUCH = 1e-7 if COMPILED else 1e-5  # seconds; building the tables takes about as long compiled
FIRST_TOUCHES = 10**7  # of the first search under a deadline, which measures the pace
REMEMBERED = 2**26  # bytes of failed states
# exponents of size and time: by size, area, time
RANKS: tuple[tuple[float, float], ...] = ((1, 0.3), (1, 1), (0.3, 1))
NOISE = 0.3  # of the logarithm, from the second round on
WASTE = 0.1  # of the area at most, where it is worth to sweep
NARROW, WIDE = (1, 4, 16), (64, 256)  # beams of the sweeps, before the search and in turns with it


class Answer(StrEnum):
    OPTIMAL = "OPTIMAL"  # height = lower bound
    FEASIBLE = "FEASIBLE"
    FITS = "FITS"
    DOES_NOT_FIT = "DOES_NOT_FIT"  # proven
    UNKNOWN = "UNKNOWN"  # not within the capacity by the deadline, and no proof either


@dataclass(frozen=True)
class Packing:
    """An offset for every rectangle and the arena's height, in bytes; valid, but perhaps higher
    than the capacity that was asked for: `status` says so. No height is below `lower_bound`.
    """

    offsets: tuple[int, ...]
    height: int
    lower_bound: int
    status: Answer
    method: str
    nodes: int
    seconds: float


def pack(
    rects: Sequence[Rect],
    capacity: int | None = None,
    *,
    deadline: float = inf,
    node_limit: float = inf,
    names: Sequence[str] | None = None,
) -> Packing:
    """A packing below the capacity, or the lowest one, and how good it is.

    deadline: a time of `time.monotonic()`; only the first greedy fit goes beyond it. node_limit: of
    the search, all in all; without a deadline the same arguments give the same packing. names: of
    the rectangles, for messages. Raises OverlapError or OffsetError where the fixed offsets
    contradict themselves.
    """
    started = time.monotonic()
    offsets = [r.fixed or 0 for r in rects]
    top = lower_bound = nodes = 0
    method = "nothing to pack"
    fixed = [i for i, r in enumerate(rects) if r.fixed is not None]
    known = None if names is None else [names[i] for i in fixed]
    check_packing([rects[i] for i in fixed], [offsets[i] for i in fixed], known)
    parts = [([rects[i] for i in part], part) for part in _parts(rects)]
    for some, part in sorted(parts, key=lambda p: -max_load(p[0])):
        packer = _Packer(some, capacity, top, deadline, node_limit - nodes)
        packer.run()
        for i, offset in zip(part, packer.offsets, strict=True):
            offsets[i] = offset
        lower_bound = max(lower_bound, packer.lower_bound)
        nodes += packer.nodes
        if packer.height >= top:
            top, method = packer.height, packer.method
    check_packing(rects, offsets, names)
    status = _answer(top, lower_bound, capacity)
    seconds = time.monotonic() - started
    return Packing(tuple(offsets), top, lower_bound, status, method, nodes, seconds)


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


def _answer(top: int, lower_bound: int, capacity: int | None) -> Answer:
    if capacity is None:
        return Answer.OPTIMAL if top == lower_bound else Answer.FEASIBLE
    if top <= capacity:
        return Answer.FITS
    return Answer.DOES_NOT_FIT if capacity < lower_bound else Answer.UNKNOWN


class _Packer:
    """One part. enough: a height that is no use to go below, that of another part."""

    def __init__(
        self,
        rects: Sequence[Rect],
        capacity: int | None,
        enough: int,
        deadline: float,
        node_limit: float,
    ) -> None:
        self.rects, self.capacity, self.enough = rects, capacity, enough
        self.deadline, self.node_limit = deadline, node_limit
        self.granule = granule(rects)
        self.nodes, self.pace, self.first = 0, 0.0, NODES
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
                yield fit.name, place(free, fit, self.fixed, deadline=self.deadline)
            for name, worth in LINES.items() if not self.fixed else ():
                yield name, on_the_lowest_line(free, worth, self.deadline)

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
            found, nodes = sweep(rects, self.goal, beam, deadline=self.deadline, node_limit=limit)
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
            or time.monotonic() > self.deadline
        )

    def search(self) -> None:
        """Asks about the goal; to minimize, every other time about a step below the best height,
        which is halved when the search gives no answer. Ends with one, or when time or nodes do.
        """
        if self.deadline - time.monotonic() < touches(self.rects) * A_TOUCH:
            return
        searcher = _Searcher(self.rects)
        self.first = max(min(NODES, FIRST_TOUCHES // max(len(searcher.items.cover), 1)), 1)
        step = self.height - self.goal
        for turn, restart in enumerate(_restarts()):
            below = turn % 2 == 1 and self.capacity is None
            step = max(min(step, (self.height - self.goal) // 2), self.granule)
            target = self.height - step if below else self.goal
            budget = min(restart * searcher.shortest, self.node_limit - self.nodes, self.in_time())
            started = time.monotonic()
            outcome, nodes = searcher.ask(
                target, int(budget), turn // 2 if self.capacity is None else turn
            )
            self.nodes += nodes
            self.pace = nodes / max(time.monotonic() - started, 1e-6)
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

    def in_time(self) -> float:
        """As many nodes as half of the time is enough for, at the pace of the last search.

        Nodes are not alike, and the pace is that of others. At first, few.
        """
        if self.deadline == inf:
            return inf
        if not self.pace:
            return self.first
        return max(self.pace * (self.deadline - time.monotonic()) / 2, 1)

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
