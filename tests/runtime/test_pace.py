"""A pace lets so many bytes a second pass, by a clock of the test's own."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roam.runtime.pace import Pace


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def pace(self, rate: float, burst: int = 0) -> Pace:
        return Pace(rate, burst, clock=lambda: self.now, sleep=self.sleep)


def test_bytes_take_their_time() -> None:
    clock = Clock()
    pace = clock.pace(100.0)
    for nbytes in (50, 200):
        pace.begin(nbytes, clock.now)
        pace.end()
    assert clock.slept == [0.5, 2.0]


def test_time_that_a_thread_was_late_counts() -> None:
    clock = Clock()
    pace = clock.pace(100.0)
    since = clock.now
    clock.now += 0.4
    for _ in range(2):  # pieces of one transfer
        pace.begin(50, since)
        clock.now += 0.2
        pace.end()
    assert clock.now - since == pytest.approx(1.0)


def test_time_that_the_transfer_took_counts() -> None:
    clock = Clock()
    pace = clock.pace(100.0)
    pace.begin(100, clock.now)
    clock.now += 0.75
    pace.end()
    assert clock.slept == [0.25]
    pace.begin(100, clock.now)
    clock.now += 3
    pace.end()
    assert clock.slept == [0.25]


def test_no_tokens_are_kept_without_a_burst() -> None:
    clock = Clock()
    pace = clock.pace(100.0)
    clock.now += 1000
    pace.begin(100, clock.now)
    pace.end()
    assert clock.slept == [1.0]


def test_a_burst_passes_at_once_after_a_rest() -> None:
    clock = Clock()
    pace = clock.pace(100.0, burst=300)
    pace.begin(300, clock.now)
    pace.end()
    assert clock.slept == []
    pace.begin(100, clock.now)
    pace.end()
    assert clock.slept == [1.0]


@given(
    sizes=st.lists(st.integers(1, 10**6), min_size=1),
    rests=st.lists(st.floats(0, 10)),
    burst=st.integers(0, 10**6),
)
def test_never_more_than_rate_and_burst(sizes: list[int], rests: list[float], burst: int) -> None:
    clock, rate = Clock(), 1000.0
    pace, start = clock.pace(rate, burst), clock.now
    for i, nbytes in enumerate(sizes):
        clock.now += rests[i] if i < len(rests) else 0
        pace.begin(nbytes, clock.now)
        pace.end()
        assert sum(sizes[: i + 1]) <= burst + (clock.now - start) * rate + 1e-3


def test_no_limit_needs_no_clock() -> None:
    pace = Pace(inf, clock=lambda: 1 / 0, sleep=lambda _: 1 / 0)
    pace.begin(2**60, 0.0)
    pace.end()


@pytest.mark.parametrize(("rate", "burst"), [(0, 0), (-1, 0), (float("nan"), 0), (1, -1)])
def test_what_is_no_pace(rate: float, burst: int) -> None:
    with pytest.raises(ValueError, match="bytes a second"):
        Pace(rate, burst)
