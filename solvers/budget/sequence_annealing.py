"""Simulated annealing over sequences of op runs, in which an op may run several times.

    sequence     a b c a' d        d reads the latest run of a before it: a', not a
    live         a is alive until c reads it, a' until d does

The energy of a sequence is the extra time of its copies, in mean costs of an op, plus a penalty for
the bytes above the limit, summed over time. A move adds a copy of an op before a reader of it,
removes a copy, or moves a run to another time. Most moves aim at a time above the limit. A sequence
is measured whole after each move: that takes some microseconds in graphs of some hundred ops.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from roam.solvers.jit import compiled
from roam.solvers.order.annealing import below, uniform
from roam.solvers.zobrist import Words

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ADD, REMOVE, MOVE = 0, 1, 2
NEAR = 30  # limit on the places by which a random move shifts a run
BEYOND = 6  # limit on the places beyond the aimed time to which a move may put a run
LONGEST = 8  # limit on the ops that one move copies together
TRIES = 12  # random draws to find a run whose result is alive at a given time


class Graph(NamedTuple):
    """Ops with one result each, and the ops that each reads.

    Attributes:
        size: by op, bytes of its result as a share of the limit.
        cost: by op, its time as a multiple of the mean time of an op.
        reads_at, reads: the ops that op v reads are reads[reads_at[v]:reads_at[v + 1]].
    """

    size: Floats
    cost: Floats
    reads_at: Ints
    reads: Ints


class Heat(NamedTuple):
    """The temperatures and the penalty of an annealing, in units of the mean cost of an op.

    Attributes:
        hot, cold: the first and the last temperature.
        penalty: the energy, at one time, of live bytes that exceed the limit by the limit itself.
    """

    hot: float
    cold: float
    penalty: float


@compiled
def measure(
    graph: Graph, runs: Ints, count: int, latest: Ints, end: Ints, live: Floats
) -> tuple[bool, float, float, float]:
    """Measures a sequence.

    Args:
        graph: the ops.
        runs: runs[:count] is the sequence of ops.
        count: its length.
        latest: scratch, by op.
        end: by time, set to the time at which the result of the run is last read, or to the time of
            the run if its result is not read.
        live: by time, set to the live bytes, as a share of the limit.

    Returns:
        Whether the results that each run reads are made before it; the extra time in mean costs;
        the bytes above the limit, as shares of the limit, summed over time; the largest share.
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
    """Draws a run before time t whose result is alive at t and read later; -1 if none is found."""
    for _ in range(TRIES):
        s = below(random, t) if t > 0 else 0
        if s < t and end[s] > t:
            return s
    return -1


