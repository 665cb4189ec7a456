"""Finds the last users of buffers after a move, and when the move lets more or fewer bytes live.

The ops that a move takes past others are its *group* (`moves.py`); the others *stay*. A buffer that
no op of the group makes or uses is alive at the same ops before and after the move. Any other
buffer is alive at a few ops more, or fewer, which follow one another in the order:

    the buffer             if the group moves later           if it moves sooner, to time `first`
    made by the group      dead until the group makes it      alive from `first` on
    last used by the       alive until the group has run      dies at its last user that stays, if
    group                                                     that runs at `first` or later; dies in
                                                              the group if not
    used by the group,     alive until the group has run      no change
    last used in between

`add` notes the two ends of each such stretch of ops in an array by time. The running sum of this
array is the change of the live bytes.

`is_moved` and `add` take arrays, and no tuple of arrays: numba would count the references of all
its arrays at each call, which took half of the time of a move.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from roam.solvers.jit import compiled
from roam.solvers.order.present_order import Present, hand_over
from roam.solvers.order.tables import EARLIER, Ints, Tables

# limit on the ops of a group: of the moves of larger groups, less than 2 in 100 were accepted
MOST_OPS = 8


class Room(NamedTuple):
    """Arrays for the move that is tried at present.

    Attributes:
        moved: by op, the number of the last move whose group it was in. A group that was given up
            because it became too large counts too. A group is the ops that a move takes past
            others.
        group: the ops of the group, in the order in which they run.
        inside: by index in `group`, the bytes alive while the op runs after the move.
        ends: by time, the bytes by which the change of the live bytes is higher than at the time
            before. All 0 between two moves.
        staying: by the time before the move of an op outside the group, the bytes alive while this
            op runs after the move.
        buffers, users: the buffers whose last user the move changes, and for each of them its last
            user before the move.
        ops, saved: the ops that save other bytes after the move by writing results over dying
            buffers, and for each of them the bytes that it saved before.
    """

    moved: Ints
    group: Ints
    inside: Ints
    ends: Ints
    staying: Ints
    buffers: Ints
    users: Ints
    ops: Ints
    saved: Ints


@compiled
def room_for(phase: Tables) -> Room:
    """Returns arrays that are large enough for any move in a phase."""
    n, most = len(phase.makes), len(phase.uses) + 1
    return Room(
        np.zeros(n, np.int64),
        np.empty(MOST_OPS, np.int64),
        np.empty(MOST_OPS, np.int64),
        np.zeros(n + 1, np.int64),
        np.empty(n, np.int64),
        np.empty(most, np.int64),
        np.empty(most, np.int64),
        np.empty(2 * most, np.int64),
        np.empty(2 * most, np.int64),
    )


@compiled
def move_later(
    phase: Tables, now: Present, room: Room, number: int, count: int, last: int
) -> tuple[int, int]:
    """Updates the last user of each buffer as if the group moved later, to just before time `last`.

    The group is the ops that the move takes past others.

    Args:
        phase: the ops and buffers.
        now: the present order. Changes its `user` and `frees`.
        room: arrays for the move, with the group. In `ends` it notes at which times more or fewer
            bytes are alive. In `buffers` and `users` it notes which buffers get another last user,
            and the last user that each of them had before.
        number: the number of the move, which marks the ops of the group in `room.moved`.
        count: the number of ops in the group.
        last: after the move, the group runs at the times [last - count, last).

    Returns:
        handed: the number of buffers that get another last user.
        looked: the number of buffer uses looked at.
    """
    time, user, size = now.time, now.user, phase.size
    moved, ends = room.moved, room.ends
    handed = looked = 0
    for i in range(count - 1, -1, -1):  # backwards: so the last op that uses a buffer comes first
        k = room.group[i]
        t = time[k]
        add(ends, t + 1, last, -phase.stays[k])
        for j in range(phase.made_at[k], phase.made_at[k + 1]):
            b = phase.made[j]
            add(ends, t + 1, min(time[user[b]] + 1, last), -size[b])
        looked += phase.uses_at[k + 1] - phase.uses_at[k]
        for j in range(phase.uses_at[k], phase.uses_at[k + 1]):
            b = phase.uses[j]
            dies_at = user[b]
            if time[dies_at] >= last or is_moved(moved, number, phase.maker[b]):
                continue
            if not is_moved(moved, number, dies_at):
                add(ends, time[dies_at] + 1, last, size[b])
                room.buffers[handed], room.users[handed] = b, dies_at
                handed += 1
                hand_over(phase, now, b, k)
            elif dies_at == k:
                add(ends, t + 1, last, size[b])
    return handed, looked


@compiled
def move_sooner(
    phase: Tables, now: Present, room: Room, number: int, count: int, first: int
) -> tuple[int, int]:
    """Updates the last user of each buffer as if the group moved sooner, to time `first`.

    The group is the ops that the move takes past others.

    Args:
        phase: the ops and buffers.
        now: the present order. Changes its `user` and `frees`.
        room: arrays for the move, with the group. In `ends` it notes at which times more or fewer
            bytes are alive. In `buffers` and `users` it notes which buffers get another last user,
            and the last user that each of them had before.
        number: the number of the move, which marks the ops of the group in `room.moved`.
        count: the number of ops in the group.
        first: after the move, the group runs at the times [first, first + count).

    Returns:
        handed: the number of buffers that get another last user.
        looked: the number of buffer uses looked at.
    """
    time, user, size = now.time, now.user, phase.size
    moved, ends = room.moved, room.ends
    handed = looked = 0
    for i in range(count):  # forwards: the op that makes a buffer comes before its users
        k = room.group[i]
        t = time[k]
        add(ends, first, t, phase.stays[k])
        for j in range(phase.made_at[k], phase.made_at[k + 1]):
            b = phase.made[j]
            if (
                not is_moved(moved, number, user[b])
                or last_staying(phase, time, moved, number, b) >= first
            ):
                add(ends, first, t, size[b])
        looked += phase.uses_at[k + 1] - phase.uses_at[k]
        for j in range(phase.uses_at[k], phase.uses_at[k + 1]):
            b = phase.uses[j]
            if user[b] != k:
                continue
            looked += phase.users_at[b + 1] - phase.users_at[b]
            dies, maker = last_staying(phase, time, moved, number, b), phase.maker[b]
            if dies >= first:
                add(ends, dies + 1, t, -size[b])
                room.buffers[handed], room.users[handed] = b, k
                handed += 1
                hand_over(phase, now, b, now.order[dies])
            else:
                add(ends, time[maker] + 1 if is_moved(moved, number, maker) else first, t, -size[b])
    return handed, looked


@compiled
def is_moved(moved: Ints, number: int, k: int) -> bool:
    """Returns whether the move `number` takes op k past others.

    `moved` has, by op, the number of the last move that took it past others. Returns False if k is
    EARLIER, which stands for any op of an earlier phase.
    """
    return k != EARLIER and moved[k] == number


@compiled
def last_staying(phase: Tables, time: Ints, moved: Ints, number: int, b: int) -> int:
    """Returns the time of the last user of buffer b that the move `number` does not take along.

    `time` has, by op, its time before the move, and `moved` the number of the last move that took
    the op past others. Returns -1 if the move takes all users of the buffer past other ops.
    """
    last = -1
    for j in range(phase.users_at[b], phase.users_at[b + 1]):
        k = phase.users[j]
        if moved[k] != number:
            last = max(last, time[k])
    return last


@compiled
def add(ends: Ints, start: int, end: int, size: int) -> None:
    """Notes in `ends` that a move adds `size` live bytes at the times [start, end).

    The running sum of `ends` is the change of the live bytes. The times are those before the move.
    At the times of ops that the move takes past others, the sum has no meaning.
    """
    ends[start] += size
    ends[end] -= size
