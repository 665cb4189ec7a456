"""Simulated annealing over sequences of op runs, in which an op may run several times.

The energy of a sequence is the extra time of its copies, in mean costs of an op, plus a penalty for
the live bytes above the limit, summed over time. There are three kinds of moves. One adds a copy of
an op before a reader of its result, alone or with copies of ops whose results that copy needs. One
removes one run of an op that runs several times. One moves a run to another time. Most moves aim at
a time at which the live bytes exceed the limit. `run_sequences` has a picture of a sequence.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from roam.solvers.budget.run_sequences import (
    LONGEST,
    Graph,
    Ints,
    alive_at,
    collect,
    delete,
    insert,
    measure,
    next_reader,
    reachable,
    shift,
)
from roam.solvers.jit import compiled
from roam.solvers.xorshift import below, uniform

ADD, REMOVE, MOVE = 0, 1, 2
NEAR = 30  # limit on the places by which a move in a random direction shifts a run
BEYOND = 6  # a move puts a run fewer than this many places beyond the time that it aims at


class Heat(NamedTuple):
    """The temperatures and the penalty of an annealing, in units of the mean cost of an op.

    Attributes:
        hot, cold: the first and the last temperature.
        penalty: each time at which the live bytes exceed the limit adds this number, multiplied by
            the excess, to the energy. The excess is given as a share of the limit.
    """

    hot: float
    cold: float
    penalty: float


@compiled
def anneal(
    graph: Graph, start: Ints, heat: Heat, work: int, seed: int
) -> tuple[float, Ints, float, Ints, int]:
    """Searches for the cheapest sequence of op runs whose peak is within the limit on live bytes.

    `graph` gives all sizes as shares of this limit.

    Args:
        graph: the ops.
        start: the first sequence. Runs every op at least once, and every run comes after the runs
            whose results it reads.
        heat: the temperatures and the penalty.
        work: limit on the effort. Each attempted move counts 20, and a move whose sequence is
            measured also the sequence's length and the number of reads in the graph. The last move
            may exceed the limit.
        seed: the seed of the random numbers; positive.

    Returns:
        extra: the extra time of the cheapest sequence found within the limit, in mean costs of an
            op; inf if none was found.
        cheapest: this sequence; `start` if none was found.
        peak: the lowest peak of all sequences found, as a multiple of the limit.
        lowest: the sequence with this peak.
        done: the effort spent, counted as in `work`.
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
        if draw < 2:  # copy an op whose result is alive at t, before the result's next reader
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
                else:  # move the last reader of the run's result to t or a little before
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
