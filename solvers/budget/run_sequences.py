"""Measures and changes sequences of op runs, in which an op may run several times.

    sequence     a b c a' d        d reads the latest run of a before it: a', not a
    live         a is alive until c reads it, a' until d does

The functions are compiled, for `sequence_annealing`. A sequence is measured whole after each
change, which takes some microseconds in graphs of some hundred ops. In-place reuse and scratch
space do not count, and a result that nothing reads later is freed, even one that the user keeps.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from roam.solvers.jit import compiled
from roam.solvers.xorshift import below
from roam.solvers.zobrist import Words

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

LONGEST = 8  # limit on the ops that one move copies together, as a chain
TRIES = 12  # limit on random draws in search of a run whose result is alive at a given time


class Graph(NamedTuple):
    """Ops with one result each, and for each op the ops whose results it reads.

    Attributes:
        size: by op, the bytes of its result, as a share of the limit on live bytes.
        cost: by op, its time as a multiple of the mean time of an op.
        reads_at, reads: op v reads the results of the ops reads[reads_at[v]:reads_at[v + 1]].
    """

    size: Floats
    cost: Floats
    reads_at: Ints
    reads: Ints


@compiled
def measure(
    graph: Graph, runs: Ints, count: int, latest: Ints, end: Ints, live: Floats
) -> tuple[bool, float, float, float]:
    """Measures the extra time and the live bytes of a sequence, if it can run.

    Args:
        graph: the ops. Their sizes are shares of the limit on live bytes.
        runs: runs[:count] is the sequence of ops.
        count: the length of the sequence.
        latest: working memory, by op.
        end: by time, set to the time at which the result of the run is last read, or to the time of
            the run if its result is not read.
        live: by time, set to the live bytes, as a share of the limit. Longer than `count`.

    Returns:
        valid: whether the results that each run reads are made before the run. If not, the other
            results are 0, and `end` and `live` are of no use.
        time: the extra time, as a multiple of the mean cost of an op.
        above: the live bytes above the limit, summed over time, as a multiple of the limit.
        peak: the peak, as a multiple of the limit.
    """
    latest[:] = -1
    time = -float(len(graph.size))
    for t in range(count):
        v = runs[t]
        for j in range(graph.reads_at[v], graph.reads_at[v + 1]):
            source = latest[graph.reads[j]]
            if source < 0:
                return False, 0.0, 0.0, 0.0
            end[source] = t
        latest[v] = t
        end[t] = t
        live[t] = 0.0
        time += graph.cost[v]
    live[count] = 0.0
    for t in range(count):
        size = graph.size[runs[t]]
        live[t] += size
        live[end[t] + 1] -= size
    alive = above = peak = 0.0
    for t in range(count):
        alive += live[t]
        live[t] = alive
        peak = max(peak, alive)
        if alive > 1.0 + 1e-12:
            above += alive - 1.0
    return True, time, above, peak


@compiled
def alive_at(end: Ints, t: int, random: Words) -> int:
    """Draws a run before time t whose result is read after t. Returns its time.

    `end` has, by time, the time at which the result of the run is last read. Returns -1 if TRIES
    draws find none.
    """
    for _ in range(TRIES):
        s = below(random, t) if t > 0 else 0
        if s < t and end[s] > t:
            return s
    return -1


@compiled
def shift(runs: Ints, source: int, target: int) -> None:
    """Moves the run at time `source` to time `target`. Shifts each run in between by one time."""
    v = runs[source]
    if source < target:
        for t in range(source, target):
            runs[t] = runs[t + 1]
    else:
        for t in range(source, target, -1):
            runs[t] = runs[t - 1]
    runs[target] = v


@compiled
def insert(runs: Ints, count: int, t: int, v: int) -> None:
    for s in range(count, t, -1):
        runs[s] = runs[s - 1]
    runs[t] = v


@compiled
def delete(runs: Ints, count: int, t: int) -> None:
    for s in range(t, count - 1):
        runs[s] = runs[s + 1]


@compiled
def reads_op(graph: Graph, v: int, u: int) -> bool:
    """Returns whether op v reads the result of op u."""
    for j in range(graph.reads_at[v], graph.reads_at[v + 1]):  # noqa: SIM110
        if graph.reads[j] == u:
            return True
    return False


@compiled
def next_reader(graph: Graph, runs: Ints, v: int, first: int, last: int) -> int:
    """Returns the first time in [first, last] at which a reader of v runs; `last` if none does."""
    for t in range(first, last):
        if reads_op(graph, runs[t], v):
            return t
    return last


@compiled
def collect(graph: Graph, runs: Ints, end: Ints, place: int, chain: Ints) -> int:
    """Completes a chain: ops that are to be copied together at time `place`. Returns its length.

    At first the chain has one op, chain[0]. Adds each op whose result an op of the chain reads, if
    this result is no longer alive at `place`, up to LONGEST ops in all. If an op does not get into
    the chain, its earlier result lives longer instead. Then sorts the chain by the ops' numbers,
    which is an order in which they can run. Every op that the chain reads must have run before
    `place`. `end` has, by time, the time at which the result of the run is last read.
    """
    links, k = 1, 0
    while k < links:
        v = chain[k]
        for j in range(graph.reads_at[v], graph.reads_at[v + 1]):
            u = graph.reads[j]
            t = place - 1
            while runs[t] != u:
                t -= 1
            if end[t] < place and links < LONGEST and not listed(chain, links, u):
                chain[links] = u
                links += 1
        k += 1
    chain[:links].sort()
    return links


@compiled
def listed(chain: Ints, links: int, u: int) -> bool:
    for k in range(links):  # noqa: SIM110
        if chain[k] == u:
            return True
    return False


@compiled
def reachable(graph: Graph, runs: Ints, s: int, target: int) -> int:
    """Returns the time nearest to `target` to which the run at time s can move.

    The run must not pass a reader of its result, nor a run whose result it reads, nor another run
    of its op.
    """
    v = runs[s]
    t = s
    while t < target and not reads_op(graph, runs[t + 1], v) and runs[t + 1] != v:
        t += 1
    while t > target and not reads_op(graph, v, runs[t - 1]) and runs[t - 1] != v:
        t -= 1
    return t
