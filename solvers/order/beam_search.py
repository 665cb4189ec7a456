"""Decides whether a phase has an order within a limit on live bytes: a beam search of sets of ops.

    level     0        1         2         3      A set holds the ops that have run. Level n holds
                  ┌── {a} ──┬── {a,b} ── ...      the sets of n ops that can be reached within the
             {} ──┤         │                     limit. Several orders may reach a set; the level
                  └── {b} ──┘   {b,d} ── ...      holds it once.

If a level has more sets than the width of the beam, only those with the fewest live bytes are
extended (a beam search). As long as no set is left out, the search is exact: if it comes to a level
without sets before all ops have run, no order keeps within the limit.

Two rules make the levels small. Both follow from `valleys.py`. A valley of a set S is a set that
contains S and leaves no more bytes alive than S and than every set between both. `valleys.py`
proves that a search which has reached a valley of the set where it began may forget all other sets.

    light op    An op is light after a set S if it does not raise the live bytes. S with a light op
                is a valley of S, as no set lies between the two. So a light op that fits within the
                limit is the only extension of S that is tried.
    low set     Let the search begin at a set R. Let T be a set after which no op is light, with no
                more live bytes than any set reached since R. Then T is a valley of R, and the
                search begins again at T. (Proof: assume that some set between R and T has fewer
                live bytes than T, and let T' be the largest of those with the fewest. T' can be
                reached within the limit, as live bytes are submodular: by the ops of T', in the
                order in which the search came to T. The search does reach T': if a light op
                extends a set within T', then T' and T contain the op, since otherwise it would be
                light after T' or T too. T' is on an earlier level than T, so T has no more live
                bytes than T', which contradicts the assumption.)

Like `valleys`, the search runs from the start of the phase or, mirrored, from its end. Like
`valleys`, it counts live bytes as if every op wrote over all dying buffers that it may ever write
over, so the caller has to measure the order found. The search is compiled and tries millions of ops
a second, which pays in wide, irregular graphs. It does not know the rule of `segment_search.py` for
ops that only add bytes, and may wait.
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
WORD = 64  # number of ops that one word of a set of ops holds: one bit an op
NEVER = 1 << 62  # a number above every limit, in bytes or in steps
# results of `search`: an order fits; proven that none does; ended without knowing which
FOUND, NONE, GAVE_UP = 0, 1, 2


def a_step(ops: int) -> Units:
    """Returns the units of work to try one op as the next one after a set of ops.

    `ops` is the number of ops of the phase. The time was measured: 90 to 150 nanoseconds in phases
    of up to 500 ops, 280 in one of 2,000.
    """
    return 100 + ops // 10


class Net(NamedTuple):
    """The attributes of `progress.Phase`, as arrays under the same names.

    A list of lists is stored as two arrays. For example, row k of `before` is
    `before[before_at[k] : before_at[k + 1]]`. Only buffers that an op of the phase opens or closes
    are listed. They are numbered anew, from 0.
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
    """Converts the lists of a `Phase` to arrays, for the compiled search."""
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
    """The sets of ops of one level of the search, which all have the same number of ops.

    Attributes:
        ran: by set, a bit for each op of the phase: whether it has run.
        ready: by set, a bit for each op of the phase: whether it may run next.
        live: by set, the live bytes when its ops have run.
        hash: by set, the exclusive or of one random word for each of its ops.
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

    Level n of the search holds the sets of n ops that have run. A step tries one op after one set.

    Args:
        phase: the phase, as seen from the end at which the search begins.
        most: the limit on live bytes.
        width: limit on the sets of one level that are extended.
        steps: limit on the steps.
        first: by op, the first level at which it may run; not below that of an op it waits for.
        last: by op, the last level at which it may run. An op may run later than that only if other
            ready ops are overdue too: of those, the one with the lowest last level runs first.

    Returns:
        FOUND, NONE (no order that respects `first` and `last` keeps within the limit) or GAVE_UP;
        the order found, beginning at the end of the phase where the search begins; the fewest bytes
        that would have been alive while one of the ops that did not fit within the limit ran; the
        number of steps.
    """
    n = len(phase.own)
    key = random_words(n)
    now = _first(phase)
    # by level, the index in `parents` and `ops` at which the sets of the level begin
    trail_at = np.zeros(n + 1, np.int64)
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
    """Returns whether bit k of `bits` is set."""
    return (bits[k >> 6] >> np.uint64(k & 63)) & np.uint64(1) != np.uint64(0)


