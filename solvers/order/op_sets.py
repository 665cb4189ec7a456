"""Sets of ops as bits, in arrays of 64-bit words, for compiled searches.

    word 0          word 1             op 66 is bit 66 & 63 = 2 of word 66 >> 6 = 1
    63 ... 2 1 0    127 ... 66 65 64

A bit is 1 if its op is in the set.
"""

from __future__ import annotations

import numpy as np

from roam.solvers.jit import compiled
from roam.solvers.zobrist import Words

WORD = 64  # number of ops that one word of a set of ops holds: one bit an op


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
