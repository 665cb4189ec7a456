from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roam.solvers.layout.greedy_fits import FITS, Fit, Rect, place
from roam.solvers.work import Work

FIRST = FITS[0]
every_fit = pytest.mark.parametrize("fit", FITS, ids=lambda fit: fit.name)


@st.composite
def rects(draw: st.DrawFn, aligns: tuple[int, ...] = (1, 4, 64)) -> Rect:
    lower = draw(st.integers(0, 8))
    return Rect(
        lower,
        draw(st.integers(lower + 1, 9)),
        draw(st.sampled_from((0, 1, 3, 10, 10, 64, 100))),
        draw(st.sampled_from(aligns)),
    )


@st.composite
def placed_rects(draw: st.DrawFn) -> list[tuple[Rect, int]]:
    """Rectangles that do not overlap, each on top of the last, with a space between."""
    found: list[tuple[Rect, int]] = []
    top = 0
    for rect in draw(st.lists(rects(aligns=(1,)), max_size=4)):
        top += draw(st.sampled_from((0, 5, 64, 200)))
        found.append((rect, top))
        top += rect.size
    return found


def meet(a: Rect, b: Rect) -> bool:
    return a.lower < b.upper and b.lower < a.upper


def height(rects: Sequence[Rect], offsets: Sequence[int]) -> int:
    return max((o + r.size for r, o in zip(rects, offsets, strict=True)), default=0)


def load(rects: Sequence[Rect]) -> int:
    """The most bytes alive at once: what no placement can be below."""
    times = range(max((r.upper for r in rects), default=0))
    return max((sum(r.size for r in rects if r.lower <= t < r.upper) for t in times), default=0)


def assert_sound(everything: Sequence[tuple[Rect, int]]) -> None:
    """Nobody lies where somebody else lives."""
    for k, (a, at) in enumerate(everything):
        for b, there in everything[:k]:
            if meet(a, b) and a.size and b.size:
                assert at + a.size <= there or there + b.size <= at, (a, at, b, there)


@every_fit
@given(
    some=st.lists(rects(), max_size=10),
    fixed=placed_rects(),
    walls=st.lists(st.integers(0, 400), max_size=3),
)
def test_nothing_overlaps(
    fit: Fit, some: list[Rect], fixed: list[tuple[Rect, int]], walls: list[int]
) -> None:
    offsets = place(some, fit, fixed, walls)
    assert_sound([*zip(some, offsets, strict=True), *fixed])
    for rect, offset in zip(some, offsets, strict=True):
        assert offset >= 0
        assert offset % rect.align == 0
        assert not any(offset < wall < offset + rect.size for wall in walls)


@every_fit
@given(some=st.lists(rects(), max_size=10), fixed=placed_rects())
def test_the_same_offsets_every_time(
    fit: Fit, some: list[Rect], fixed: list[tuple[Rect, int]]
) -> None:
    assert place(some, fit, fixed) == place(list(some), fit, list(fixed))


