"""Puts only the saved buffers into blocks, so that a caching allocator reserves less memory.

A caching allocator reserves device memory in segments, and never joins two of them. Saved tensors
are many requests of some megabytes. When freed, they leave many segments, into none of which a
large request of the backward fits:

    without blocks [ a ][ b ][ c ][ d ]                  a to d are freed, but e needs a new segment
                                       [     e     ]
    in one block   [ a | b | c | d ]                     e lies where a to d were
                   [     e     ]

A block is held until the last of its buffers dies, long after most of its buffers may have died. So
several numbers of blocks are tried, and the number for which the allocator reserves the fewest
bytes is chosen. If no number of blocks saves bytes, no blocks are made.

On a CPU, tensors that start at the same offset within a page share the sets of the first-level
cache, and the CPU confuses reads of one tensor with pending stores to another tensor. Saved tensors
of whole pages all start at the same offset within a page if they lie side by side. That made the
forward of GPT-2 small on 1024 tokens 8 to 14 % slower. So on a CPU a gap is left above such a
tensor:

    page  |       |       |       |       |       |       |       |
          [      a       ]   [      b       ]   [      c       ]

Also, malloc maps the pages of a large request anew every time, so each of these pages costs a page
fault in every step. Smaller requests reuse pages of malloc's heap. With gradients absorbed into the
optimizer's state one by one, a step of the same model had 262,000 page faults with two blocks of
383 and 348 MiB, and 198,000 with blocks of up to 33 MiB; the step compiled by Inductor had 136,000
to 210,000. So on a CPU the size of blocks is limited.
"""

from __future__ import annotations

from collections.abc import Sequence

from roam.core.lifetime import live_curve, slots
from roam.core.machine import ANY, CUDA, Blocking
from roam.core.plan import Block, committed_peak
from roam.core.problem import BufferId, Home, OpId, Problem
from roam.solvers.layout.arena import NOTHING_PLACED, Arena, Layout
from roam.solvers.layout.eviction import evict
from roam.solvers.layout.greedy_fits import FITS
from roam.solvers.simulate.caching_allocator import requests, reserved
from roam.solvers.work import Work

# numbers of pieces to try, into which the stack of saved buffers is cut
CUTS = (1, 2, 4, 8, 16, 32, 64)
# least bytes of all saved buffers for blocks to be tried: fewer fit into one allocator segment
WORTH = CUDA.allocator.large_segment
AN_OP = 20_000  # measured units of work, per op of the step, to simulate the caching allocator


def stack_saved(
    problem: Problem,
    order: Sequence[OpId],
    reuse: dict[BufferId, BufferId],
    held: Sequence[int],
    *,
    limit: int,
    blocking: Blocking = ANY,
    work: Work | None = None,
) -> Layout:
    """Returns the layout of saved buffers for which a caching allocator reserves the fewest bytes.

    Tries no blocks, and then the numbers of pieces in CUTS, until the work is spent. Leaves out
    buffers larger than the largest block. Places nothing if all other saved buffers together are
    smaller than WORTH.

    Args:
        problem: the step.
        order: all ops, in the order in which they run.
        reuse: maps each buffer that is written over a dying buffer to that dying buffer.
        held: by time of the forward, the bytes that are allocated while an op runs if there are no
            blocks. They may be more than the live bytes. Times of the backward have no entries.
            Empty if only live bytes are allocated.
        limit: the highest peak that the layout may have, in bytes.
        blocking: the largest size of a block, and the gap to leave above a saved buffer.
        work: limits the search. An attempt at a layout is dropped if it is not finished when the
            work is spent. Unlimited if left out.
    """
    work = work or Work()
    boundary = problem.spans[0].stop if problem.spans else 0
    saved = [
        s
        for s in slots(problem, order, reuse)
        if s.home is Home.ARENA and 0 < s.size <= blocking.largest and s.lower < boundary < s.upper
    ]
    live = live_curve(problem, order, reuse)
    without = [max(pair) for pair in zip(live, held, strict=False)] + live[len(held) :]
    best = Layout({}, (), max(live, default=0), NOTHING_PLACED, len(saved))
    if sum(s.size for s in saved) < WORTH:
        return best
    least = simulate(problem, order, reuse, best.offsets, best.blocks)
    for cuts in CUTS:
        if cuts > len(saved) or work.is_over():
            break
        arena = Arena(saved, boundary, len(order), cuts, FITS[0], blocking)
        try:
            placed = evict(arena.placed, arena.cut, without, limit, work)
        except TimeoutError:
            break
        work.spend(AN_OP * len(order))
        blocks = arena.sections(placed)
        offsets = {b: offset for slot, offset in placed for b in slot.buffers}
        taken = simulate(problem, order, reuse, offsets, blocks)
        if taken < least:
            peak = committed_peak(problem, order, reuse, offsets, blocks)
            method = f"saved in {len(blocks)}"
            best = Layout(offsets, blocks, peak, method, len(saved) - len(placed))
            least = taken
    return best


def simulate(
    problem: Problem,
    order: Sequence[OpId],
    reuse: dict[BufferId, BufferId],
    offsets: dict[BufferId, int],
    blocks: Sequence[Block],
) -> int:
    """Returns the bytes that a caching allocator reserves for a step and the user's buffers.

    The step runs twice, with the user's buffers allocated before.

    Args:
        problem: the step.
        order: all ops, in the order in which they run.
        reuse: maps each buffer that is written over a dying buffer to that dying buffer.
        offsets: maps each buffer that lies in a block to its offset in the arena, in bytes.
        blocks: the blocks of the layout.
    """
    persistent = (b.size for b in problem.buffers if b.home is Home.USER)
    return reserved(requests(problem, order, reuse, offsets, blocks), persistent)
