"""Simulated annealing: changes the order of one phase until its live bytes keep within a limit.

A move takes one op, X, to another time, together with the ops that have to stay before or after X:

    later      a X b c d e      X goes behind d, with c, which waits for X:     a b d X c e
    sooner     a b c d X e      X goes before b, with c, for which X waits:     a c X b d e

Only the live bytes between the old and the new time of X change (`moves.py` computes them). At
every other time the same ops have run as without the move, so the same bytes are alive.

The cost of an order is the number of bytes by which its live curve exceeds the limit, summed over
all times. A small share of the live bytes at each time is added, so that the cost also tells apart
orders that differ only below the limit. A move that does not raise the cost is accepted. A move
that raises the cost is accepted with a probability that is lower, the more the cost rises and the
lower the temperature is. Most moves aim at a buffer that is alive at a time with more live bytes
than the limit: its maker moves to a later time, or its last user to an earlier time.
"""

from __future__ import annotations

import numpy as np

from roam.solvers.jit import compiled
from roam.solvers.order.handing_over import room_for
from roam.solvers.order.moves import make, try_move, undo
from roam.solvers.order.present_order import Present, present
from roam.solvers.order.tables import EARLIER, Ints, Tables
from roam.solvers.xorshift import below, uniform
from roam.solvers.zobrist import Words

REACH = 40  # limit on the places in the order by which a move that aims at no buffer shifts an op
FARTHEST = 4 * REACH  # a move that shifts an op by this many places, or more, is not tried
# a move that aims to lower the live bytes at a time takes its op 0 to BEYOND - 1 places past it
BEYOND = 8
AIMED = 3  # how many of 4 moves aim at a buffer that is alive at a time with too many live bytes
TRIES = 50  # limit on the random draws to find a buffer that is alive at a given time
SLOPE = 0.01  # share of the live bytes of each time that is added to the cost of an order
# number of moves between two changes of the temperature, and between two checks whether the present
# order has the lowest peak so far
STEADY = 64
# drawing a move and deciding on it count as so many steps; measured. All other steps of a move are
# counted one by one (`anneal`)
A_MOVE = 60
TIMES = 8  # adding up the live bytes at so many times of the order counts as one step; measured


@compiled
def anneal(
    phase: Tables, order: Ints, limit: int, work: int, hot: float, cold: float, seed: int
) -> tuple[int, Ints, int]:
    """Searches for an order that keeps within `limit` bytes, by simulated annealing.

    Ends as soon as it has such an order, or when `work` is spent. Every STEADY moves, and at the
    end, the present order is kept if its peak is the lowest so far.

    Args:
        phase: the ops and buffers of the phase.
        order: by time, the op that runs then (its index in program order). Changed to the last
            order that the annealing accepted.
        limit: the live bytes that the order should keep within.
        work: limit on the steps. A step looks at one dependency or at one user of a buffer, adds up
            the live bytes at TIMES times, or changes the order at one time. A move takes A_MOVE
            further steps.
        hot: the temperature at the beginning, in bytes.
        cold: the temperature at the end, in bytes.
        seed: the seed of the random numbers; positive.

    Returns:
        best: the lowest peak found, in bytes.
        best_order: the order with that peak.
        done: the number of steps.
    """
    n = len(order)
    random = np.array([seed], np.uint64)
    now, room = present(phase, order), room_for(phase)
    during = now.during
    best, best_order = during.max(), order.copy()
    above, place = np.empty(n, np.int64), np.full(n, -1, np.int64)
    # above[:count] lists the times with too many live bytes; place[t] is t's index in it, or -1
    count = 0
    for t in range(n):
        count = list_time(above, place, count, t, during[t] > limit)
    done = number = 0
    temperature = hot
    while count > 0 and done < work:
        number += 1
        done += A_MOVE
        if number % STEADY == 1:
            temperature = hot * (cold / hot) ** (done / work)
            best, best_order = better(now, above[:count], limit, best, best_order)
        k, target = propose(phase, now, above[below(random, count)], random)
        if target == now.time[k] or abs(target - now.time[k]) >= FARTHEST:
            continue
        tried = try_move(phase, now, room, number, k, target, limit)
        done += tried.looked
        if tried.moving == 0:
            continue
        done += (tried.last - tried.first) // TIMES
        cost = tried.excess + SLOPE * tried.live
        if cost <= 0 or uniform(random) < np.exp(-cost / temperature):
            make(now, room, tried)
            done += tried.last - tried.first
            for t in range(tried.first, tried.last):
                count = list_time(above, place, count, t, during[t] > limit)
        else:
            undo(phase, now, room, tried)
    best, best_order = better(now, above[:count], limit, best, best_order)
    return best, best_order, done


