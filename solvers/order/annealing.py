"""Simulated annealing: changes the order of one phase until its live bytes keep within a limit.

A move takes one op, X, to another time, together with the ops that have to stay before or after X:

    later      a X b c d e      X goes behind d, with c, which waits for X:     a b d X c e
    sooner     a b c d X e      X goes before b, with c, for which X waits:     a c X b d e

Only the ops between the old and the new time of X are measured again. At every other time the same
ops have run as without the move, so the same bytes are alive. The cost of an order is the number of
bytes by which its live curve exceeds the limit, summed over all times. A small share of the live
bytes at each time is added, so that the cost also tells apart orders that differ only below the
limit. A move that does not raise the cost is accepted, any other one with a probability that falls
with the temperature. Most moves aim at a buffer that is alive at a time with more live bytes than
the limit: its maker moves to a later time, or its last user to an earlier time.
"""

from __future__ import annotations

import numpy as np

from roam.solvers.jit import compiled
from roam.solvers.order.last_uses import last_uses, remeasure, renew, restore
from roam.solvers.order.tables import EARLIER, Ints, Tables, measured
from roam.solvers.xorshift import below, uniform
from roam.solvers.zobrist import Words

REACH = 40  # limit on the places in the order by which a random move shifts an op
FARTHEST = 4 * REACH  # limit on the times that a move measures again; longer moves are not tried
# a move that aims to lower the live bytes at a time goes 0 to BEYOND - 1 places past that time
BEYOND = 8
AIMED = 3  # number of moves out of 4 that aim at a buffer alive while too many bytes are
TRIES = 50  # limit on the random draws to find a buffer that is alive at a given time
SLOPE = 0.01  # share of the live bytes of each time that is added to the cost of an order
STEADY = 64  # number of moves between two changes of the temperature
# the peak of an accepted order is computed only if at most NEARLY times have too many live bytes
NEARLY = 3
# steps counted for drawing a move and deciding on it, besides the steps that measure it; measured
A_MOVE = 90


