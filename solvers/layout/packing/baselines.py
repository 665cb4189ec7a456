"""The packing algorithms of compilers and frameworks, to compare roam's packing with.

Each algorithm is a function from rectangles (buffers with their lifetimes and sizes) to their
offsets in bytes, written after the source code or the paper that the function's docstring names.
All ignore fixed offsets, and `inductor` also ignores alignments.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from roam.solvers.layout.greedy_fits import FITS, Fit, Rect, place
from roam.solvers.layout.packing.instance import height
from roam.solvers.layout.packing.lines import lifetime, on_the_lowest_line

Offsets = list[int]
BY_NAME = {fit.name: fit for fit in FITS}


def tflite(rects: Sequence[Rect]) -> Offsets:
    """Places rectangles by decreasing size, each into the tightest gap into which it fits.

    This is "greedy by size" of Pisarchyk and Lee (arXiv 2001.03288, section 5.2).
    """
    return place(rects, BY_NAME["best fit by size"])


def xla(rects: Sequence[Rect]) -> Offsets:
    """Packs twice by best fit, and returns the lower packing.

    The first packing places the largest rectangle first, the second one the longest-lived
    rectangle. XLA's `ChooseBestHeapAlgorithm` does the same with `GlobalDecreasingSizeBestFitHeap`.
    """
    by_lifetime = place(rects, BY_NAME["best fit by lifetime"])
    return min(tflite(rects), by_lifetime, key=lambda offsets: height(rects, offsets))


def llfb(rects: Sequence[Rect]) -> Offsets:
    """Places on the lowest line of the skyline the longest-lived rectangle that fits there.

    The skyline is the top edge of the rectangles placed so far; its lines are horizontal. The
    algorithm is that of Sekiyama et al. (arXiv 1804.10001).
    """
    return on_the_lowest_line(rects, lifetime)


# limits on the hill climb in `tvm`: its steps (as in TVM), and buffers placed in all steps together
ATTEMPTS, PLACEMENTS = 500, 100_000


def tvm(rects: Sequence[Rect]) -> Offsets:
    """Improves the order in which a first fit places buffers, as TVM's USMP `hill_climb` does.

    The first order has the largest buffer first. A step picks a buffer that reaches the top of the
    arena, and swaps its place in the order with that of a buffer alive at the same time. A step
    that makes the arena higher is kept with a probability of 5 %, any other step always. Returns
    the lowest packing found.
    """
    choose = random.Random(0)
    order = sorted(range(len(rects)), key=lambda i: (-rects[i].size, rects[i].lower))
    if not order:
        return []
    offsets = best = _first_fit(rects, order)
    for _ in range(min(ATTEMPTS, PLACEMENTS // len(rects))):
        now = height(rects, offsets)
        high = choose.choice([i for i in order if offsets[i] + rects[i].size == now])
        met = [i for i in order if i != high and _meet(rects[i], rects[high])]
        if not met:
            break
        other = choose.choice(met)
        trial = order.copy()
        a, b = trial.index(high), trial.index(other)
        trial[a], trial[b] = trial[b], trial[a]
        found = _first_fit(rects, trial)
        if height(rects, found) <= now or choose.random() < 0.05:
            order, offsets = trial, found
        if height(rects, offsets) < height(rects, best):
            best = offsets
    return best


def _first_fit(rects: Sequence[Rect], order: Sequence[int]) -> Offsets:
    offsets = [0] * len(rects)
    in_turn = place([rects[i] for i in order], Fit("in turn", lambda rect: ()))
    for i, offset in zip(order, in_turn, strict=True):
        offsets[i] = offset
    return offsets


def _meet(a: Rect, b: Rect) -> bool:
    return a.lower < b.upper and b.lower < a.upper


def inductor(rects: Sequence[Rect]) -> Offsets:
    """Packs into nested pools as Inductor's `memory_planning.py` does, the largest buffer first.

    Of buffers of equal size the longest-lived comes first. Buffers that are never alive together
    share a span of addresses. If a buffer is smaller than the span in which it is placed, the span
    is cut in two. If it is larger, only the topmost span can grow to take it. A buffer that no span
    can take gets a new span above all others.
    """
    pool = _Place(0)
    offsets = [0] * len(rects)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + 4 * len(rects))  # spans may be nested len(rects) deep
    try:
        for i in sorted(
            range(len(rects)), key=lambda i: (-rects[i].size, rects[i].lower - rects[i].upper)
        ):
            rect = rects[i]
            if not pool.take(rect, i, grow=True):
                top = _Place(rect.size, [_Leaf(i, rect)])
                pool = _Place(pool.size + rect.size, [_Cut(pool, top)])
        pool.settle(0, offsets)
    finally:
        sys.setrecursionlimit(limit)
    return offsets


@dataclass
class _Leaf:
    i: int
    rect: Rect

    def meets(self, rect: Rect) -> bool:
        return _meet(self.rect, rect)

    def take(self, rect: Rect, i: int, *, grow: bool) -> bool:
        return False

    def settle(self, offset: int, offsets: Offsets) -> None:
        offsets[self.i] = offset


class _Place:
    """A span of addresses.

    Its tenants are single buffers (`_Leaf`), and cuts of the span into two spans (`_Cut`). No
    buffer of one tenant is alive together with a buffer of another tenant.
    """

    def __init__(self, size: int, tenants: list[_Leaf | _Cut] | None = None) -> None:
        self.size = size
        self.tenants = tenants or []

    def meets(self, rect: Rect) -> bool:
        for tenant in self.tenants:  # noqa: SIM110 - nested any() would overflow the C stack
            if tenant.meets(rect):
                return True
        return False

    def take(self, rect: Rect, i: int, *, grow: bool) -> bool:
        if rect.size > self.size and not grow:
            return False
        met = [t for t in self.tenants if t.meets(rect)]
        if met:
            if len(met) > 1 or not met[0].take(rect, i, grow=grow):
                return False
            self.size = max(self.size, *(t.size for t in met if isinstance(t, _Cut)))
            return True
        leaf = _Leaf(i, rect)
        if rect.size < self.size:
            rest = _Place(self.size - rect.size)
            self.tenants.append(_Cut(_Place(rect.size, [leaf]), rest))
            return True
        spare = rect.size - self.size
        if spare:
            self.tenants = [_Cut(_Place(self.size, [t]), _Place(spare)) for t in self.tenants]
        self.tenants.append(leaf)
        self.size = rect.size
        return True

    def settle(self, offset: int, offsets: Offsets) -> None:
        for tenant in self.tenants:
            tenant.settle(offset, offsets)


@dataclass
class _Cut:
    """A span of addresses that is cut into two spans, `low` and `high`."""

    low: _Place
    high: _Place

    @property
    def size(self) -> int:
        return self.low.size + self.high.size

    def meets(self, rect: Rect) -> bool:
        return self.low.meets(rect) or self.high.meets(rect)

    def take(self, rect: Rect, i: int, *, grow: bool) -> bool:
        return self.low.take(rect, i, grow=False) or self.high.take(rect, i, grow=grow)

    def settle(self, offset: int, offsets: Offsets) -> None:
        self.low.settle(offset, offsets)
        self.high.settle(offset + self.low.size, offsets)


BASELINES: dict[str, Callable[[Sequence[Rect]], Offsets]] = {
    "TFLite": tflite,
    "XLA": xla,
    "LLFB": llfb,
    "Inductor": inductor,
    "TVM": tvm,
}
