"""Holds the order that the annealing changes, its live bytes, and the last users of buffers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from roam.solvers.jit import compiled
from roam.solvers.order.tables import MOST_PAIRS, Ints, Tables, measured, pairs_save


class Present(NamedTuple):
    """An order of a phase, with its live bytes, and the op at which each buffer dies.

    Attributes:
        order: by time, the op that runs then.
        time: by op, the time at which it runs.
        during: by time, the bytes alive while its op runs.
        user: by buffer, the op that uses it last.
        frees: by op, the bytes of the buffers that die just after it, its unused results included.
        saved: by op, the bytes of those of its results that are written over dying buffers.
    """

    order: Ints
    time: Ints
    during: Ints
    user: Ints
    frees: Ints
    saved: Ints


@compiled
def present(phase: Tables, order: Ints) -> Present:
    """Measures an order: its live bytes, and the last user of each buffer.

    `order` has, by time, the op that runs then.
    The result holds the array `order` itself, not a copy.
    """
    time, during, _ = measured(phase, order)
    user, frees = np.empty(len(phase.size), np.int64), phase.unused.copy()
    for b in range(len(user)):
        last = phase.users[phase.users_at[b]]
        for j in range(phase.users_at[b] + 1, phase.users_at[b + 1]):
            if time[phase.users[j]] > time[last]:
                last = phase.users[j]
        user[b] = last
        frees[last] += phase.size[b]
    saved = np.empty(len(order), np.int64)
    for k in range(len(order)):
        saved[k] = saves(phase, user, k)
    return Present(order, time, during, user, frees, saved)


@compiled
def saves(phase: Tables, user: Ints, k: int) -> int:
    """Returns the bytes that op k saves by writing results over dying buffers.

    `user` has, by buffer, the op that uses it last. `tables.written_over` computes the same bytes
    from the times at which the ops run.
    """
    dying = 0
    first = phase.over_at[k]
    for j in range(first, min(phase.over_at[k + 1], first + MOST_PAIRS)):
        if user[phase.over_dying[j]] == k:
            dying |= 1 << (j - first)
    return pairs_save(phase, k, dying)


@compiled
def live_before(phase: Tables, now: Present, t: int) -> int:
    """Returns the bytes alive just before the op at time t runs.

    If t is `len(now.order)`, returns the bytes alive at the end of the phase.
    """
    if t == 0:
        return phase.start
    k = now.order[t - 1]
    return now.during[t - 1] - phase.scratch[k] + now.saved[k] - now.frees[k]


@compiled
def hand_over(phase: Tables, now: Present, b: int, new: int) -> None:
    """Makes op `new` the last user of buffer b: changes `now.user` and `now.frees`."""
    now.frees[now.user[b]] -= phase.size[b]
    now.frees[new] += phase.size[b]
    now.user[b] = new