@compiled
def anneal(
    phase: Tables, order: Ints, limit: int, work: int, hot: float, cold: float, seed: int
) -> tuple[int, Ints, int]:
    """Searches for an order that keeps within `limit` bytes, by simulated annealing.

    Ends as soon as it has such an order, or when `work` is spent.

    Args:
        phase: the ops and buffers of the phase.
        order: by time, the op that runs then (its index in program order). Changed to the last
            order that the annealing accepted.
        limit: the live bytes that the order should keep within.
        work: limit on the steps. A step measures one op at one time, or looks at one user of a
            buffer; a move takes A_MOVE further steps.
        hot: the temperature at the beginning, in bytes.
        cold: the temperature at the end, in bytes.
        seed: the seed of the random numbers; positive.

    Returns:
        The lowest peak found, in bytes; the order with that peak; the number of steps. Compares the
        order given and those accepted orders that exceed the limit at no more than NEARLY times.
    """
    n = len(order)
    random = np.array([seed], np.uint64)
    time, during, after = measured(phase, order)
    uses = last_uses(phase, time)
    trial, trial_during, trial_after = order.copy(), during.copy(), after.copy()
    moved = np.zeros(n, np.int64)  # by op, the number of the last move that it was part of
    best, best_order = during.max(), order.copy()
    above, place = np.empty(n, np.int64), np.full(n, -1, np.int64)
    # number of times with too many live bytes, listed in above[:count]; place[t]: t's index or -1
    count = 0
    for t in range(n):
        count = list_time(above, place, count, t, during[t] > limit)
    done = move = 0
    temperature = hot
    while count > 0 and done < work:
        move += 1
        done += A_MOVE
        if move % STEADY == 1:
            temperature = hot * (cold / hot) ** (done / work)
        k, target = propose(phase, order, time, uses.user, above[below(random, count)], random)
        source = time[k]
        first, last = min(source, target), max(source, target) + 1
        if target == source or last - first > FARTHEST:
            continue
        if target > source:
            start, end = move_later(phase, order, trial, first, last, moved, move)
        else:
            start, end = move_sooner(phase, order, trial, first, last, moved, move)
        done += last - first
        if end - start == last - first:
            continue
        for t in range(first, last):
            time[trial[t]] = t
        if first > 0:
            trial_after[first - 1] = after[first - 1]
        changes, looked = renew(phase, time, uses, trial[start:end], target > source)
        done += looked
        remeasure(phase, trial, time, uses, first, last, trial_during, trial_after)
        cost = compare(during, trial_during, first, last, limit)
        if cost <= 0 or uniform(random) < np.exp(-cost / temperature):
            for t in range(first, last):
                order[t], during[t], after[t] = trial[t], trial_during[t], trial_after[t]
                count = list_time(above, place, count, t, during[t] > limit)
            if count <= NEARLY:
                peak = limit if count else during.max()
                for j in range(count):
                    peak = max(peak, during[above[j]])
                if peak < best:
                    best, best_order = peak, order.copy()
        else:
            restore(phase, uses, changes)
            for t in range(first, last):
                time[order[t]], trial[t] = t, order[t]
    return best, best_order, done


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
def propose(
    phase: Tables, order: Ints, time: Ints, user: Ints, high: int, random: Words
) -> tuple[int, int]:
    """Draws a random move: returns an op and the time to which it should move.

    AIMED of 4 moves aim at a buffer alive at time `high`. The others shift an op near `high` by up
    to REACH places. Returns an op with its present time if no move is found. `user` is, by buffer,
    the op that uses it last, and `high` a time at which more bytes are alive than the limit.
    """
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

    Returns an op and the time to which it should move: the op that makes the buffer and a time from
    `high` on, or `last`, the op that uses the buffer last, and a time up to `high`.
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

    Draws only from the buffers that die in the phase: `Tables` lists no others.
    """
    buffers = len(phase.size)
    for _ in range(TRIES if buffers else 0):
        b = below(random, buffers)
        made = phase.maker[b] == EARLIER or time[phase.maker[b]] <= t
        if made and time[user[b]] >= t:
            return b
    return -1


@compiled
def move_later(
    phase: Tables, order: Ints, trial: Ints, first: int, last: int, moved: Ints, move: int
) -> tuple[int, int]:
    """Moves the op at time `first` to the end of [first, last), with the ops that wait for it.

    The ops that move keep their order, and so do the others. Writes the new order of these times to
    trial[first:last]. Sets moved[op] to the number `move` for each op that moves, and for each op
    that waits for a moved op, at these times or later.

    Returns:
        start and end: the ops that move are trial[start:end]. If all ops at these times move, the
        order is the old one.
    """
    moved[order[first]] = move
    free = first
    for t in range(first, last):
        k = order[t]
        if moved[k] == move:
            for j in range(phase.after_at[k], phase.after_at[k + 1]):
                moved[phase.after[j]] = move
        else:
            trial[free] = k
            free += 1
    start = free
    for t in range(first, last):
        if moved[order[t]] == move:
            trial[free] = order[t]
            free += 1
    return start, last


@compiled
def move_sooner(
    phase: Tables, order: Ints, trial: Ints, first: int, last: int, moved: Ints, move: int
) -> tuple[int, int]:
    """Moves the op at time `last - 1` to the start of [first, last), with the ops it waits for.

    The ops that move keep their order, and so do the others. Writes the new order of these times to
    trial[first:last]. Sets moved[op] to the number `move` for each op that moves, and for each op
    that a moved op waits for, at these times or earlier.

    Returns:
        start and end: the ops that move are trial[start:end]. If all ops at these times move, the
        order is the old one.
    """
    moved[order[last - 1]] = move
    free = last - 1
    for t in range(last - 1, first - 1, -1):
        k = order[t]
        if moved[k] == move:
            for j in range(phase.before_at[k], phase.before_at[k + 1]):
                moved[phase.before[j]] = move
        else:
            trial[free] = k
            free -= 1
    end = free + 1
    for t in range(last - 1, first - 1, -1):
        if moved[order[t]] == move:
            trial[free] = order[t]
            free -= 1
    return first, end


@compiled
def compare(during: Ints, trial: Ints, first: int, last: int, limit: int) -> float:
    """Returns by how much the cost of a trial order exceeds that of the present order.

    The cost of an order is the bytes above `limit`, plus SLOPE times the live bytes, summed over
    time. By time, `trial` and `during` are the live bytes of the trial order and of the present
    order. They differ only at the times [first, last).
    """
    cost = 0.0
    for t in range(first, last):
        cost += SLOPE * (trial[t] - during[t])
        cost += max(trial[t] - limit, 0) - max(during[t] - limit, 0)
    return cost


@compiled
def within(t: int, n: int) -> int:
    """Returns the time nearest to t with 0 <= time < n."""
    return min(max(t, 0), n - 1)
