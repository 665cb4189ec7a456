"""When the steps of a graph ask for another plan of their transfers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from roam.core.machine import MIB
from roam.lowering.aten import step_watch
from roam.lowering.aten.step_watch import FIRST, MORE_CAUTION, STEPS, Expected, StepWatch
from roam.runtime.tier_settings import Traffic

PLANNED = Expected(costs=2.0, ops=2.0, stall=0.0, keeps=False, caution=1.25)
WRITTEN = Traffic(transfers=1, nbytes=100 * MIB, busy=0.5)


@dataclass
class Way:
    traffic: Traffic = field(default_factory=Traffic)


@dataclass
class Run:
    """Steps of a clock that only they move."""

    monkeypatch: pytest.MonkeyPatch
    expected: Expected = PLANNED
    now: float = 0.0
    out: Way = field(default_factory=Way)
    back: Way = field(default_factory=Way)

    def __post_init__(self) -> None:
        self.monkeypatch.setattr(step_watch.time, "perf_counter", lambda: self.now)
        tier: Any = self
        self.watch = StepWatch(tier, self.expected)

    def step(self, ops: float = 2.0, stall: float = 0.0, written: Traffic = WRITTEN) -> None:
        """Half of the time is the forward's, all of the waiting the backward's."""
        self.forward(ops / 2, written)
        with self.watch.backward():
            self.now += ops / 2 + stall
            self.back.traffic = self.back.traffic.plus(replace(written, stalled=stall))

    def forward(self, seconds: float, written: Traffic = WRITTEN) -> None:
        with self.watch.forward():
            self.now += seconds
            self.out.traffic = self.out.traffic.plus(written)


def test_steps_as_planned_keep_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    for _ in range(FIRST + 3 * STEPS):
        run.step(2.1, stall=0.1)
        assert run.watch.news() is None


def test_a_plan_whose_ops_wait_is_made_again_with_what_was_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(monkeypatch)
    for _ in range(FIRST + STEPS):
        assert run.watch.news() is None
        run.step(1.0, stall=0.5)
    found = run.watch.news()
    assert found is not None
    assert found.slower == pytest.approx(0.5)
    assert found.write == found.read == pytest.approx(200 * MIB)
    assert found.caution == PLANNED.caution * MORE_CAUTION


def test_one_step_that_met_other_work_is_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    for stall in (0.0, 5.0, 0.0, 5.0, 0.0, 0.0):
        run.step(2.0, stall)
        assert run.watch.news() is None


@pytest.mark.parametrize(("keeps", "is_news"), [(True, True), (False, False)])
def test_slower_ops_are_news_if_more_could_move_beside_them(
    keeps: bool, is_news: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(monkeypatch, replace(PLANNED, keeps=keeps))
    for _ in range(FIRST + STEPS):
        run.step(4.0)
    found = run.watch.news()
    assert (found is not None) == is_news
    if found is not None:
        assert found.slower == pytest.approx(2.0)
        assert found.caution == PLANNED.caution


def test_waiting_that_was_planned_is_no_news_and_its_absence_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = replace(PLANNED, stall=1.0)
    as_planned, faster = Run(monkeypatch, expected), Run(monkeypatch, expected)
    for _ in range(FIRST + STEPS):
        as_planned.step(2.0, stall=1.0)
    assert as_planned.watch.news() is None
    monkeypatch.setattr(step_watch.time, "perf_counter", lambda: faster.now)
    for _ in range(FIRST + STEPS):
        faster.step(2.0, stall=0.0)
    assert faster.watch.news() is not None


def test_few_bytes_tell_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    for _ in range(FIRST + STEPS):
        run.step(1.0, stall=0.5, written=Traffic(transfers=1, nbytes=MIB, busy=0.1))
    found = run.watch.news()
    assert found is not None
    assert found.write is None


def test_steps_with_two_forwards_before_a_backward_are_not_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(monkeypatch)
    for _ in range(FIRST + STEPS):
        run.forward(1.0)
        run.step(1.0, stall=0.5)
    assert run.watch.news() is None