@compiled
def better(now: Present, above: Ints, limit: int, best: int, best_order: Ints) -> tuple[int, Ints]:
    """Returns the lower of two peaks, in bytes, and its order: the order `now` or the best so far.

    `best` is the peak of `best_order`. `above` lists the times at which the order `now` has more
    than `limit` bytes alive.
    """
    peak = limit if len(above) else now.during.max()
    for t in above:
        peak = max(peak, now.during[t])
    return (peak, now.order.copy()) if peak < best else (best, best_order)


@compiled
def list_time(above: Ints, place: Ints, count: int, t: int, listed: bool) -> int:
    """Adds a time to a list of times, or removes it from the list; a time is listed at most once.

    Args:
        above: its first `count` items are the list; changed.
        place: by time, its index in the list; -1 if the time is not in the list. Changed.
        count: the length of the list.
        t: the time to add or to remove.
        listed: whether `t` is to be in the list afterwards.

    Returns:
        The new length of the list.
    """
    if listed and place[t] < 0:
        above[count], place[t] = t, count
        return count + 1
    if not listed and place[t] >= 0:
        last = above[count - 1]
        above[place[t]], place[last] = last, place[t]
        place[t] = -1
        return count - 1
    return count


@compiled
def propose(phase: Tables, now: Present, high: int, random: Words) -> tuple[int, int]:
    """Draws a random move: returns an op and the time to which it should move.

    At time `high` more bytes are alive than the limit. AIMED of 4 moves aim at a buffer alive then:
    its maker moves later, or its last user sooner. The others take an op that runs at most REACH
    places from `high`, and shift it by up to REACH places. Returns an op with its present time if
    no move is found.
    """
    order, time, user = now.order, now.time, now.user
    n = len(order)
    if below(random, 4) < AIMED:
        buffer = alive_at(phase, time, user, high, random)
        if buffer >= 0:
            return aim(phase, time, buffer, user[buffer], high, random)
        return order[high], high
    k = order[within(high + below(random, 2 * REACH + 1) - REACH, n)]
    distance = 1 + below(random, REACH)
    return k, within(time[k] + (distance if below(random, 2) else -distance), n)


@compiled
def aim(
    phase: Tables, time: Ints, buffer: int, last: int, high: int, random: Words
) -> tuple[int, int]:
    """Draws a random move after which a buffer may be dead at time `high`.

    Args:
        phase: the ops and buffers.
        time: by op, the time at which it runs.
        buffer: the buffer, which is alive at time `high`.
        last: the op that uses the buffer last.
        high: a time with too many live bytes.
        random: the state of the random number generator; changed.

    Returns:
        An op and the time to which it should move: the op that makes the buffer and a time from
        `high` on, or `last` and a time up to `high`.
    """
    n = len(time)
    maker = phase.maker[buffer]
    can_later, can_sooner = maker != EARLIER, time[last] > high
    beyond = below(random, BEYOND)
    if can_later and (not can_sooner or below(random, 2) == 0):
        return maker, within(max(high + beyond, time[maker]), n)
    return last, within(min(high - beyond, time[last]), n)


@compiled
def alive_at(phase: Tables, time: Ints, user: Ints, t: int, random: Words) -> int:
    """Draws at random a buffer that is alive at time t. Returns -1 if TRIES draws find none.

    Draws only from the buffers that die in the phase: `Tables` lists no others. `time` has, by op,
    the time at which it runs, and `user`, by buffer, the op that uses it last.
    """
    buffers = len(phase.size)
    for _ in range(TRIES if buffers else 0):
        b = below(random, buffers)
        made = phase.maker[b] == EARLIER or time[phase.maker[b]] <= t
        if made and time[user[b]] >= t:
            return b
    return -1


@compiled
def within(t: int, n: int) -> int:
    """Returns the time nearest to t in an order of n ops: 0 <= time < n."""
    return min(max(t, 0), n - 1)
