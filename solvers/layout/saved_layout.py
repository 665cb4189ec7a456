"""Puts only the saved buffers into blocks, so that a caching allocator reserves less memory.

A caching allocator never joins two segments. Saved tensors are many requests of some megabytes, and
each leaves a segment into which none of the backward's large requests fits:

    without blocks [ a ][ b ][ c ][ d ]                  a to d are freed, but e needs a new segment
                                       [     e     ]
    in one block   [ a | b | c | d ]                     e lies where a to d were
                   [     e     ]

A block is held from its first buffer to its last, long after most of its buffers may have died. So
several numbers of blocks are tried, and the number with the fewest reserved bytes is chosen. If
blocks save nothing, there are none.

On a CPU, tensors that start at the same offset within a page share the sets of the first-level
cache, and the CPU confuses reads of one with pending stores to another. Neighbouring saved tensors
of whole pages all start at the same offset: the forward of GPT-2 small on 1024 tokens took 8 to
14 % longer. So on a CPU saved tensors are staggered:

    page  |       |       |       |       |       |       |       |
          [      a       ]   [      b       ]   [      c       ]

Also, malloc maps large requests anew every time, so each of their pages is a fault in every step;
smaller requests reuse pages of malloc's heap. With gradients absorbed into the optimizer's state
one by one, the same step had 262,000 faults in two blocks of 383 and 348 MiB, and 198,000 in blocks
of up to 33 MiB; the step compiled by Inductor had 136,000 to 210,000. So on a CPU blocks have a
largest size.
"""

from __future__ import annotations

from collections.abc import Sequence

from roam.core.lifetime import live_curve, slots
from roam.core.machine import ANY, CUDA, Blocking
from roam.core.plan import Block, measure
from roam.core.problem import BufferId, Home, OpId, Problem
from roam.solvers.layout.arena import NOTHING_PLACED, Arena, Layout
from roam.solvers.layout.eviction import evict
from roam.solvers.layout.greedy_fits import FITS
from roam.solvers.simulate.caching_allocator import requests, reserved
from roam.solvers.work import Work

CUTS = (1, 2, 4, 8, 16, 32, 64)  # numbers of blocks to try, into which the saved buffers are cut
# least bytes of all saved buffers for blocks to be of use: fewer share one segment anyway
WORTH = CUDA.allocator.large_segment
AN_OP = 20_000  # units of work to simulate the allocator for a whole step, per op; measured


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

    Places nothing if all saved buffers together are smaller than WORTH.

    Args:
        problem: the step.
        order: all ops, in the order in which they run.
        reuse: maps a buffer to the dying buffer whose memory it is written over.
        held: by time of the forward: the bytes that are allocated while an op runs if there are no
            blocks. They may be more than the live bytes. The backward has no entries.
        limit: the highest peak that the layout may have, in bytes.
        blocking: the largest size of a block, and how its buffers have to be staggered.
        work: limits the search: an attempt that it ends does not count. Unlimited if left out.
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
            peak, _ = measure(problem, order, reuse, offsets, blocks)
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
    """Returns the bytes that a caching allocator reserves for the step and persistent buffers.

    Args:
        problem: the step.
        order: all ops, in the order in which they run.
        reuse: maps a buffer to the dying buffer whose memory it is written over.
        offsets: by buffer that lies in a block, its offset in the arena in bytes.
        blocks: the blocks of the layout.
    """
    persistent = (b.size for b in problem.buffers if b.home is Home.USER)
    return reserved(requests(problem, order, reuse, offsets, blocks), persistent)
