"""Hashes sets by random words: the hash of a set is the exclusive or of its items' words.

So the hash of a set with one item more, or one item less, takes one operation (Zobrist 1970).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]


def random_words(count: int) -> Words:
    """Returns a random word of 64 bits for each of `count` items, the same in every call."""
    return np.random.default_rng(0).integers(0, 2**64, count, dtype=np.uint64)
