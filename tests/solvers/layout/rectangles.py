"""Random rectangles to pack."""

from __future__ import annotations

from hypothesis import strategies as st

from roam.solvers.layout.greedy_fits import Rect


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
