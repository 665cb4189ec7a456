"""Computes offsets in the arena, and the blocks that back it.

Saved tensors are stacked first, with the last one to be freed at the bottom, as in ROAM (arXiv
2310.19295, section 4). So the stack grows upwards during the forward and shrinks from the top
during the backward. The stack is cut into blocks, which are allocated and freed one by one.
Gradients lie outside of the arena and can use the memory of freed blocks. The temporaries of each
phase go into the gaps of the stack. If they fit into no gap, they go above the stack, into further
blocks of the phase.

A block is held while any buffer in it is alive, and meanwhile its empty part is wasted. If the
waste would raise the peak above a limit, buffers are taken out of the arena (`eviction.py`). An
arena that is kept between steps (`hold`) is one block if any tensor is saved; no buffer is taken
out of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise, product

from roam.core.lifetime import Slot, live_curve, slots
from roam.core.machine import ANY, COARSEST, Blocking
from roam.core.plan import Block, committed_peak
from roam.core.problem import BufferId, Home, OpId, Problem
from roam.solvers.layout.eviction import evict
from roam.solvers.layout.greedy_fits import FITS, Fit, Rect, place
from roam.solvers.layout.sections import Placed, Sections, Table, cut_into_sections, table_of
from roam.solvers.work import Work

CUTS = (1, 4, 16, 64, 256)  # numbers of pieces to try, into which the stack of saved buffers is cut
# limit on the layouts that `lay_out` tries: each is a greedy rule with a number of pieces from CUTS
TRIES = 8


@dataclass(frozen=True)
class Layout:
    """The offsets of buffers in an arena, and the blocks of memory that make up the arena.

    Attributes:
        offsets: by buffer in the arena, its offset in bytes.
        blocks: the allocations behind the arena.
        peak: the peak of the step with this layout, in bytes; wasted bytes count.
        method: the name of the rule that found the layout.
        left: the number of buffers that could lie in the arena but do not. Buffers that are written
            over one another count as one.
    """

    offsets: dict[BufferId, int]
    blocks: tuple[Block, ...]
    peak: int
    method: str
    left: int = 0

    @property
    def cost(self) -> tuple[int, int, int]:
        """What `lay_out` minimizes: the allocations, then the buffers left out, then the peak."""
        return len(self.blocks) + self.left, self.left, self.peak


NOTHING_PLACED = "no arena"


def lay_out(
    problem: Problem,
    order: Sequence[OpId],
    reuse: dict[BufferId, BufferId],
    *,
    limit: int,
    hold: bool = False,
    work: Work | None = None,
) -> Layout:
    """Searches for a layout with few allocations in a step and a peak of at most `limit` bytes.

    Every block is an allocation, and so is every buffer that could lie in the arena but does not.
    The search ends at a layout that leaves out no buffer and has the peak of the live bytes alone.
    Otherwise, of the layouts tried that keep within the limit, returns the one with the fewest
    allocations. If there is none, or if each takes more allocations than a step without an arena,
    returns a layout without offsets.

    Args:
        problem: the step.
        order: all ops, in the order in which they run.
        reuse: maps each buffer that is written over a dying buffer to that dying buffer.
        limit: the highest peak that the layout may have, in bytes.
        hold: whether the arena is kept between steps, as one block if any tensor is saved. Such an
            arena contains all buffers that may lie in an arena, or none if the peak would then
            exceed the limit.
        work: limits the search. An attempt at a layout is dropped if it is not finished when the
            work is spent. Unlimited if left out.
    """
    work = work or Work()
    everything = [s for s in slots(problem, order, reuse) if s.home is Home.ARENA and s.size]
    boundary = problem.spans[0].stop if problem.spans else 0
    crossing = sum(s.lower < boundary < s.upper for s in everything)
    cuts = [n for n in CUTS if n == 1 or (not hold and n < 2 * crossing)]
    live = live_curve(problem, order, reuse)
    best = Layout({}, (), max(live, default=0), NOTHING_PLACED, len(everything))
    lowest = best.peak
    for fit, n in islice(product(FITS, cuts), TRIES):
        if (best.peak == lowest and not best.left) or work.is_over():
            break
        try:
            arena = Arena(everything, boundary, len(order), n, fit, work=work)
            placed = arena.placed if hold else evict(arena.placed, arena.cut, live, limit, work)
        except TimeoutError:
            break
        blocks = arena.one_block() if hold else arena.sections(placed)
        offsets = {b: offset for slot, offset in placed for b in slot.buffers}
        peak = committed_peak(problem, order, reuse, offsets, blocks)
        left = len(everything) - len(placed)
        found = Layout(offsets, blocks, peak, fit.name, left)
        if peak <= limit and found.cost < best.cost:
            best = found
    return best


class Arena:
    """One attempt at a layout: stacks the saved buffers, then places the others around the stack.

    Args:
        chosen: the slots to place in the arena. A slot is one buffer, or buffers that are written
            over one another.
        boundary: the time at which the backward begins.
        end: the time at which the step ends.
        cuts: the number of pieces into which the stack is cut. There are more pieces if `blocking`
            limits the size of a block.
        fit: the greedy rule for the buffers that are not saved.
        blocking: the size above which a block is cut if it can be, and the gap to leave above a
            saved buffer of whole pages.
        work: limits the attempt; unlimited if left out.

    Attributes:
        placed: the slots with their addresses.
        edges: the addresses of the stack's two ends, and the addresses at which it is cut, sorted;
            [0] if no buffer is saved.
        crosses: whether any buffer is saved for the backward.

    Raises:
        TimeoutError: the work is spent before all slots are placed.
    """

    def __init__(
        self,
        chosen: Sequence[Slot],
        boundary: int,
        end: int,
        cuts: int,
        fit: Fit,
        blocking: Blocking = ANY,
        work: Work | None = None,
    ) -> None:
        self.boundary, self.end, self.blocking = boundary, end, blocking
        crossing = [s for s in chosen if s.lower < boundary < s.upper]
        crossing.sort(key=lambda s: (-s.upper, s.lower))
        self.crosses = bool(crossing)
        self.placed: list[Placed] = []
        self.edges = self.stack(crossing, cuts)
        fixed = [(_rect(s), offset) for s, offset in self.placed]
        own = [s for s in chosen if not s.lower < boundary < s.upper]
        offsets = place([_rect(s) for s in own], fit, fixed, self.edges[1:], work)
        self.placed += zip(own, offsets, strict=True)

    def stack(self, crossing: Sequence[Slot], cuts: int) -> list[int]:
        """Stacks the saved buffers, and cuts the stack into about `cuts` pieces.

        Cuts only below a buffer whose address is a multiple of the largest alignment, so that a
        block can begin there.

        Returns:
            The addresses of the stack's two ends, and those at which it is cut, sorted; [0] if
            there are no saved buffers.
        """
        starts: list[int] = []
        top = 0
        for slot in crossing:
            offset = -(-top // slot.align) * slot.align
            self.placed.append((slot, offset))
            starts.append(offset)
            whole_pages = slot.size % self.blocking.page == 0
            top = offset + slot.size + (self.blocking.stagger if whole_pages else 0)
        coarsest = max((COARSEST, *(s.align for s in crossing)))
        top = -(-top // coarsest) * coarsest
        wanted = [top * k // cuts for k in range(1, cuts)]
        aligned = [s for s in starts if s % coarsest == 0]
        inner = {min((s for s in aligned if s >= w), default=top) for w in wanted}
        edges, largest = [0], self.blocking.largest
        for start, following in pairwise([*aligned, top]):
            if start > edges[-1] and (start in inner or following - edges[-1] > largest):
                edges.append(start)
        return [*edges, top] if top else edges

    def sections(self, placed: Sequence[Placed]) -> tuple[Block, ...]:
        """Returns the blocks that hold placed buffers.

        The stack is cut into pieces, and the addresses above the stack are one more piece. Each
        piece has one block for each period in which at least one of its buffers is alive.
        """
        return self.cut(table_of(placed)).blocks()

    def cut(self, table: Table) -> Sections:
        """Returns the sections of placed buffers. A section becomes one block of the arena.

        It holds the buffers of one piece of addresses (a piece of the stack, or all addresses above
        the stack) during a period in which at least one of these buffers is alive.
        """
        return cut_into_sections(table, self.edges)

    def one_block(self) -> tuple[Block, ...]:
        """Returns one block for all placed buffers, held for the whole step and kept between steps.

        If no buffer is saved for the backward, returns a block for each period in which buffers
        are alive, as `sections` does.
        """
        if not self.crosses:
            return self.sections(self.placed)
        return (Block(0, max(o + s.size for s, o in self.placed), 0, self.end),)


def _rect(slot: Slot) -> Rect:
    return Rect(slot.lower, slot.upper, slot.size, slot.align)
