"""Moves of the annealing: computes what a move would change, then makes the move or undoes it.

    time     first       last       X moves later, to just before `last`, with c, which waits for X:
    order     X  a  b  c  d         a  b  d  X  c. The ops that move are the *group*; they keep
                                    their order, and so do the others, which *stay*.

`handing_over.py` notes at which times the move changes the bytes alive while the ops run that stay.
Adding up these notes gives the change at each time, without looking at the ops that stay. The order
itself is changed only if the annealing accepts the move, and few moves are accepted.
"""

from __future__ import annotations

from typing import NamedTuple

from roam.solvers.jit import compiled
from roam.solvers.order.handing_over import (
    MOST_OPS,
    Room,
    add,
    move_later,
    move_sooner,
)
from roam.solvers.order.present_order import Present, hand_over, live_before, saves
from roam.solvers.order.tables import Ints, Tables


class Tried(NamedTuple):
    """A move that was tried, but not made.

    A move takes a group of ops past other ops, to an earlier or a later time.

    Attributes:
        later: whether the group moves later.
        first, last: only ops that run at the times [first, last) change their place.
        moving: the number of ops in the group; 0 if the move is not possible.
        handed: how many buffers have another last user after the move.
        resaved: how many ops save other bytes after the move by writing over dying buffers.
        excess: by how many bytes the sum, over time, of the live bytes above the limit rises.
        live: by how many bytes the sum, over time, of the live bytes rises.
        looked: the number of dependencies and buffer uses looked at.
    """

    later: bool
    first: int
    last: int
    moving: int
    handed: int
    resaved: int
    excess: int
    live: int
    looked: int


@compiled
def try_move(
    phase: Tables, now: Present, room: Room, number: int, k: int, target: int, limit: int
) -> Tried:
    """Computes what changes if op k moves to time `target`. Follow it up with `make` or `undo`.

    The ops that have to stay before or after op k move with it. Afterwards the last users in `now`,
    and the bytes freed and saved by each op, are those after the move, and all else in `now` is as
    before the move. The move is not possible (`Tried.moving` is 0) if more than MOST_OPS ops would
    move, or if they would pass no other op. Then nothing in `now` changes, and there is nothing to
    follow up.

    Args:
        phase: the ops and buffers.
        now: the present order.
        room: arrays for the move.
        number: the number of the move; higher than that of every move before.
        k: the op to move.
        target: the time to which op k moves, other than its present time.
        limit: the limit on live bytes.
    """
    later = target > now.time[k]
    first, last = min(now.time[k], target), max(now.time[k], target) + 1
    count, looked = gather(phase, now.time, room, number, k, target)
    if count == 0 or count == last - first:
        return Tried(later, first, last, 0, 0, 0, 0, 0, looked)
    live = live_before(phase, now, last if later else first)
    if later:
        handed, uses = move_later(phase, now, room, number, count, last)
    else:
        handed, uses = move_sooner(phase, now, room, number, count, first)
    resaved = save_again(phase, now, room, number, handed)
    measure_group(phase, now, room, count, live, later)
    excess, total = add_up(now, room, count, first, last, limit)
    return Tried(later, first, last, count, handed, resaved, excess, total, looked + uses)


@compiled
def gather(
    phase: Tables, time: Ints, room: Room, number: int, k: int, target: int
) -> tuple[int, int]:
    """Writes to `room.group` op k and the ops that have to move with it to time `target`.

    If op k moves later, these are the ops that wait for it, directly or not, and run at `target` or
    before. If it moves sooner, these are the ops that it waits for and that run at `target` or
    later. Lists them in the order in which they run, and sets `room.moved` to `number` for each of
    them. `time` has, by op, the time at which it runs now.

    Returns:
        count: the number of ops written; 0 if there are more than MOST_OPS.
        looked: the number of dependencies looked at.
    """
    later = target > time[k]
    at, beside = (phase.after_at, phase.after) if later else (phase.before_at, phase.before)
    group, moved = room.group, room.moved
    group[0], moved[k] = k, number
    count, i, looked = 1, 0, 0
    while i < count:
        mover = group[i]
        i += 1
        looked += at[mover + 1] - at[mover]
        for j in range(at[mover], at[mover + 1]):
            other = beside[j]
            in_the_way = time[other] <= target if later else time[other] >= target
            if not in_the_way or moved[other] == number:
                continue
            if count == MOST_OPS:
                return 0, looked
            group[count], moved[other] = other, number
            count += 1
    for i in range(1, count):  # sorts the group by time
        mover, j = group[i], i
        while j > 0 and time[group[j - 1]] > time[mover]:
            group[j] = group[j - 1]
            j -= 1
        group[j] = mover
    return count, looked


