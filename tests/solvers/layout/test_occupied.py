from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roam.solvers.layout.occupied import BRANCHES, Occupied

TIMES = 3 * BRANCHES**2  # three levels of nodes, and a root with few children


@st.composite
def rectangles(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """(lower, upper, bottom, top)"""
    lower, bottom = draw(st.integers(0, TIMES - 1)), draw(st.integers(0, 30))
    upper = draw(st.one_of(st.just(lower + 1), st.integers(lower + 1, TIMES)))
    return lower, upper, bottom, bottom + draw(st.integers(0, 9))


@given(st.lists(rectangles(), max_size=20))
def test_taken_is_what_is_alive_during_the_lifetime(some: list[tuple[int, int, int, int]]) -> None:
    occupied = Occupied(range(TIMES + 1))
    for k, (lower, upper, bottom, top) in enumerate(some):
        nodes = occupied.nodes(lower, upper)
        alive = [(b, t) for low, up, b, t in some[:k] if low < upper and lower < up]
        found = occupied.taken(nodes)
        assert found == sorted(found)
        assert {a for s in found for a in range(*s)} == {a for s in alive for a in range(*s)}
        occupied.take(nodes, bottom, top)


@given(rectangles())
def test_a_lifetime_is_few_nodes(rectangle: tuple[int, int, int, int]) -> None:
    levels = 4
    whole, part = Occupied(range(TIMES + 1)).nodes(*rectangle[:2])
    assert len(whole) <= 2 * (BRANCHES - 1) * levels
    assert len(part) <= 2 * levels


def test_a_stack_without_gaps_is_one_span() -> None:
    occupied = Occupied(range(11))
    for k in range(100):
        occupied.take(occupied.nodes(0, 10), 5 * k, 5 * k + 5)
    assert occupied.taken(occupied.nodes(3, 4)) == [(0, 500)]
