"""Packs rectangles, from cheap to exact methods: greedy fits, then sweeps and a search.

    for each part, beginning with the part of the highest load:
    1. greedy fits                          also on the lowest line of the skyline (`lines.py`)
    2. sweeps, from either end of time      if little space is wasted at the height aimed at
    3. ejection                             ┐ in turns, with growing budgets of nodes and
       search for a packing as high as      │ new orders of the items; a wider sweep after
       the lower bound                      │ each of the first two searches
       ejection                             │
       search for a packing a step lower    │
       than the best one                    ┘
    each part is finished as soon as it is no higher than its lower bound or a part packed before

A part is the rectangles between two times that none spans. A sweep (`sweep.py`) goes through
time once and guesses how beginning rectangles take the addresses of ending ones. The search is
branch and bound (`search.py`). It answers a question about a capacity: do the rectangles fit into
so many bytes? If the caller gives a capacity, each search is about that one, without ejection. To
find the lowest packing, the search is asked in turns about two capacities. If the rectangles are
proven not to fit into the lower bound, the lower bound rises. If they fit into a height below that
of the best packing so far, the best height drops. At the end, both meet. Large parts end before
that: there ejection (`ejection.py`), a local search, lowers the packing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import gcd, inf, lcm

from roam.solvers.answer import Answer, Outcome, minimized
from roam.solvers.layout.greedy_fits import FITS as GREEDY
from roam.solvers.layout.greedy_fits import Rect, place
from roam.solvers.layout.packing.ejection import Ejection
from roam.solvers.layout.packing.instance import (
    check_packing,
    granule,
    height,
    max_load,
    touches,
)
from roam.solvers.layout.packing.lines import LINES, area, on_the_lowest_line
from roam.solvers.layout.packing.restarts import Searcher, restarts
from roam.solvers.layout.packing.search import DOES_NOT_FIT, FITS
from roam.solvers.layout.packing.sweep import sweep
from roam.solvers.work import Units, Work

# Units of work of a search, which grow with the number of pairs in the instance. A pair is an item
# (a rectangle) and a section of time in which the item is alive.
# one node of the search: A_NODE + A_TOUCH × pairs
# the tables that the search builds once: A_TABLE_TOUCH × pairs
A_NODE, A_TOUCH, A_TABLE_TOUCH = 10_000, 10, 100
# sweeps are tried only if a packing of the height aimed at (`goal`) would leave at most this share
# of its area (bytes × time) empty
WASTE = 0.1
# beam widths of sweeps: those of NARROW are tried, in turn, before the branch and bound searches,
# and those of WIDE one after each of the first two branch and bound searches
NARROW, WIDE = (1, 4, 16), (64, 256)


@dataclass(frozen=True)
class Packing:
    """The offset of every rectangle in bytes, and the method that packed the highest part.

    A part is the rectangles between two times that no rectangle spans.
    """

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
    """Searches for a packing within `capacity`, or for the lowest packing if `capacity` is None.

    Args:
        rects: the rectangles to pack.
        capacity: the greatest height that the packing may have, in bytes; None for no such limit.
        work: limits the search; unlimited if left out. The first greedy fit of each part may exceed
            it. A branch and bound search may go on beyond the deadline of `work`.
        node_limit: limit on the nodes of all sweeps and branch and bound searches together.
        names: the names of the rectangles, for error messages.

    Returns:
        A valid packing, its height, and a lower bound on the height of every packing, in bytes. If
        a capacity is given and the status is not FITS, the packing is higher than the capacity.
        `Answer.work` counts the nodes of sweeps and searches.

    Raises:
        OffsetError: a fixed offset is negative or not aligned.
        OverlapError: two rectangles with fixed offsets overlap.
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
    """Cuts the rectangles into parts, at the times that no rectangle spans.

    Each part is a list of indices into `rects`.
    """
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
    """Packs one part: the rectangles between two times that no rectangle spans.

    Attributes:
        capacity: the greatest height that the part may have, in bytes; None for the lowest packing.
        enough: the height of the highest part packed before; the part packed here may be as high.
        offsets, height, method: the best packing so far, its height, and the name of its method.
        lower_bound: a proven lower bound on the height of every packing of the part.
        nodes: the nodes of sweeps and searches so far.
    """

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
        """Returns the first greedy packing no higher than `goal`, else the lowest; and its rule."""
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
        """The height at which the search ends: the capacity, else max(lower_bound, enough)."""
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
        """Searches by a sweep (`sweep.py`) of this beam width for a packing no higher than `goal`.

        If the sweep forwards in time fails, sweeps backwards in time.
        """
        kept = [i for i, r in enumerate(self.rects) if r.size]
        ahead = [self.rects[i] for i in kept]
        # a multiple of the granule, which divides all sizes: else a hole could break the alignments
        goal = self.goal // self.granule * self.granule
        for rects in (ahead, [r._replace(lower=-r.upper, upper=-r.lower) for r in ahead]):
            limit = self.node_limit - self.nodes
            found, nodes = sweep(rects, goal, beam, node_limit=limit, work=self.work)
            self.nodes += nodes
            if found is not None:
                self.offsets, self.method = [0] * len(self.rects), "sweep"
                for i, offset in zip(kept, found, strict=True):
                    self.offsets[i] = offset
                self.height = height(self.rects, self.offsets)
                break

    @property
    def sweepable(self) -> bool:
        """Whether sweeps are tried: a packing as high as the goal would leave little space empty.

        Space is bytes times time; little is a share of at most WASTE. A sweep ignores alignments
        and fixed offsets, so no sweep is tried if these matter.
        """
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
        """Searches in turns by branch and bound for a packing that is as low as the goal.

        Without a capacity, each turn begins with as much work on ejection as its search may spend,
        and every second search is for a packing `step` bytes lower than the best one so far. If
        this search neither finds one nor proves that there is none, `step` is halved. A proof
        raises the lower bound, and with it the goal. A wider sweep follows each of the first two
        searches if `sweepable`. Ends when the height reaches the goal, when the capacity is proven
        too small, or when work or nodes run out. A search does not look at the clock, but each one
        except the first has a node limit of at most the sum of the limits before it.
        """
        cover = touches(self.rects)
        if self.work.left < cover * A_TABLE_TOUCH:
            return
        searcher = Searcher(self.rects)
        ejection = Ejection(self.rects, self.granule)
        self.work.spend(cover * A_TABLE_TOUCH)
        a_node = A_NODE + A_TOUCH * cover
        step = self.height - self.goal
        for turn, restart in enumerate(restarts()):
            if self.capacity is None:
                self.eject(ejection, restart * searcher.shortest * a_node)
                if self.done:
                    break
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

    def eject(self, ejection: Ejection, units: Units) -> None:
        """Lowers the packing by ejection (`ejection.py`), with about `units` units of work."""
        found = ejection.lower(self.offsets, self.goal, units, self.work)
        if found != self.offsets:
            self.offsets, self.height, self.method = found, height(self.rects, found), "ejection"

    def above(self, size: int) -> int:
        """Returns the next multiple of the granule above `size` bytes.

        The granule is a number of bytes of which the height of the lowest packing is a multiple.
        """
        return (size // self.granule + 1) * self.granule
