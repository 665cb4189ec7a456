"""Where everything lies: offsets in the arena, and the blocks that back it.

What lives from the forward to the backward is stacked first, last freed lowest, as ROAM does
(arXiv 2310.19295, section 4): it is made from the bottom up and dies from the top down. Cut into
blocks, the stack can be taken and given back piece by piece, so that the gradients, which lie
outside, may grow into what it leaves. The temporaries of each phase go into the gaps, and what
finds none on top, into a block of the phase's own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

from roam.core.lifetime import Slot, slots
from roam.core.plan import Block, measure
from roam.core.problem import BufferId, Home, OpId, Problem
from roam.solvers.fits import FITS, Fit, Rect, place

CUTS = (1, 4, 16, 64, 256)  # into how many blocks the stack of saved buffers may be cut
LARGEST = (inf, 1 / 8, 1 / 32, 1 / 128)  # above this share of the peak a buffer stays outside


@dataclass(frozen=True)
class Layout:
    offsets: dict[BufferId, int]
    blocks: tuple[Block, ...]
    peak: int
    method: str


NOTHING_PLACED = "no arena"


def lay_out(
    problem: Problem,
    order: Sequence[OpId],
    reuse: dict[BufferId, BufferId],
    *,
    limit: int,
    hold: bool = False,
    deadline: float = inf,
) -> Layout:
    """The layout with the most in the arena whose peak stays within `limit` bytes.

    Tries the whole arena in one block first, then more blocks, then leaves the largest buffers
    outside, where they cost just their own size; the last resort is no arena at all. hold: the
    arena is one block, held from step to step. deadline: a time of `time.monotonic()`.
    """
    _, live = measure(problem, order, reuse, {}, ())
    everything = [s for s in slots(problem, order, reuse) if s.home is Home.ARENA and s.size]
    boundary = len(problem.phases[0]) if len(problem.phases) > 1 else len(order)
    for chosen, cuts in _attempts(everything, live, boundary, hold):
        best: Layout | None = None
        for fit in FITS:
            if time.monotonic() > deadline:
                break
            arena = _Arena(chosen, boundary, len(order), cuts, fit)
            blocks = arena.one_block() if hold else arena.blocks()
            peak, _ = measure(problem, order, reuse, arena.offsets(), blocks)
            if best is None or peak < best.peak:
                best = Layout(arena.offsets(), blocks, peak, fit.name)
            if peak == live:
                break
        if best is not None and best.peak <= limit:
            return best
    return Layout({}, (), live, NOTHING_PLACED)


def _attempts(
    everything: Sequence[Slot], live: int, boundary: int, hold: bool
) -> Iterator[tuple[Sequence[Slot], int]]:
    """(what may be placed, into how many blocks the stack is cut), none of them twice."""
    tried = 0
    for share in LARGEST:
        chosen = [s for s in everything if s.size <= share * live]
        if not chosen or len(chosen) == tried:
            continue
        tried = len(chosen)
        crossing = sum(s.lower < boundary < s.upper for s in chosen)
        for cuts in CUTS:
            if cuts == 1 or (not hold and cuts < 2 * crossing):
                yield chosen, cuts


class _Arena:
    """One attempt: the saved buffers stacked, the rest fitted around them by one rule."""

    def __init__(
        self, chosen: Sequence[Slot], boundary: int, end: int, cuts: int, fit: Fit
    ) -> None:
        self.boundary, self.end = boundary, end
        crossing = [s for s in chosen if s.lower < boundary < s.upper]
        crossing.sort(key=lambda s: (-s.upper, s.lower))
        self.crosses = bool(crossing)
        self.placed: list[tuple[Slot, int]] = []
        self.edges = self.stack(crossing, cuts)
        fixed = [(_rect(s), offset) for s, offset in self.placed]
        for phase in ((0, boundary), (boundary, end)):
            own = [s for s in chosen if phase[0] <= s.lower and s.upper <= phase[1]]
            offsets = place([_rect(s) for s in own], fit, fixed, self.edges[1:])
            self.placed += zip(own, offsets, strict=True)

    def stack(self, crossing: Sequence[Slot], cuts: int) -> list[int]:
        """Stacks the saved buffers; returns where the stack is cut, both of its ends included."""
        starts: list[int] = []
        top = 0
        for slot in crossing:
            offset = -(-top // slot.align) * slot.align
            self.placed.append((slot, offset))
            starts.append(offset)
            top = offset + slot.size
        top = -(-top // 512) * 512 if top else 0
        wanted = [top * k // cuts for k in range(1, cuts)]
        inner = [min((s for s in starts if s >= w), default=top) for w in wanted]
        return sorted({0, top, *inner})

    def offsets(self) -> dict[BufferId, int]:
        return {b: offset for slot, offset in self.placed for b in slot.buffers}

    def blocks(self) -> tuple[Block, ...]:
        """The pieces of the stack, and above it each phase's own; none is held while empty."""
        found: list[Block] = []
        for low, high in zip(self.edges, [*self.edges[1:], None], strict=True):
            inside = [(s, o) for s, o in self.placed if low <= o and (high is None or o < high)]
            found += _sections(inside)
        return tuple(found)

    def one_block(self) -> tuple[Block, ...]:
        """One block for the whole step, which is held between the steps as well.

        Where nothing is saved the phases have nothing to share: then it is one block each.
        """
        if not self.crosses:
            return self.blocks()
        return (Block(0, max(o + s.size for s, o in self.placed), 0, self.end),)


def _rect(slot: Slot) -> Rect:
    return Rect(slot.lower, slot.upper, slot.size, slot.align)


def _sections(inside: Sequence[tuple[Slot, int]]) -> Iterator[Block]:
    """A block for every stretch of time in which something is alive, as large as that needs.

    address   [--a--)   [----c----)         two blocks: one for a and b, one for c
                 [-b-)
              ^      ^  ^         ^  time
    """
    waiting = sorted(inside, key=lambda placed: placed[0].lower)
    while waiting:
        end = waiting[0][0].upper
        section = []
        while waiting and waiting[0][0].lower < end:
            slot, offset = waiting.pop(0)
            end = max(end, slot.upper)
            section.append((slot, offset))
        low = min(o for _, o in section)
        high = max(o + s.size for s, o in section)
        yield Block(low, high - low, section[0][0].lower, end)
