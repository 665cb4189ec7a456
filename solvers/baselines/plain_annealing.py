"""A plain simulated annealing: moves one op at a time, with the peak as cost.

It shares only the arrays and their measuring with `solvers/order/annealing.py`: it has no limit,
aims at no buffer, and takes no other ops along. A local search has to beat it.
"""

from __future__ import annotations

import time
from math import inf

import numpy as np

from roam.core.problem import OpId, Problem
from roam.solvers.jit import compiled
from roam.solvers.order.annealing import below, uniform
from roam.solvers.order.tables import Ints, Tables, measure, measured, tables

MOVES = 200  # for each op, between two looks at the clock
HOT, COLD = 0.5, 0.005  # temperatures, in sizes of the mean buffer


def plain_annealing(problem: Problem, phase: int, seconds: float = inf) -> list[OpId]:
    """Returns the best order of a phase that is found in so many seconds, from program order on."""
    arrays = tables(problem, phase)
    ops = problem.phases[phase]
    order = best_order = np.arange(len(ops))
    best: float = inf
    mean = float(arrays.size.mean()) if len(arrays.size) else 1.0
    start = time.monotonic()
    seed, spent = 1, 0.0
    while spent < seconds:
        heat = HOT * mean * (COLD / HOT) ** (spent / seconds)
        peak, found, order = wander(arrays, order.copy(), MOVES * len(ops), heat, seed)
        if peak < best:
            best, best_order = peak, found
        seed, spent = seed + 1, time.monotonic() - start
    return [ops[k] for k in best_order]


@compiled
def wander(
    phase: Tables, order: Ints, moves: int, heat: float, seed: int
) -> tuple[int, Ints, Ints]:
    """Moves single ops at one temperature.

    Returns the lowest peak, its order, and the last order.
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
    """Moves the op at time `source` to time `target`, and the ops in between by one."""
    k = order[source]
    step = 1 if target > source else -1
    for t in range(source, target, step):
        order[t] = order[t + step]
        time[order[t]] = t
    order[target], time[k] = k, target
