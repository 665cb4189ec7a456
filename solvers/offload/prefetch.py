"""Moves transfers of loads away from the ops that use the buffers: other ops run meanwhile.

A load is a buffer that is in a tier until one op uses it, such as the states m and v of a fold:

    reads    [m ][v ]                    as late as possible, but in time for the fold
    ops      ------------- fold ---------------
    writes                      [m ][v ]         as early as possible; waited for when they end
    memory   [................................)

A load takes memory from the start of its read to the wait for its write. The limit on live bytes is
the peak with each transfer right beside its op. If the bytes of a load would exceed the limit, its
read starts later, or the wait for its write comes earlier. Then an op may have to wait for the
transfer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from roam.core.lifetime import find_reuse, live_curve
from roam.core.machine import Bytes
from roam.core.problem import OpId, Problem
from roam.solvers.offload.loads import Bare
from roam.solvers.offload.timeline import Link, ends, starts


def prefetch(problem: Problem, bare: Bare, order: Sequence[OpId], link: Link) -> list[OpId]:
    """Returns an order of `problem`, with loads started early and stores waited for late.

    The peak is no higher than with each transfer right beside the op that uses its buffer
    (`bare.with_loads`).

    Args:
        problem: the problem with the transfers of its loads.
        bare: the problem without them.
        order: an order of the bare problem.
        link: the rates of the link to the tier.
    """
    ops = [bare.ops[k] for k in order]
    place = {i: t for t, i in enumerate(ops)}
    beside = bare.with_loads(order)
    curve = live_curve(problem, beside, find_reuse(problem, beside))
    limit = max(curve, default=0)
    at = {i: t for t, i in enumerate(beside)}
    live = np.array([curve[at[i]] for i in ops], np.int64)
    begins = np.concatenate([[0.0], np.cumsum([problem.ops[i].cost for i in ops])])
    loads = [load for i in ops for load in bare.loads.get(i, ())]
    sizes = np.array([problem.buffers[load.buffer].size for load in loads], np.int64)
    uses = np.array([place[load.user] for load in loads], np.int64)
    reads_begin = starts(begins[uses][::-1], (link.delay + sizes / link.read)[::-1])[::-1]
    writes_end = ends(begins[uses + 1], link.delay + sizes / link.write)

    # place in the bare order -> starts of reads, and waits for writes, just before the op there
    reads: dict[int, list[OpId]] = defaultdict(list)
    waits: dict[int, list[OpId]] = defaultdict(list)
    earliest = latest = 0
    for load, use, size, reading, written in zip(
        loads, uses.tolist(), sizes.tolist(), reads_begin, writes_end, strict=True
    ):
        ready = [place[p] for p in problem.predecessors[load.loading[0]] if p in place]
        start = int(np.searchsorted(begins, reading, side="right")) - 1
        start = max(start, earliest, *(t + 1 for t in ready), 0)
        earliest = start = _from(live, min(start, use), use, size, limit)
        live[start:use] += size
        reads[start].append(load.loading[0])
        if load.storing:
            end = int(np.searchsorted(begins, written))
            end = max(end, latest, use + 1)
            latest = end = _until(live, use + 1, min(end, len(ops)), size, limit)
            live[use + 1 : end] += size
            waits[end].append(load.storing[1])
    found: list[OpId] = []
    for t, i in enumerate(ops):
        found += waits[t] + reads[t]  # waits free memory, so they come first
        own = bare.loads.get(i, ())
        found += [load.loading[1] for load in own]
        found.append(i)
        found += [load.storing[0] for load in own if load.storing]
    return found + waits[len(ops)]


def _from(live: NDArray[np.int64], start: int, use: int, size: Bytes, limit: Bytes) -> int:
    """Returns the least p >= `start` such that `size` more bytes fit at the places p to `use` - 1.

    Bytes fit at a place of the order if they and `live` bytes there are within `limit` together.
    Returns `use` if they do not fit at place `use` - 1.
    """
    full = np.flatnonzero(live[start:use] + size > limit)
    return start + int(full[-1]) + 1 if full.size else start


def _until(live: NDArray[np.int64], first: int, end: int, size: Bytes, limit: Bytes) -> int:
    """Returns the largest p <= `end` such that `size` more bytes fit at places `first` to p - 1.

    Bytes fit at a place of the order if they and `live` bytes there are within `limit` together.
    Returns `first` if they do not fit at place `first`.
    """
    full = np.flatnonzero(live[first:end] + size > limit)
    return first + int(full[0]) if full.size else end
