"""Simulates PyTorch's caching allocator: the bytes that it would reserve on a CUDA device.

Written from the documentation of the allocator ("Memory management" in PyTorch's CUDA notes) and
the constants in c10/cuda/CUDACachingAllocator.cpp, for default settings, one stream, and a device
that is never full. **Not validated on a device.**

    segment   [ block | free | block |    free     ]     one cudaMalloc
                               freed: joins the free blocks beside it

A request is rounded up to 512 bytes. It takes the smallest free block into which it fits, among the
blocks for small requests or among those for large requests. Of equally small blocks, it takes the
block at the lowest address. If the unused part of the block is large enough, it is split off as a
free block. If no block fits, the allocator reserves a new segment. Segments are never returned to
the device.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from roam.core.lifetime import Reuse
from roam.core.machine import CUDA, AllocatorModel
from roam.core.plan import Block, allocations
from roam.core.problem import BufferId, OpId, Problem


@dataclass(eq=False)
class Chunk:
    """A block of a segment, taken or free, with its neighbours in the segment.

    A segment is device memory that the allocator has reserved by one cudaMalloc.

    Attributes:
        address: the address of the block's first byte.
        size: the size of the block, in bytes.
        small: whether the block belongs to the pool of small requests.
        free: whether no request holds the block.
        below: the next block at lower addresses in the segment; None for the lowest block.
        above: the next block at higher addresses in the segment; None for the highest block.
    """

    address: int
    size: int
    small: bool
    free: bool = True
    below: Chunk | None = None
    above: Chunk | None = None


class CachingAllocator:
    """A simulated caching allocator that starts empty.

    Attributes:
        model: the allocator's constants, such as the sizes of its segments.
        reserved: the bytes of all segments, which are what the allocator takes from the device.
        allocated: the bytes of all blocks in use, with sizes rounded up.
        peak_reserved: the highest value of `reserved` so far.
        peak_allocated: the highest value of `allocated` so far.
    """

    def __init__(self, model: AllocatorModel = CUDA.allocator) -> None:
        self.model = model
        self.reserved = self.allocated = 0
        self.peak_reserved = self.peak_allocated = 0
        # sorted (size, address) of free blocks: at True of the pool for small requests, at False of
        # the pool for large ones; `_free` has the same blocks by address
        self._pools: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        self._free: dict[int, Chunk] = {}

    def malloc(self, size: int) -> Chunk | None:
        """Returns a block of at least `size` bytes, in a new segment if no free block is as large.

        Returns None for 0 bytes.
        """
        if size == 0:
            return None
        model = self.model
        size = _round(size, model.round)
        small = size <= model.small
        chunk = self._best_fit(size, small) or self._new_segment(size, small)
        chunk.free = False
        left = chunk.size - size
        if left >= model.round if small else left > model.small:
            self._split(chunk, size)
        self.allocated += chunk.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return chunk

    def free(self, chunk: Chunk | None) -> None:
        if chunk is None:
            return
        self.allocated -= chunk.size
        chunk.free = True
        if chunk.below is not None and chunk.below.free:
            self._take(chunk.below)
            chunk = _join(chunk.below, chunk)
        if chunk.above is not None and chunk.above.free:
            self._take(chunk.above)
            chunk = _join(chunk, chunk.above)
        self._put(chunk)

    def _best_fit(self, size: int, small: bool) -> Chunk | None:
        pool = self._pools[small]
        at = bisect_left(pool, (size, 0))
        if at == len(pool):
            return None
        chunk = self._free[pool[at][1]]
        self._take(chunk)
        return chunk

    def _new_segment(self, size: int, small: bool) -> Chunk:
        if small:
            segment = self.model.small_segment
        elif size < self.model.own_segment:
            segment = self.model.large_segment
        else:
            segment = _round(size, self.model.own_segment_round)
        chunk = Chunk(self.reserved, segment, small)
        self.reserved += segment
        self.peak_reserved = self.reserved
        return chunk

    def _split(self, chunk: Chunk, size: int) -> None:
        rest = Chunk(chunk.address + size, chunk.size - size, chunk.small)
        rest.below, rest.above = chunk, chunk.above
        if chunk.above is not None:
            chunk.above.below = rest
        chunk.above, chunk.size = rest, size
        self._put(rest)

    def _put(self, chunk: Chunk) -> None:
        insort(self._pools[chunk.small], (chunk.size, chunk.address))
        self._free[chunk.address] = chunk

    def _take(self, chunk: Chunk) -> None:
        pool = self._pools[chunk.small]
        del pool[bisect_left(pool, (chunk.size, chunk.address))]
        del self._free[chunk.address]


def _join(lower: Chunk, upper: Chunk) -> Chunk:
    lower.size += upper.size
    lower.above = upper.above
    if upper.above is not None:
        upper.above.below = lower
    return lower


def _round(size: int, to: int) -> int:
    return -(-size // to) * to


@dataclass(frozen=True)
class Span:
    """A request for `size` bytes that is held during the times [lower, upper)."""

    lower: int
    upper: int
    size: int


def requests(
    problem: Problem,
    order: Sequence[OpId],
    reuse: Reuse,
    placed: Container[BufferId],
    blocks: Sequence[Block],
) -> list[Span]:
    """Returns the requests that a planned step makes to the allocator.

    Each block is one request, and so is each buffer outside of the blocks, and the scratch space of
    each op. Buffers that are written over one another are one request.

    Args:
        problem: the step.
        order: all ops, in the planned order.
        reuse: maps each buffer that is written over a dying buffer to that dying buffer.
        placed: the buffers that lie in blocks.
        blocks: the blocks of the plan.
    """
    apart = allocations(problem, order, reuse, placed, blocks)
    scratch = [Span(t, t + 1, problem.ops[i].scratch) for t, i in enumerate(order)]
    return [Span(a.lower, a.upper, a.size) for a in apart] + [s for s in scratch if s.size]


def reserved(spans: Iterable[Span], persistent: Iterable[int] = (), steps: int = 2) -> int:
    """Returns the bytes that the allocator has reserved after steps that make the same requests.

    Every request of a step is freed by the end of the step. At each time, requests that end are
    freed before requests that begin are made. Requests that begin at one time are made in the given
    order. The second step finds the free blocks that the first step left in the cache, and may
    reserve more.

    Args:
        spans: the requests of one step.
        persistent: sizes in bytes that are requested before the first step and never freed.
        steps: how many times the step runs.
    """
    allocator = CachingAllocator()
    for size in persistent:
        allocator.malloc(size)
    begins: dict[int, list[int]] = {}
    ends: dict[int, list[int]] = {}
    listed = list(spans)
    for n, span in enumerate(listed):
        begins.setdefault(span.lower, []).append(n)
        ends.setdefault(span.upper, []).append(n)
    for _ in range(steps):
        held: dict[int, Chunk | None] = {}
        for time in sorted(begins.keys() | ends.keys()):
            for n in ends.get(time, ()):  # free first: a request is not held at its end time
                allocator.free(held.pop(n))
            for n in begins.get(time, ()):
                held[n] = allocator.malloc(listed[n].size)
    return allocator.reserved