@compiled
def put(bits: Words, k: int) -> None:
    """Sets bit k of `bits`."""
    bits[k >> 6] |= np.uint64(1) << np.uint64(k & 63)


@compiled
def remove(bits: Words, k: int) -> None:
    """Clears bit k of `bits`."""
    bits[k >> 6] &= ~(np.uint64(1) << np.uint64(k & 63))


@compiled
def lowest_bit(word: np.uint64) -> int:
    """Returns the index of the lowest bit that is set in `word`, which must not be 0."""
    place = 0
    for half in (32, 16, 8, 4, 2, 1):
        if word & ((np.uint64(1) << np.uint64(half)) - np.uint64(1)) == np.uint64(0):
            word >>= np.uint64(half)
            place += half
    return place


@compiled
def raises(phase: Net, ran: Words, k: int) -> int:
    """Returns by how many bytes op k raises the live bytes if it runs after the ops of `ran`.

    Negative if the op lowers the live bytes.
    """
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
    """Returns the bytes alive while op k runs, in a search from either end of the phase.

    `live` is the bytes alive before the search runs op k, and `change` the bytes by which the live
    bytes are higher afterwards.
    """
    return live + phase.own[k] + (change if phase.mirrored else 0)


@compiled
def extend(
    phase: Net, now: _Level, key: Words, most: int, level: int, first: Ints, last: Ints
) -> tuple[NDArray[np.int32], NDArray[np.int32], Ints, Words, int, int]:
    """Finds the sets of ops of the next level. Extends each set of the level `now` by one op.

    Lists a set once, even if several extensions lead to it.

    Args:
        phase: the phase, as seen from the end at which the search begins.
        now: the sets of the present level.
        key: by op, the random word that the op adds to the hash of a set.
        most: the limit on live bytes.
        level: the number of ops in each set of `now`.
        first: by op, the first level at which it may run.
        last: by op, the last level at which it may run, unless other overdue ops come first.

    Returns:
        By set of the next level, the index in `now` of the set that it extends; the op by which it
        does; its live bytes; its hash. Then the fewest bytes that would have been alive while one
        of the ops that did not fit within the limit ran; and the number of ops tried.
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
    """Returns the ready op with the lowest last level, of those whose last level is reached.

    A level is a number of ops that have run. By op, `last` is the last level at which the op should
    run. Returns -1 if no ready op has reached its last level.
    """
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
    for i in range(len(array)):  # numba would take ten seconds to compile a slice
        new[i] = array[i]
    return new


@compiled
def same(ran: Words, k: int, other: Words, m: int) -> bool:
    """Returns whether `ran` with op k and `other` with op m are the same set of ops."""
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
    """Returns the indices of the `width` lowest items of `live`; of equal items, the earliest."""
    low, high = live.min(), live.max()
    # finds the least number of bytes that at least `width` items of `live` do not exceed
    while low < high:
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
    """Returns the sets of ops that extend sets of the level `now` by one op each, as a level.

    Set i of the new level is set parent[i] of `now` with the op op[i]. Its live bytes and its hash
    are live[i] and hashes[i].
    """
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
    """Returns the index of a set with at most `floor` live bytes after which no op is light.

    An op is light if it does not raise the live bytes and fits within `most` bytes. Returns -1 if
    the level has no such set.
    """
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
