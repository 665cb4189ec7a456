"""Random rectangles to pack."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from roam.solvers.layout.greedy_fits import Rect

KNOTS = (1679, 4089, 4411, 4808, 5515, 6612, 9233, 11280)  # crowds that need more than their load


@st.composite
def rectangles(draw: st.DrawFn, align: tuple[int, ...] = (1,), most: int = 8) -> list[Rect]:
    found = []
    for _ in range(draw(st.integers(1, most))):
        lower = draw(st.integers(0, 5))
        size = draw(st.integers(0, 4))
        found.append(
            Rect(lower, draw(st.integers(lower + 1, 6)), size, draw(st.sampled_from(align)))
        )
    return found


def crowd(seed: int) -> list[Rect]:
    """8 to 25 rectangles drawn at random, as many as stay below a height."""
    draw = np.random.default_rng(seed)
    n, times, largest = (int(draw.integers(*r)) for r in ((8, 26), (5, 16), (3, 12)))
    load, limit = np.zeros(times, int), draw.integers(6, 24)
    rects: list[Rect] = []
    for _ in range(6 * n):
        lower = int(draw.integers(0, times))
        upper = min(times, lower + 1 + int(draw.exponential(2.5)))
        size = int(draw.integers(1, largest))
        if load[lower:upper].max() + size <= limit and len(rects) < n:
            load[lower:upper] += size
            rects.append(Rect(lower, upper, size))
    return rects
