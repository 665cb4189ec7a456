"""A 64-bit fingerprint of bytes: tells whether what came back is what was sent.

The bytes are taken for a matrix of 64-bit words. Every word is multiplied by the odd weights of its
column and of its row, and the products are summed, modulo 2^64:

    sum over r of  W[r] * (sum over c of  w[c] * word[r, c])

An odd factor is invertible, so a change of one word always changes the sum. Words that change
places, pages of zeros and old contents are found as surely as 64 random bits can tell them apart:
this is multilinear hashing (Carter and Wegman 1979). The sum over c is one call of numpy, which
needs no interpreter lock and runs at the speed of memory.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from roam.core.machine import Bytes

Data = NDArray[np.uint8]

WORDS = 4096  # of a row: its weights stay in the first cache
ROW: Bytes = 8 * WORDS
MODULUS = 2**64
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: spreads 1, 2, 3, ... evenly
WEIGHTS = np.random.default_rng(0).integers(0, MODULUS - 1, WORDS, np.uint64) | np.uint64(1)


class Fingerprint:
    """The fingerprint of bytes that come piece by piece.

    Args:
        step: which words count: each `step`-th of a piece, from the first on.

    Attributes:
        value: of the bytes so far.
    """

    def __init__(self, step: int = 1) -> None:
        self.value = 0
        self._step = step
        self._rows = 0

    def add(self, piece: Data) -> None:
        """Goes on with the next bytes.

        Where a piece ends makes a difference, unless it has a multiple of ROW * `step` bytes.
        """
        end = piece.size // 8 * 8
        words, behind = piece[:end].view(np.uint64)[:: self._step], piece[end:]
        rows = words.size // WORDS
        if rows:
            self._add(np.dot(words[: rows * WORDS].reshape(rows, WORDS), WEIGHTS))
        rest = words[rows * WORDS :]
        if rest.size or behind.size:
            row = np.zeros((1, rest.size + 1), np.uint64)
            row[0, :-1] = rest
            row[:, -1:].view(np.uint8)[0, : behind.size] = behind
            self._add(np.dot(row, WEIGHTS[: row.size]))

    def _add(self, sums: NDArray[np.uint64]) -> None:
        first = self._rows
        self._rows += sums.size
        places = np.arange(first + 1, self._rows + 1, dtype=np.uint64)
        weights = _mixed(places) | np.uint64(1)
        self.value = (self.value + int(np.dot(sums, weights))) % MODULUS


def fingerprint(data: Data) -> int:
    """Returns the fingerprint of bytes that are all there."""
    found = Fingerprint()
    found.add(data)
    return found.value


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Returns a number that looks random for each of these."""
    mixed = numbers * GOLDEN
    mixed ^= mixed >> np.uint64(29)
    mixed *= GOLDEN
    return mixed ^ (mixed >> np.uint64(32))
