"""Compares what steps with transfers take with what was planned, and tells when to plan anew.

A plan of transfers rests on how long ops take and on how fast the tier is. Both may be wrong: they
were measured beside other work, or the machine is busy now. Then ops wait for transfers, or tensors
stay on the device although there is time to move them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

from roam.core.machine import MIB, Bytes, Seconds
from roam.runtime.file_tier import FileTier
from roam.runtime.tier_settings import Traffic

TOLERANCE = 0.1  # share of what was planned: a plan that is off by less is kept
STEPS = 5  # most of which must have been off: one alone may have met other work
FIRST = 1  # steps that are not looked at: their memory is touched for the first time
MORE_CAUTION = 1.25  # for a plan after one whose ops waited: rates are means, and moments differ
TELLING: Bytes = 16 * MIB  # of transfers in those steps: fewer tell little of a rate


@dataclass(frozen=True)
class Measured:
    """How fast a graph and its tier are, as its steps showed.

    Attributes:
        slower: what the ops took, divided by the sum of their costs.
        write: bytes a second to the tier; None if too few were written to tell.
        read: bytes a second from it.
        caution: factor on the duration of transfers, for the next plan.
    """

    slower: float
    write: float | None
    read: float | None
    caution: float


@dataclass(frozen=True)
class Expected:
    """What was planned of a step.

    Attributes:
        costs: seconds of all its ops, by their costs.
        ops: seconds that they were taken to last.
        stall: seconds for which ops wait for transfers.
        keeps: whether tensors stay on the device because there is no time to move them.
        caution: factor on the duration of transfers with which they were planned.
    """

    costs: Seconds
    ops: Seconds
    stall: Seconds
    keeps: bool
    caution: float


@dataclass(frozen=True)
class _Seen:
    """What one step, or a part of it, took."""

    seconds: Seconds = 0.0
    out: Traffic = field(default_factory=Traffic)
    back: Traffic = field(default_factory=Traffic)

    def plus(self, more: _Seen) -> _Seen:
        return _Seen(
            self.seconds + more.seconds, self.out.plus(more.out), self.back.plus(more.back)
        )

    @property
    def stall(self) -> Seconds:
        return self.out.stalled + self.back.stalled

    @property
    def ops(self) -> Seconds:
        return self.seconds - self.stall


@dataclass
class StepWatch:
    """Watches the steps of one graph.

    A step whose forward and backward do not alternate is not looked at.

    Attributes:
        tier: where its tensors move.
        expected: what was planned of a step.
    """

    tier: FileTier
    expected: Expected
    _forward: list[_Seen] = field(default_factory=list)
    _steps: list[_Seen] = field(default_factory=list)
    _left: int = FIRST

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Notes what a forward takes."""
        begin = self._now()
        yield
        self._forward.append(self._since(begin))

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Notes what a backward takes."""
        begin = self._now()
        yield
        forwards, self._forward = self._forward, []
        if len(forwards) != 1:
            return
        if self._left:
            self._left -= 1
            return
        self._steps = [*self._steps, forwards[0].plus(self._since(begin))][-STEPS:]

    def news(self) -> Measured | None:
        """Returns what the last steps showed, if the plan is off by more than the tolerance.

        It is off if ops waited longer or shorter than planned, or if they took so much longer that
        more could be moved beside them.
        """
        steps = self._steps
        if len(steps) < STEPS or self._forward:
            return None
        expected = self.expected
        planned = expected.ops + expected.stall
        ops = median(s.ops for s in steps)
        waits = median(s.stall for s in steps) - expected.stall
        has_time = expected.keeps and ops > (1 + TOLERANCE) * expected.ops
        if abs(waits) <= TOLERANCE * planned and not has_time:
            return None
        total = _Seen()
        for seen in steps:
            total = total.plus(seen)
        caution = expected.caution * (MORE_CAUTION if waits > 0 else 1.0)
        return Measured(ops / expected.costs, _rate(total.out), _rate(total.back), caution)

    def _now(self) -> tuple[float, Traffic, Traffic]:
        return time.perf_counter(), self.tier.out.traffic, self.tier.back.traffic

    def _since(self, begin: tuple[float, Traffic, Traffic]) -> _Seen:
        start, out, back = begin
        end, *now = self._now()
        return _Seen(end - start, now[0].since(out), now[1].since(back))


def _rate(traffic: Traffic) -> float | None:
    telling = traffic.nbytes >= TELLING and traffic.busy > 0
    return traffic.nbytes / traffic.busy if telling else None
