"""Finds trade-offs between a step's memory and the time of recomputation."""

from __future__ import annotations

from dataclasses import dataclass

from roam.core.machine import Bytes, Seconds
from roam.solvers.bound.priced_cut import PricedCuts
from roam.solvers.budget.choose import QUICK, choose, smallest_peak
from roam.solvers.budget.copies import Copies, Curve, Step
from roam.solvers.budget.proof import all_forms

MOMENTS = 3  # limit on the ops at which bounds on the extra time are proven


@dataclass(frozen=True)
class Point:
    """One choice of copies.

    Attributes:
        peak: transient bytes alive at the worst moment of program order, before the layout.
        seconds: the time of the copies together.
        bound: a lower bound on the seconds added by any schedule within `peak` bytes.
        copies: the number of copies.
    """

    peak: Bytes
    seconds: Seconds
    bound: Seconds
    copies: int


def pareto(step: Step, n: int) -> tuple[Point, ...]:
    """Returns up to `n` points, from the lowest peak found to the peak without copies.

    Each point has a higher peak and a lower cost than the point before it. The choices are found by
    cuts, without CP-SAT. `n` = 1 gives the point with the lowest peak only.
    """
    whole = Curve.of(Copies.of(step, frozenset()))
    low = smallest_peak(step, QUICK)
    limits = [whole.peak - k * (whole.peak - low.peak) // max(1, n - 1) for k in range(n - 1)]
    found = [choose(step, limit, QUICK) for limit in limits]
    found = [*(c for c in found if c.fits), low]
    bounds = _Bounds(step, whole)
    points: list[Point] = []
    for chosen in sorted(found, key=lambda c: (c.peak, c.copies.cost)):
        if not points or chosen.copies.cost < points[-1].seconds:
            copies, bound = chosen.copies, bounds.at(chosen.peak)
            points.append(Point(chosen.peak, copies.cost, bound, len(copies.placed)))
    return tuple(points)


class _Bounds:
    """Proves lower bounds on the extra time, which hold for schedules with any copies.

    Tries the MOMENTS ops at which the step without copies has the most live bytes.
    """

    def __init__(self, step: Step, whole: Curve) -> None:
        self.cuts = PricedCuts(step.problem, all_forms(step))
        self.live = whole.live
        self.worst = sorted(range(len(self.live)), key=lambda i: -self.live[i])[:MOMENTS]

    def at(self, limit: Bytes) -> Seconds:
        over = [i for i in self.worst if self.live[i] > limit]
        return max((self.cuts.extra(i, limit).seconds for i in over), default=0.0)