def naive_first_fit(rects: Sequence[Rect]) -> list[int]:
    """Each in turn at the lowest address where it meets nobody: the bottom, or on top of one."""
    offsets: list[int] = []
    for rect in rects:
        others = [(r, o) for r, o in zip(rects, offsets, strict=False) if meet(r, rect) and r.size]
        tops = [0, *(o + r.size for r, o in others)]
        starts = sorted(-(-top // rect.align) * rect.align for top in tops)
        free = (
            start
            for start in starts
            if all(start + rect.size <= o or o + r.size <= start for r, o in others)
        )
        offsets.append(next(free))
    return offsets


IN_TURN = Fit("first fit, in turn", lambda rect: ())


@given(st.lists(rects(), max_size=9))
def test_first_fit_takes_the_lowest_address(some: list[Rect]) -> None:
    some = [r for r in some if r.size]
    assert place(some, IN_TURN) == naive_first_fit(some)


@given(st.lists(rects(), max_size=9))
def test_a_wall_that_nobody_reaches_changes_nothing(some: list[Rect]) -> None:
    """The search among walls is another piece of code: it must find what the plain one finds."""
    far = [10**9]
    for fit in (f for f in FITS if not f.tightest):
        assert place(some, fit, (), far) == place(some, fit)


@settings(max_examples=40)
@given(st.lists(rects(aligns=(1,)), max_size=6))
def test_no_fit_beats_the_best_of_all_placements(some: list[Rect]) -> None:
    """In the order of the best addresses, each at the lowest free one, comes out no higher:
    so the best of all first fits is the best placement.
    """
    some = [r for r in some if r.size]
    best = min(height(turn, naive_first_fit(turn)) for turn in permutations(some))
    assert best >= load(some)
    for fit in FITS:
        assert height(some, place(some, fit)) >= best


@every_fit
@given(st.lists(rects(aligns=(1,)), max_size=10))
def test_alone_in_time_all_lie_at_the_bottom(fit: Fit, some: list[Rect]) -> None:
    apart = [Rect(2 * i, 2 * i + 1, r.size) for i, r in enumerate(some)]
    assert place(apart, fit) == [0] * len(apart)


@every_fit
def test_all_at_once_are_stacked_without_a_gap(fit: Fit) -> None:
    together = [Rect(0, 3, size) for size in (5, 9, 1, 7)]
    assert height(together, place(together, fit)) == 22


@every_fit
def test_the_work_grows_no_faster_than_the_rectangles(fit: Fit) -> None:
    """Short lifetimes, one after another, over a stack that lasts."""

    def spent(n: int) -> int:
        work = Work()
        stack = [(Rect(0, n + 3, 64), 64 * k) for k in range(20)]
        place([Rect(t, t + 3, 64 + t % 5) for t in range(n)], fit, stack, work=work)
        return work.spent

    assert spent(800) < 1.2 * 8 * spent(100)


def test_nothing_to_place() -> None:
    assert place([], FIRST) == []
    assert place([], FIRST, [(Rect(0, 1, 5), 0)], [3]) == []


#  addresses
#    ^   [ c )         first born first: a, c, b      largest first: b, a, c
#    |   [a ) [b  )
#    +------------> time
A, B, C = Rect(0, 2, 10), Rect(2, 5, 10), Rect(1, 3, 4)


def test_a_tiny_instance_is_solved() -> None:
    assert load([A, B, C]) == 14
    for fit in FITS:
        assert height([A, B, C], place([A, B, C], fit)) == 14


def test_best_fit_takes_the_tightest_gap() -> None:
    """Gaps of 30 and of 10 between what is fixed: only the second is just large enough."""
    fixed = [(Rect(0, 9, 20), 30), (Rect(0, 9, 20), 60)]
    small = [Rect(0, 9, 10)]
    assert place(small, Fit("first", lambda r: ()), fixed) == [0]
    assert place(small, Fit("best", lambda r: (), tightest=True), fixed) == [50]
    assert place(small, Fit("best", lambda r: (), tightest=True), fixed, [10**6]) == [50]


def test_best_fit_leaves_the_open_end_for_last() -> None:
    fixed = [(Rect(0, 9, 20), 100)]
    assert place([Rect(0, 9, 10)], Fit("best", lambda r: (), tightest=True), fixed) == [0]


@pytest.mark.parametrize(
    ("rect", "walls", "offset"),
    [
        (Rect(0, 1, 10), [5], 5),
        (Rect(0, 1, 10), [10], 0),
        (Rect(0, 1, 10), [5, 12], 12),
        (Rect(0, 1, 10), [12, 5], 12),
        (Rect(0, 1, 10), [5, 15, 22], 5),
        (Rect(0, 1, 10, align=8), [5], 8),
        (Rect(0, 1, 10, align=8), [5, 17], 24),
        (Rect(0, 1, 0), [5], 0),
    ],
)
def test_walls(rect: Rect, walls: list[int], offset: int) -> None:
    assert place([rect], FIRST, (), walls) == [offset]


def test_a_gap_cut_by_a_wall_is_too_small() -> None:
    fixed = [(Rect(0, 2, 5), 20)]
    assert place([Rect(0, 2, 15)], FIRST, fixed) == [0]
    assert place([Rect(0, 2, 15)], FIRST, fixed, [10]) == [25]


def test_who_comes_first() -> None:
    """Three that exclude one another: the one that lies lowest was placed first."""
    large, long, early = Rect(2, 4, 100), Rect(2, 9, 20), Rect(0, 3, 30)
    lowest = {
        fit.name: [large, long, early][place([large, long, early], fit).index(0)] for fit in FITS
    }
    assert lowest == {
        "first fit by size": large,
        "first fit by start": early,
        "first fit by area": large,
        "first fit by lifetime": long,
        "best fit by size": large,
        "best fit by start": early,
        "best fit by area": large,
        "best fit by lifetime": long,
    }