@compiled
def shift(runs: Ints, source: int, target: int) -> None:
    """Moves the run at time `source` to time `target`; the runs in between close up."""
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
def anneal(
    graph: Graph, start: Ints, heat: Heat, work: int, seed: int
) -> tuple[float, Ints, float, Ints, int]:
    """Searches for the cheapest sequence within the limit.

    Args:
        graph: the ops.
        start: a sequence in which every run comes after the runs whose results it reads.
        heat: the temperatures and the penalty.
        work: limit on the runs and reads measured.
        seed: the seed of the random numbers; positive.

    Returns:
        The extra time of the best sequence within the limit, in mean costs (inf if none was found);
        this sequence; the lowest peak of any sequence, as a share of the limit; that sequence; the
        runs and reads measured.
    """
    n = len(graph.size)
    most = 4 * n + len(start)
    runs, trial = np.zeros(most + 2, np.int64), np.zeros(most + 2, np.int64)
    end, trial_end = np.zeros(most + 2, np.int64), np.zeros(most + 2, np.int64)
    live, trial_live = np.zeros(most + 3), np.zeros(most + 3)
    latest, times = np.zeros(n, np.int64), np.zeros(n, np.int64)
    high = np.zeros(most + 2, np.int64)
    random = np.array([seed], np.uint64)
    count = len(start)
    for t in range(count):
        runs[t] = trial[t] = start[t]
        times[start[t]] += 1
    _, time, above, peak = measure(graph, runs, count, latest, end, live)
    energy = time + heat.penalty * above
    best, best_runs = np.inf, start.copy()
    lowest, lowest_runs = peak, start.copy()
    if above <= 0:
        best = time
    a_move = len(graph.reads)
    chain = np.zeros(LONGEST, np.int64)
    done = highs = links = 0
    for t in range(count):
        if live[t] > 1.0 + 1e-12:
            high[highs] = t
            highs += 1
    while done < work:
        temperature = heat.hot * (heat.cold / heat.hot) ** (done / work)
        aimed = highs > 0 and below(random, 4) > 0
        t = high[below(random, highs)] if aimed else below(random, count)
        draw = below(random, 8)
        new, kind, v, place = count, MOVE, -1, -1
        done += 20
        if draw < 2:  # add a copy of a run that is alive at t, before its next reader
            s = alive_at(end, t, random)
            if s < 0 or count + LONGEST > most:
                continue
            v, kind = runs[s], ADD
            place = next_reader(graph, runs, v, t + 1, end[s])
            if below(random, 3) == 0:
                place = max(t + 1, place - below(random, BEYOND))
            links = 1
            chain[0] = v
            if below(random, 2) == 0:
                links = collect(graph, runs, end, place, chain)
            for k in range(links):
                insert(trial, count + k, place + k, chain[k])
            new = count + links
        elif draw < 4:  # remove a copy
            if count == n:
                continue
            s = -1
            for _ in range(30):
                s = below(random, count)
                if times[runs[s]] > 1:
                    break
            if times[runs[s]] < 2:
                continue
            v, kind, place = runs[s], REMOVE, s
            delete(trial, count, s)
            new = count - 1
        else:
            s, target = t, t
            if aimed and draw < 7:
                s = alive_at(end, t, random)
                if s < 0:
                    continue
                if below(random, 2):
                    target = min(t + below(random, BEYOND), count - 1)
                else:  # the last reader goes before t
                    s = end[s]
                    target = max(t - below(random, BEYOND), 0)
            else:
                by = 1 + below(random, NEAR)
                target = s + by if below(random, 2) else s - by
                target = min(max(target, 0), count - 1)
            if s == target:
                continue
            target = reachable(graph, runs, s, target)
            if s == target:
                continue
            shift(trial, s, target)
            v, place = s, target
        valid, trial_time, trial_above, trial_peak = measure(
            graph, trial, new, latest, trial_end, trial_live
        )
        done += new + a_move
        rise = trial_time + heat.penalty * trial_above - energy
        if valid and (rise <= 0 or uniform(random) < np.exp(-rise / temperature)):
            if kind == ADD:
                for k in range(links):
                    insert(runs, count + k, place + k, chain[k])
                    times[chain[k]] += 1
            elif kind == REMOVE:
                delete(runs, count, place)
                times[v] -= 1
            else:
                shift(runs, v, place)
            count = new
            end, trial_end = trial_end, end
            live, trial_live = trial_live, live
            energy += rise
            highs = 0
            for t in range(count):
                if live[t] > 1.0 + 1e-12:
                    high[highs] = t
                    highs += 1
            if trial_above <= 0 and trial_time < best - 1e-12:
                best, best_runs = trial_time, runs[:count].copy()
            if trial_peak < lowest:
                lowest, lowest_runs = trial_peak, runs[:count].copy()
        elif kind == ADD:
            for k in range(links):
                delete(trial, new - k, place)
        elif kind == REMOVE:
            insert(trial, new, place, v)
        else:
            shift(trial, place, v)
    return best, best_runs, lowest, lowest_runs, done


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
    """Completes a chain of ops to copy at time `place`, which begins as the single op chain[0].

    Adds the ops whose results the chain reads and that are no longer alive at `place`, up to
    LONGEST ops. Then sorts the chain by the ops' numbers, which is an order in which they can run.
    Returns the length of the chain.
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

    The run must not pass a reader of its result, nor a run whose result it reads.
    """
    v = runs[s]
    t = s
    while t < target and not reads_op(graph, runs[t + 1], v) and runs[t + 1] != v:
        t += 1
    while t > target and not reads_op(graph, v, runs[t - 1]) and runs[t - 1] != v:
        t -= 1
    return t