@compiled
def save_again(phase: Tables, now: Present, room: Room, number: int, handed: int) -> int:
    """Computes anew the bytes that ops save by writing results over dying buffers.

    Looks only at ops that were, or have become, the last user of a buffer whose last user the move
    `number` changes (`room.buffers[:handed]`). Changes `now.saved`, and notes the old values in
    `room.saved`. For ops that the move does not take past others, notes in `room.ends` what they
    save more or less. Returns the number of ops that save other bytes now.
    """
    count = 0
    for c in range(handed):
        for k in (room.users[c], now.user[room.buffers[c]]):
            if phase.over_at[k] == phase.over_at[k + 1]:
                continue
            saved = saves(phase, now.user, k)
            if saved != now.saved[k]:
                if room.moved[k] != number:
                    add(room.ends, now.time[k], now.time[k] + 1, now.saved[k] - saved)
                room.ops[count], room.saved[count] = k, now.saved[k]
                now.saved[k] = saved
                count += 1
    return count


@compiled
def measure_group(
    phase: Tables, now: Present, room: Room, count: int, live: int, later: bool
) -> None:
    """Computes the live bytes while the ops that a move takes past others run after the move.

    Writes them to `room.inside`. The ops are `room.group[:count]`. `live` is the bytes alive after
    the last of these ops if they move later, and the bytes alive before the first of them if they
    move sooner.
    """
    if later:
        for i in range(count):
            live += now.frees[room.group[i]] - phase.makes[room.group[i]]
    for i in range(count):
        k = room.group[i]
        room.inside[i] = live + phase.makes[k] + phase.scratch[k] - now.saved[k]
        live += phase.makes[k] - now.frees[k]


@compiled
def add_up(
    now: Present, room: Room, count: int, first: int, last: int, limit: int
) -> tuple[int, int]:
    """Adds up what a move changes in the live bytes at the times [first, last).

    Writes to `room.staying` the bytes alive, after the move, while each op runs that the move does
    not take past others. Sets `room.ends` to 0. `room.group[:count]` are the ops that the move
    takes past others.

    Returns:
        excess: by how many bytes the sum, over time, of the live bytes above `limit` rises.
        total: by how many bytes the sum, over time, of the live bytes rises.
    """
    during, ends = now.during, room.ends
    excess = total = change = 0
    t = first
    for i in range(count + 1):
        stop = now.time[room.group[i]] if i < count else last
        while t < stop:  # a loop without a branch, which compilers make fast
            change += ends[t]
            ends[t] = 0
            old = during[t]
            new = old + change
            room.staying[t] = new
            excess += max(new - limit, 0) - max(old - limit, 0)
            total += change
            t += 1
        if i < count:
            change += ends[t]
            ends[t] = 0
            excess += max(room.inside[i] - limit, 0) - max(during[t] - limit, 0)
            total += room.inside[i] - during[t]
            t += 1
    ends[last] = 0
    return excess, total


@compiled
def make(now: Present, room: Room, tried: Tried) -> None:
    """Makes the move `tried`: changes the order `now` and its live bytes as `try_move` computed."""
    order, time, during, group = now.order, now.time, now.during, room.group
    count, first, last = tried.moving, tried.first, tried.last
    step = 1 if tried.later else -1
    start, end = (first, last) if tried.later else (last - 1, first - 1)
    free, i = start, 0 if tried.later else count - 1
    for t in range(start, end, step):
        if 0 <= i < count and order[t] == group[i]:
            i += step
        else:
            order[free], during[free] = order[t], room.staying[t]
            time[order[free]] = free
            free += step
    start = last - count if tried.later else first
    for i in range(count):
        order[start + i], during[start + i] = group[i], room.inside[i]
        time[group[i]] = start + i


@compiled
def undo(phase: Tables, now: Present, room: Room, tried: Tried) -> None:
    """Restores what `try_move` has changed in `now`: last users, and the bytes freed and saved."""
    for c in range(tried.handed - 1, -1, -1):
        hand_over(phase, now, room.buffers[c], room.users[c])
    for c in range(tried.resaved - 1, -1, -1):
        now.saved[room.ops[c]] = room.saved[c]
