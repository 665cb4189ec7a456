"""Draws random numbers that are the same whether numba compiles the caller or not.

The generator is xorshift64 (Marsaglia 2003). Its state is one 64-bit word, in an array. The word
must not be 0: from 0, every number drawn is 0.
"""

from __future__ import annotations

import numpy as np

from roam.solvers.jit import compiled
from roam.solvers.zobrist import Words


@compiled
def below(random: Words, n: int) -> int:
    """Draws a random whole number 0 <= x < n. Changes `random`, the state of the generator."""
    x = random[0]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    random[0] = x
    drawn: int = np.int64((x >> np.uint64(11)) % np.uint64(n))  # type: ignore[assignment]
    return drawn  # np.int64 made it signed: in compiled code, int() would leave it unsigned


@compiled
def uniform(random: Words) -> float:
    """Draws a random number 0 <= x < 1. Changes `random`, the state of the generator."""
    return below(random, 1 << 53) / (1 << 53)
