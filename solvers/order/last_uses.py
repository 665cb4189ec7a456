"""Measures an order that one move has changed, without looking at the users of every buffer again.

    time      0  1  2  3  4  5      b, which u, v and w use, dies at w, its last user. A move takes
    order     a  u  v  w  x  y      some ops past others. The moved ops keep their order, and so do
                 └──┴──┘ b          the others: only buffers that a moved op uses may get another
                                    last user.

So the bytes that die at each op are kept, and a move updates them for the buffers of the ops that
moved. Measuring one op at one time then takes a few additions, however many buffers the op uses.
Only the users of buffers that its results may be written over are still looked at.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from roam.solvers.jit import compiled
from roam.solvers.order.tables import Ints, Tables, written_over


class LastUses(NamedTuple):
    """Which op uses each buffer last, in the present order, and the changes of the present move.

    Attributes:
        user: by buffer, the op that uses it last.
        frees: by op, the bytes of the buffers that die just after it, its unused results included.
        changed: the buffers whose last user the present move has changed. Only the first items
            count, as many as `renew` says; the rest is room for larger moves.
        before: by index in `changed`, the last user of that buffer before the change.
    """

    user: Ints
    frees: Ints
    changed: Ints
    before: Ints


@compiled
def last_uses(phase: Tables, time: Ints) -> LastUses:
    """Finds the last user of each buffer, and the bytes that die at each op; no move is recorded.

    `time` is, by op, the time at which it runs.
    """
    buffers = len(phase.size)
    user, frees = np.empty(buffers, np.int64), phase.unused.copy()
    for b in range(buffers):
        user[b] = last_user(phase, time, b)
        frees[user[b]] += phase.size[b]
    room = len(phase.uses)
    return LastUses(user, frees, np.empty(room, np.int64), np.empty(room, np.int64))


@compiled
def last_user(phase: Tables, time: Ints, b: int) -> int:
    last = phase.users[phase.users_at[b]]
    for j in range(phase.users_at[b] + 1, phase.users_at[b + 1]):
        if time[phase.users[j]] > time[last]:
            last = phase.users[j]
    return last


@compiled
def renew(phase: Tables, time: Ints, uses: LastUses, moved: Ints, later: bool) -> tuple[int, int]:
    """Updates the last users after a move.

    Args:
        phase: the ops and buffers.
        time: by op, the time at which it runs after the move.
        uses: the last users before the move; updated. Records each change, so that `restore` can
            undo it.
        moved: the ops that moved past others, all in the same direction.
        later: whether they run later than before the move, or sooner.

    Returns:
        How many changes were made, and how many uses were looked at.
    """
    count = looked = 0
    for k in moved:
        looked += phase.uses_at[k + 1] - phase.uses_at[k]
        for i in range(phase.uses_at[k], phase.uses_at[k + 1]):
            b = phase.uses[i]
            old = new = uses.user[b]
            if later:
                if time[k] > time[old]:
                    new = k
            elif k == old:
                looked += phase.users_at[b + 1] - phase.users_at[b]
                new = last_user(phase, time, b)
            if new != old:
                uses.changed[count], uses.before[count] = b, old
                count += 1
                hand_over(phase, uses, b, old, new)
    return count, looked


@compiled
def restore(phase: Tables, uses: LastUses, count: int) -> None:
    """Undoes the `count` changes that `renew` has made for a move, from the last to the first."""
    for j in range(count - 1, -1, -1):
        b = uses.changed[j]
        hand_over(phase, uses, b, uses.user[b], uses.before[j])


@compiled
def hand_over(phase: Tables, uses: LastUses, b: int, old: int, new: int) -> None:
    uses.frees[old] -= phase.size[b]
    uses.frees[new] += phase.size[b]
    uses.user[b] = new


@compiled
def remeasure(
    phase: Tables, order: Ints, time: Ints, uses: LastUses, first: int, last: int, during: Ints,
    after: Ints,
) -> None:  # fmt: skip
    """Computes the live bytes of the ops at times [first, last), as `tables.measure` does.

    `uses` has the last users of the order `order`; the other arguments are those of `measure`.
    """
    live = phase.start if first == 0 else after[first - 1]
    for t in range(first, last):
        k = order[t]
        during[t] = live + phase.makes[k] + phase.scratch[k]
        if phase.over_at[k] < phase.over_at[k + 1]:
            during[t] -= written_over(phase, k, time, t)
        live += phase.makes[k] - uses.frees[k]
        after[t] = live
