"""A plain simulated annealing over orders, as a baseline for roam's `solvers/order/annealing.py`.

It moves one op at a time, to a random place in the order, and minimizes the peak. Roam's annealing
moves several ops together, aims most moves at buffers that are alive while too many bytes are, and
searches for an order whose live bytes keep within a given limit. The two share only the arrays that
describe a phase, the code that measures an order, and the random numbers. Roam's annealing is of
use only if it finds lower peaks than this plain annealing.
"""

from __future__ import annotations

import time
from math import inf

import numpy as np

from roam.core.problem import OpId, Problem
from roam.solvers.jit import compiled
from roam.solvers.order.tables import Ints, Tables, measure, measured, tables
from roam.solvers.xorshift import below, uniform

MOVES = 200  # number of moves between two looks at the clock, per op of the phase
HOT, COLD = 0.5, 0.005  # first and last temperature, as multiples of the mean size of a buffer


def plain_annealing(problem: Problem, phase: int, seconds: float) -> list[OpId]:
    """Returns the best order of a phase that annealing finds in about `seconds` seconds.

    The search starts from program order. The seconds are CPU time of the process, so that the
    search takes as many steps on a busy machine as on an idle one. The time to compile the search
    is not counted. The clock is read after every MOVES moves per op, so a large phase takes longer.
    With 0 seconds, returns program order.
    """
    ops = problem.phases[phase]
    if not ops:
        return []
    arrays = tables(problem, phase)
    order = best_order = np.arange(len(ops))
    best: float = inf
    mean = max(1.0, float(arrays.size.mean())) if len(arrays.size) else 1.0
    wander(arrays, order.copy(), 0, 1.0, 1)  # the first call of a process compiles it
    start = time.process_time()
    seed, spent = 1, 0.0
    while spent < seconds:
        heat = HOT * mean * (COLD / HOT) ** (spent / seconds)
        peak, found, order = wander(arrays, order.copy(), MOVES * len(ops), heat, seed)
        if peak < best:
            best, best_order = peak, found
        seed, spent = seed + 1, time.process_time() - start
    return [ops[k] for k in best_order]


@compiled
def wander(
    phase: Tables, order: Ints, moves: int, heat: float, seed: int
) -> tuple[int, Ints, Ints]:
    """Moves single ops at random, at one temperature.

    Args:
        phase: the ops and buffers of the phase, as arrays.
        order: by time, the op that runs then (its place in program order). Changed to the last
            order that was accepted.
        moves: how many moves to try.
        heat: the temperature, in bytes.
        seed: the seed of the random numbers; positive.

    Returns:
        best: the lowest peak found, in bytes.
        best_order: the order with this peak.
        order: the array `order`, with the last order accepted.
    """
    n = len(order)
    random = np.array([seed], np.uint64)
    time, during, after = measured(phase, order)
    peak = during.max()
    best, best_order = peak, order.copy()
    for _ in range(moves):
        source = below(random, n)
        k = order[source]
        low, high = 0, n - 1
        for j in range(phase.before_at[k], phase.before_at[k + 1]):
            low = max(low, time[phase.before[j]] + 1)
        for j in range(phase.after_at[k], phase.after_at[k + 1]):
            high = min(high, time[phase.after[j]] - 1)
        target = low + below(random, high - low + 1)
        first, last = min(source, target), max(source, target) + 1
        shift(order, time, source, target)
        measure(phase, order, time, first, last, during, after)
        changed = during.max()
        if changed <= peak or uniform(random) < np.exp((peak - changed) / heat):
            peak = changed
            if peak < best:
                best, best_order = peak, order.copy()
        else:
            shift(order, time, target, source)
            measure(phase, order, time, first, last, during, after)
    return best, best_order, order


@compiled
def shift(order: Ints, time: Ints, source: int, target: int) -> None:
    """Moves the op at time `source` to time `target`. Shifts each op in between by one time.

    `order` is, by time, the op that runs then; `time` is, by op, the time at which the op runs.
    """
    k = order[source]
    step = 1 if target > source else -1
    for t in range(source, target, step):
        order[t] = order[t + step]
        time[order[t]] = t
    order[target], time[k] = k, target
