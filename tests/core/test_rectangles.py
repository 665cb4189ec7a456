from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roam.core.rectangles import Rectangle, find_around

spans = st.tuples(st.integers(0, 6), st.integers(0, 6)).map(lambda s: (min(s), max(s)))


def is_around(r: Rectangle, time: int, address: int) -> bool:
    return r.lower <= time < r.upper and r.offset <= address < r.end


@given(
    st.lists(st.tuples(spans, spans), max_size=6),
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=8),
)
def test_every_point_finds_the_rectangle_around_it(
    drawn: list[tuple[tuple[int, int], tuple[int, int]]], points: list[tuple[int, int]]
) -> None:
    apart: list[Rectangle] = []
    for n, ((lower, upper), (offset, end)) in enumerate(drawn):
        new = Rectangle(str(n), lower, upper, offset, end - offset)
        inside = [(t, a) for t in range(lower, upper) for a in range(offset, end)]
        if not any(is_around(r, *point) for r in apart for point in inside):
            apart.append(new)
    expected = [next((r for r in apart if is_around(r, *point)), None) for point in points]
    assert find_around(apart, points) == expected
