"""The levels of a beam search: the sets of equally many ops that can be reached within a limit.

net, Net         the phase as arrays
first_level      the set without ops
raises, takes    the bytes by which an op raises the live bytes; the bytes alive while it runs
extend           lists the sets of the next level, each once: a hash table finds those that are
                 listed already
run              makes a level of those sets of the list that the search keeps
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from roam.solvers.jit import compiled
from roam.solvers.order.op_sets import WORD, has, lowest_bit, put, remove, same
from roam.solvers.order.progress import Phase
from roam.solvers.order.tables import Ints, rows
from roam.solvers.zobrist import Words, random_words

NEVER = 1 << 62  # a number above every limit, in bytes or in steps


class Net(NamedTuple):
    """The ops and buffers of a phase as arrays, for a search from one end of the phase.

    The arrays have the names of the lists in `progress.Phase`. In a search from the start, the op
    that makes a buffer opens it, and its users close it; in a search from the end, the other way
    round. A buffer is alive in the search from its first opener to its last closer. Only buffers
    that an op of the phase opens or closes are listed. They are numbered anew, from 0. A list of
    lists is stored as two arrays: row k of `before` is `before[before_at[k] : before_at[k + 1]]`,
    and so for all others.

    Attributes:
        mirrored: whether the search runs from the end of the phase to its start.
        start: bytes alive when the search begins.
        own: by op, the bytes that it adds, while it runs, to those alive just before it in the
            order of the phase, also if the search is mirrored.
        size: by buffer, its size in bytes.
        before, after: by op, the ops that have to run before it, or after it, in the search.
        opens, closes: by op, the buffers that it opens, or closes.
        openers, closers: by buffer, the ops that open it, or close it.
        key: by op, a random word. The hash of a set of ops is the exclusive or of their words.
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
    key: Words


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
        random_words(len(phase.ops)),
    )


class Level(NamedTuple):
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
def first_level(phase: Net) -> Level:
    n = len(phase.own)
    words = (n + WORD - 1) // WORD
    ready = np.zeros((1, words), np.uint64)
    for k in range(n):
        if phase.before_at[k] == phase.before_at[k + 1]:
            put(ready[0], k)
    live = np.full(1, phase.start, np.int64)
    return Level(np.zeros((1, words), np.uint64), ready, live, np.zeros(1, np.uint64))


@compiled
def raises(phase: Net, ran: Words, k: int) -> int:
    """Returns by how many bytes op k raises the live bytes if it runs after the ops of `ran`.

    `ran` has a bit for each op of the phase. Returns a negative number if op k lowers the live
    bytes.
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
    phase: Net, now: Level, most: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], Ints, Words, int, int]:
    """Finds the sets of ops of the next level. Extends each set of the level `now` by one op.

    Tries every ready op. If an op that fits does not raise the live bytes, extends the set by that
    op only (the first one found). Lists a set once, even if several extensions lead to it.

    Args:
        phase: the phase, as seen from the end at which the search begins.
        now: the sets of the present level.
        most: the limit on live bytes.

    Returns:
        parent: by set of the next level, the index in `now` of the set that it extends.
        op: by set of the next level, the op that it has more than its parent.
        live: by set of the next level, the live bytes when its ops have run.
        hashes: by set of the next level, the exclusive or of one random word for each of its ops.
        needed: the fewest bytes that would have been alive while one of the ops that did not fit
            within the limit ran; NEVER if all fitted.
        tried: the number of ops tried.
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
        for w in range(words):
            left = now.ready[at, w]
            while left != np.uint64(0) and not light:
                k = WORD * w + lowest_bit(left)
                left &= left - np.uint64(1)
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
            parent, op = grown(parent, room), grown(op, room)
            live, hashes = grown(live, room), grown(hashes, room)
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
            hashed = now.hash[at] ^ phase.key[k]
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
def grown(array, room):  # type: ignore[no-untyped-def]
    new = np.empty(room, array.dtype)
    for i in range(len(array)):  # `new[:n] = array` would take numba ten seconds to compile
        new[i] = array[i]
    return new


@compiled
def run(
    phase: Net,
    now: Level,
    parent: NDArray[np.int32],
    op: NDArray[np.int32],
    live: Ints,
    hashes: Words,
) -> Level:
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
    return Level(ran, ready, live, hashes)
