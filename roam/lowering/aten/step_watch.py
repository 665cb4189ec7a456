"""Compares the seconds of steps with the plan of their transfers, and tells when to plan anew.

A plan of transfers depends on how long ops take and on how fast the tier is. Both may be wrong,
because they were measured beside other work or because the machine is busy now. Then ops wait for
transfers, or tensors stay on the device although there is time to move them.
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

TOLERANCE = 0.1  # the plan is kept if steps differ from it by at most this share of planned time
STEPS = 5  # steps whose median is compared: a single step may have run beside other work
FIRST = 1  # steps left out at the start, because they touch their memory for the first time
# If ops waited longer for transfers than planned, the next plan assumes durations of transfers that
# are longer by this factor: measured rates are means, and some transfers are slower than the mean.
MORE_CAUTION = 1.25
TELLING: Bytes = 16 * MIB  # bytes that the steps must write (read) for the measured rate to count


@dataclass(frozen=True)
class Measured:
    """The speed of a graph and its tier, as measured in steps.

    Attributes:
        slower: seconds that the ops took, divided by the sum of their costs.
        write: bytes a second to the tier; None if too few bytes were written to measure it.
        read: bytes a second from the tier; None if too few bytes were read to measure it.
        caution: factor on the duration of transfers, for the next plan.
    """

    slower: float
    write: float | None
    read: float | None
    caution: float


@dataclass(frozen=True)
class Expected:
    """The seconds of a step as planned.

    Attributes:
        costs: the sum of the costs of the step's ops, in seconds.
        ops: seconds that the ops take according to the plan, stalls not included.
        stall: seconds for which ops wait for transfers according to the plan.
        keeps: whether the plan keeps tensors on the device because there is no time to move them.
        caution: factor on the duration of transfers that the plan used.
    """

    costs: Seconds
    ops: Seconds
    stall: Seconds
    keeps: bool
    caution: float


@dataclass(frozen=True)
class _Seen:
    """The seconds of one step, or of a part of it, and its traffic to the tier (out) and back."""

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
    """Measures the steps of one graph.

    Leaves out the first FIRST steps, and steps in which several forwards, or none, ran before a
    backward. Remembers the last STEPS steps.

    Attributes:
        tier: the tier that the graph's tensors move to.
        expected: the seconds of a step as planned.
    """

    tier: FileTier
    expected: Expected
    _forward: list[_Seen] = field(default_factory=list)
    _steps: list[_Seen] = field(default_factory=list)
    _left: int = FIRST

    @contextmanager
    def forward(self) -> Iterator[None]:
        """A context for a forward: records its seconds and traffic, if it raises nothing."""
        begin = self._now()
        yield
        self._forward.append(self._since(begin))

    @contextmanager
    def backward(self) -> Iterator[None]:
        """A context for a backward: records a step, with the seconds and traffic of both phases.

        Records nothing if the backward raises, if several forwards or none ran since the last
        backward, and for the first FIRST steps.
        """
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
        """Returns the speed measured in the last steps, if these differ from the plan; else None.

        The steps differ if ops waited longer or shorter than planned by more than TOLERANCE of the
        step's planned time. They also differ if the plan keeps tensors on the device for lack of
        time to move them, and ops took longer than planned by more than TOLERANCE. The medians of
        the steps' times count.

        Returns None, too, before STEPS steps were recorded, and between a forward and its backward.
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
