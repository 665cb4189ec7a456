"""A 64-bit fingerprint of bytes: tells whether what came back is what was sent.

The bytes are taken for a matrix of 64-bit words. Every word is multiplied by the odd weights of its
column and of its row, and the products are summed, modulo 2^64:

    sum over r of  W[r] * (sum over c of  w[c] * word[r, c])

An odd factor is invertible, so a change of one word always changes the sum. Words that change
places, pages of zeros and old contents are found as surely as 64 random bits can tell them apart:
this is multilinear hashing (Carter and Wegman 1979). All sums over c are one call of numpy, which
does not hold the interpreter's lock.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Data = NDArray[np.uint8]
Words = NDArray[np.uint64]

WORDS = 32768  # of a row: its weights stay in the second cache
MODULUS = 2**64
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: spreads 1, 2, 3, ... evenly
WEIGHTS = np.random.default_rng(0).integers(0, MODULUS - 1, WORDS, np.uint64) | np.uint64(1)


class Fingerprint:
    """The fingerprint of bytes that come piece by piece.

    A sum can be cut anywhere: pieces make no difference, if all but the last have a multiple of
    8 * `step` bytes.

    Args:
        step: which words count: each `step`-th of a piece, from the first on.

    Attributes:
        value: of the bytes so far.
    """

    def __init__(self, step: int = 1) -> None:
        self.value = 0
        self._step = step
        self._words = 0  # that have been counted

    def add(self, piece: Data) -> None:
        """Goes on with the next bytes."""
        end = piece.size // 8 * 8
        words, behind = piece[:end].view(np.uint64)[:: self._step], piece[end:]
        begun = min(-self._words % WORDS, words.size)
        whole = (words.size - begun) // WORDS * WORDS
        self._add(words[None, :begun])
        self._add(words[begun : begun + whole].reshape(-1, WORDS))
        self._add(words[None, begun + whole :])
        if behind.size:
            last = np.zeros((1, 8), np.uint8)
            last[0, : behind.size] = behind
            self._add(last.view(np.uint64))

    def _add(self, rows: Words) -> None:
        """Adds whole rows, or a part of one."""
        if rows.size:
            row, column = divmod(self._words, WORDS)
            sums = np.dot(rows, WEIGHTS[column : column + rows.shape[1]])
            places = np.arange(row + 1, row + 1 + len(rows), dtype=np.uint64)
            # numpy keeps the interpreter's lock for so few numbers: to wait for it takes longer
            weighted = sums * (_mixed(places) | np.uint64(1))
            self.value = (self.value + int(weighted.sum())) % MODULUS
            self._words += rows.size


def fingerprint(data: Data) -> int:
    """Returns the fingerprint of bytes that are all there."""
    found = Fingerprint()
    found.add(data)
    return found.value


def _mixed(numbers: Words) -> Words:
    """Returns a number that looks random for each of these."""
    mixed = numbers * GOLDEN
    mixed ^= mixed >> np.uint64(29)
    mixed *= GOLDEN
    return mixed ^ (mixed >> np.uint64(32))
