"""Decides whether a phase has an order within a limit: searches sets of ops, level by level.

    level     0        1         2         3      A set holds the ops that have run. A level holds
                  ┌── {a} ──┬── {a,b} ── ...      the sets of equally many ops that can be reached
             {} ──┤         │                     within the limit: each once, however it is
                  └── {b} ──┘   {b,d} ── ...      reached.

If a level has more sets than the beam is wide, only those with the fewest live bytes are extended
(a beam search). As long as no set is left out, the search is exact: if it comes to an end before
all ops have run, no order keeps within the limit.

Two rules make the levels small. Both are those of `valleys.py`, which proves that a search which
has reached a valley may forget all other sets:

    light op    A set with one more op and no more live bytes is a valley of the set: an op of this
                kind that fits is the only extension. (Between the two lies no other set.)
    low set     Let T be a set that no light op extends, with no more live bytes than any set that
                was reached since R. T is a valley of R, and the search begins again from T. (Assume
                that the largest set T' with the fewest live bytes between R and T has fewer than T.
                It can be reached within the limit, as live bytes are submodular: by the ops of T',
                in the order in which the search came to T. The search reaches T' itself: if a
                light op extends a set within T', then T' and T contain the op, since otherwise it
                would be light for T' or T too. T' is on an earlier level than T, so T has no more.)

Like `valleys`, the search runs from the start of the phase or, mirrored, from its end; counts live
bytes as if every op wrote over all dying buffers that it may ever write over; and leaves it to the
caller to measure the order that it finds. It is compiled and tries millions of ops a second, which
pays in wide, irregular graphs. It knows no rule for ops that may wait (`segment_search.py`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from roam.solvers.jit import compiled
from roam.solvers.order.progress import Phase
from roam.solvers.order.tables import Ints, rows
from roam.solvers.work import Units

Words = NDArray[np.uint64]
WORD = 64  # bits of a word of a set
NEVER = 1 << 62  # more bytes than any limit
FOUND, NONE, GAVE_UP = 0, 1, 2  # how `search` ends


def a_step(ops: int) -> Units:
    """Returns the units of work to try one op after one set, in a phase of `ops` ops.

    The time was measured: 90 to 150 nanoseconds in phases of up to 500 ops, 280 in one of 2,000.
    """
    return 100 + ops // 10


class Net(NamedTuple):
    """The arrays of `progress.Phase`, whose attributes have the same names.

    A list of lists is stored as in `tables`: row k of `before` is before[before_at[k] :
    before_at[k + 1]]. Buffers are numbered anew.
    """

    mirrored: bool
    start: int
    own: Ints
    size: Ints
    before_at: Ints
    before: Ints
    after_at: Ints
    after: Ints
    opens_at: Ints
    opens: Ints
    closes_at: Ints
    closes: Ints
    openers_at: Ints
    openers: Ints
    closers_at: Ints
    closers: Ints


def net(phase: Phase) -> Net:
    """Reads a phase into arrays."""
    buffers = list(dict.fromkeys([*phase.openers, *phase.closers]))
    number = {b: n for n, b in enumerate(buffers)}
    numbered = [[[number[b] for b in row] for row in of] for of in (phase.opens, phase.closes)]
    return Net(
        phase.mirrored,
        phase.start,
        np.array(phase.own, np.int64),
        np.array([phase.size[b] for b in buffers], np.int64),
        *rows(phase.before),
        *rows(phase.after),
        *rows(numbered[0]),
        *rows(numbered[1]),
        *rows([phase.openers.get(b, []) for b in buffers]),
        *rows([phase.closers.get(b, []) for b in buffers]),
    )


class _Level(NamedTuple):
    """The sets of one level.

    Attributes:
        ran: by set, one bit an op: whether it has run.
        ready: by set, one bit an op: whether it may run next.
        live: by set, the live bytes.
        hash: by set, the exclusive or of a random word for each of its ops.
    """

    ran: Words
    ready: Words
    live: Ints
    hash: Words


@compiled
def search(
    phase: Net, most: int, width: int, steps: int, first: Ints, last: Ints
) -> tuple[int, Ints, int, int]:
    """Searches for an order within `most` bytes, from one end of the phase.

    Args:
        phase: the phase, seen from that end.
        most: the limit in bytes.
        width: limit on the sets of a level that are extended.
        steps: limit on the ops that are tried after a set.
        first: by op, the first level at which it may run; no op is before one that it waits for.
        last: by op, the last level at which it may run, unless ops that are later still hold it up.

    Returns:
        FOUND, NONE (no order of these keeps within the limit) or GAVE_UP; the order found, from
        that end; of the ops that did not fit, the fewest bytes that one would have taken; and the
        steps done.
    """
    n = len(phase.own)
    key = random_words(n)
    now = _first(phase)
    trail_at = np.zeros(n + 1, np.int64)  # by level, where its sets begin in the two arrays below
    parents, ops = np.empty(1024, np.int32), np.empty(1024, np.int32)
    floor = phase.start
    exact = True
    needed, done = NEVER, 0
    for level in range(n):
        parent, op, live, hashes, refused, tried = extend(phase, now, key, most, level, first, last)
        needed, done = min(needed, refused), done + tried
        if len(parent) == 0 or done > steps:
            how = NONE if exact and len(parent) == 0 else GAVE_UP
            return how, np.empty(0, np.int64), needed, done
        if len(parent) > width:
            exact = False
            chosen = lowest(live, width)
            parent, op, live, hashes = parent[chosen], op[chosen], live[chosen], hashes[chosen]
        following = run(phase, now, parent, op, live, hashes)
        floor = min(floor, live.min())
        low = low_set(phase, following, floor, most)
        if low >= 0:
            parent, op = parent[low : low + 1], op[low : low + 1]
            following = _Level(
                following.ran[low : low + 1],
                following.ready[low : low + 1],
                following.live[low : low + 1],
                following.hash[low : low + 1],
            )
        start, end = trail_at[level], trail_at[level] + len(parent)
        if end > len(parents):
            parents, ops = _grown(parents, 2 * end), _grown(ops, 2 * end)
        for i in range(len(parent)):
            parents[start + i], ops[start + i] = parent[i], op[i]
        trail_at[level + 1] = end
        now = following
    order = np.empty(n, np.int64)
    at = 0
    for level in range(n - 1, -1, -1):
        order[level] = ops[trail_at[level] + at]
        at = parents[trail_at[level] + at]
    return FOUND, order, needed, done


@compiled
def random_words(n: int) -> Words:
    """Returns n random words, the same in every call (xorshift64: Marsaglia 2003)."""
    words = np.empty(n, np.uint64)
    x = np.uint64(0x9E3779B97F4A7C15)
    for i in range(n):
        x ^= x << np.uint64(13)
        x ^= x >> np.uint64(7)
        x ^= x << np.uint64(17)
        words[i] = x
    return words


@compiled
def _first(phase: Net) -> _Level:
    n = len(phase.own)
    words = (n + WORD - 1) // WORD
    ready = np.zeros((1, words), np.uint64)
    for k in range(n):
        if phase.before_at[k] == phase.before_at[k + 1]:
            put(ready[0], k)
    live = np.full(1, phase.start, np.int64)
    return _Level(np.zeros((1, words), np.uint64), ready, live, np.zeros(1, np.uint64))


@compiled
def has(bits: Words, k: int) -> bool:
    """Returns whether bit k is set."""
    return (bits[k >> 6] >> np.uint64(k & 63)) & np.uint64(1) != np.uint64(0)


@compiled
def put(bits: Words, k: int) -> None:
    """Sets bit k."""
    bits[k >> 6] |= np.uint64(1) << np.uint64(k & 63)


@compiled
def remove(bits: Words, k: int) -> None:
    """Clears bit k."""
    bits[k >> 6] &= ~(np.uint64(1) << np.uint64(k & 63))


@compiled
def lowest_bit(word: np.uint64) -> int:
    """Returns the place of the lowest bit that is set in a word other than 0."""
    place = 0
    for half in (32, 16, 8, 4, 2, 1):
        if word & ((np.uint64(1) << np.uint64(half)) - np.uint64(1)) == np.uint64(0):
            word >>= np.uint64(half)
            place += half
    return place


@compiled
def raises(phase: Net, ran: Words, k: int) -> int:
    """Returns by how many bytes op k raises the live bytes after the ops of `ran`."""
    change = 0
    for j in range(phase.opens_at[k], phase.opens_at[k + 1]):
        b = phase.opens[j]
        opened = False
        for i in range(phase.openers_at[b], phase.openers_at[b + 1]):
            if has(ran, phase.openers[i]):
                opened = True
                break
        if not opened:
            change += phase.size[b]
    for j in range(phase.closes_at[k], phase.closes_at[k + 1]):
        b = phase.closes[j]
        closed = True
        for i in range(phase.closers_at[b], phase.closers_at[b + 1]):
            closer = phase.closers[i]
            if closer != k and not has(ran, closer):
                closed = False
                break
        if closed:
            change -= phase.size[b]
    return change


@compiled
def takes(phase: Net, live: int, change: int, k: int) -> int:
    """Returns the bytes alive while op k runs, which changes the live bytes from `live`."""
    return live + phase.own[k] + (change if phase.mirrored else 0)


@compiled
def extend(
    phase: Net, now: _Level, key: Words, most: int, level: int, first: Ints, last: Ints
) -> tuple[NDArray[np.int32], NDArray[np.int32], Ints, Words, int, int]:
    """Finds the sets of the next level, each once.

    Returns:
        For each set: a set of this level that it extends, the op by which it does, its live bytes
        and its hash. Of the ops that did not fit, the fewest bytes that one would have taken. How
        many ops were tried.
    """
    n, words = len(phase.own), now.ran.shape[1]
    room = 256
    parent, op = np.empty(room, np.int32), np.empty(room, np.int32)
    live, hashes = np.empty(room, np.int64), np.empty(room, np.uint64)
    table = np.full(4 * room, -1, np.int32)
    count = tried = 0
    needed = NEVER
    choice, change = np.empty(n, np.int64), np.empty(n, np.int64)
    for at in range(len(now.live)):
        choices = 0
        light = False
        late = most_late(now.ready[at], level, last)
        for w in range(words):
            left = now.ready[at, w]
            while left != np.uint64(0) and not light:
                k = WORD * w + lowest_bit(left)
                left &= left - np.uint64(1)
                if (late >= 0 and k != late) or first[k] > level:
                    continue
                tried += 1
                more = raises(phase, now.ran[at], k)
                bytes_taken = takes(phase, now.live[at], more, k)
                if bytes_taken > most:
                    needed = min(needed, bytes_taken)
                    continue
                if more <= 0:
                    light, choices = True, 0
                choice[choices], change[choices] = k, more
                choices += 1
        if count + choices > room:
            room = 2 * (count + choices)
            parent, op = _grown(parent, room), _grown(op, room)
            live, hashes = _grown(live, room), _grown(hashes, room)
            size = len(table)
            while size < 2 * room:
                size *= 2
            table = np.full(size, -1, np.int32)
            for i in range(count):
                slot = np.int64(hashes[i] & np.uint64(size - 1))
                while table[slot] >= 0:
                    slot = (slot + 1) & (size - 1)
                table[slot] = i
        for c in range(choices):
            k = choice[c]
            hashed = now.hash[at] ^ key[k]
            slot = np.int64(hashed & np.uint64(len(table) - 1))
            known = False
            while table[slot] >= 0 and not known:
                i = table[slot]
                known = hashes[i] == hashed and same(now.ran[parent[i]], op[i], now.ran[at], k)
                slot = (slot + 1) & (len(table) - 1)
            if not known:
                table[slot] = count
                parent[count], op[count] = at, k
                live[count], hashes[count] = now.live[at] + change[c], hashed
                count += 1
    return parent[:count], op[:count], live[:count], hashes[:count], needed, tried


@compiled
def most_late(ready: Words, level: int, last: Ints) -> int:
    """Returns the op that should have run first of those that may not wait longer, or -1."""
    late = -1
    for w in range(len(ready)):
        left = ready[w]
        while left != np.uint64(0):
            k = WORD * w + lowest_bit(left)
            left &= left - np.uint64(1)
            if last[k] <= level and (late < 0 or last[k] < last[late]):
                late = k
    return late


@compiled
def _grown(array, room):  # type: ignore[no-untyped-def]
    new = np.empty(room, array.dtype)
    for i in range(len(array)):  # a slice would take ten seconds to compile
        new[i] = array[i]
    return new


@compiled
def same(ran: Words, k: int, other: Words, m: int) -> bool:
    """Returns whether `ran` with op k holds the same ops as `other` with op m."""
    for w in range(len(ran)):
        a, b = ran[w], other[w]
        if w == k >> 6:
            a |= np.uint64(1) << np.uint64(k & 63)
        if w == m >> 6:
            b |= np.uint64(1) << np.uint64(m & 63)
        if a != b:
            return False
    return True


@compiled
def lowest(live: Ints, width: int) -> Ints:
    """Returns the places of the `width` lowest of the live bytes; of equal ones the first."""
    low, high = live.min(), live.max()
    while low < high:  # finds the least number that `width` of them do not exceed
        middle = low + (high - low) // 2
        count = 0
        for i in range(len(live)):
            count += live[i] <= middle
        if count >= width:
            high = middle
        else:
            low = middle + 1
    chosen = np.empty(width, np.int64)
    count = 0
    for i in range(len(live)):
        if live[i] < low:
            chosen[count] = i
            count += 1
    for i in range(len(live)):
        if live[i] == low and count < width:
            chosen[count] = i
            count += 1
    return chosen


@compiled
def run(
    phase: Net,
    now: _Level,
    parent: NDArray[np.int32],
    op: NDArray[np.int32],
    live: Ints,
    hashes: Words,
) -> _Level:
    """Returns the level of the sets that extend the set `parent` by `op`, for each of these."""
    count, words = len(parent), now.ran.shape[1]
    ran, ready = np.empty((count, words), np.uint64), np.empty((count, words), np.uint64)
    for i in range(count):
        k = op[i]
        for w in range(words):
            ran[i, w], ready[i, w] = now.ran[parent[i], w], now.ready[parent[i], w]
        put(ran[i], k)
        remove(ready[i], k)
        for j in range(phase.after_at[k], phase.after_at[k + 1]):
            s = phase.after[j]
            waits = False
            for m in range(phase.before_at[s], phase.before_at[s + 1]):
                if not has(ran[i], phase.before[m]):
                    waits = True
                    break
            if not waits:
                put(ready[i], s)
    return _Level(ran, ready, live, hashes)


@compiled
def low_set(phase: Net, level: _Level, floor: int, most: int) -> int:
    """Returns a set with at most `floor` live bytes that no light op extends, or -1."""
    for at in range(len(level.live)):
        if level.live[at] > floor:
            continue
        light = False
        for k in range(len(phase.own)):
            if has(level.ready[at], k):
                more = raises(phase, level.ran[at], k)
                if more <= 0 and takes(phase, level.live[at], more, k) <= most:
                    light = True
        if not light:
            return at
    return -1
