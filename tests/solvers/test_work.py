"""Counted work, and the clock as a last resort."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from roam.solvers.work import OVERHEAD, UNITS_A_SECOND, Work


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def test_seconds_are_work_of_a_fixed_rate() -> None:
    assert Work.worth(10).limit == 10 * UNITS_A_SECOND
    assert Work.worth(60).limit == 6 * Work.worth(10).limit
    assert Work.worth(1e-12).is_over()


def test_work_ends_a_search_and_is_no_cut() -> None:
    work = Work(limit=30)
    assert not work.is_over()
    work.spend(20)
    assert (work.left, work.steps(4), work.steps(4, most=1), work.steps(11)) == (10, 2, 1, 0)
    work.spend(20)
    assert work.is_over()
    assert (work.left, work.cut_short) == (0, False)
    assert Work().steps(4, most=7) == 7


def test_the_clock_ends_what_work_is_left_for_and_that_is_recorded() -> None:
    clock = Clock()
    work = Work.worth(2, patience=3, clock=clock)
    clock.now += 3 * (2 + OVERHEAD)
    assert not work.is_over()
    clock.now += 1
    assert work.is_over()
    assert work.cut_short


def test_a_search_that_has_done_its_work_is_not_cut_short_later() -> None:
    clock = Clock()
    work = Work(limit=5, deadline=101.0, clock=clock)
    work.spend(5)
    clock.now = 200.0
    assert work.is_over()
    assert not work.cut_short


def test_a_share_is_of_the_work_and_of_the_time_that_are_left() -> None:
    clock = Clock()
    work = Work(limit=100, deadline=120.0, clock=clock, spent=20)
    with work.share(0.5):
        assert (work.limit, work.deadline) == (60, 110.0)
        work.spend(50)
        assert work.is_over()
    assert (work.limit, work.deadline, work.left) == (100, 120.0, 30)
    with pytest.raises(ZeroDivisionError), work.share(0.1):
        raise ZeroDivisionError
    assert work.limit == 100
    with Work().share(0.5):
        pass


def test_what_is_not_counted_moves_no_deadline() -> None:
    """A search that is compiled first once cut plans short, on a machine that was busy."""
    now = [0.0]
    work = Work.worth(1.0, patience=1.0, clock=lambda: now[0])
    with work.share(0.5):
        with work.uncounted():
            now[0] += 100.0
        assert not work.is_late()
    assert not work.is_late()
    now[0] += 100.0
    assert work.is_late()
    assert work.cut_short
