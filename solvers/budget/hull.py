"""Chooses copies by minimum cuts at the worst moment, and mixes two choices into one that fits.

A price on the bytes alive at the worst moment makes a choice of copies: those of a minimum cut
(solvers/bound/priced_cut.py). Prices from 0 up give a few choices that no other beats at that
moment, the corners of the hull. Between two corners lies the limit: one choice is too large, the
other costs more than it must, as all equal layers change sides at one price. So a part of the step
takes one choice, and the rest the other:

    seconds                               copies      c0 c1 c2 c3 │ c4 c5 c6 c7
       │  ·                                           dear choice │ cheap choice
       │     ·  dear
       │        x  mixed                  the smallest part of the dear choice with which the step
       │            ·  cheap              is within the limit
       └──────┼────────── bytes
            limit
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from roam.core.machine import Bytes, Seconds
from roam.core.problem import OpId
from roam.solvers.bound.priced_cut import PricedCuts
from roam.solvers.budget.copies import Choice, Copies, Copy, Curve, Step
from roam.solvers.form import Form

MOMENTS = 6  # at which cuts are made


@dataclass
class Hull:
    """The choices of copies that cuts find for a limit.

    Attributes:
        step: what is edited.
        limit: bytes.
        best: the cheapest choice found that fits, or None.
        lowest: the choice with the lowest peak.
        least: seconds that every choice of copies costs while the step keeps its program order;
            inf if none fits.
        corners: all choices that were looked at.
    """

    step: Step
    limit: Bytes
    best: Curve | None = field(init=False, default=None)
    lowest: Curve = field(init=False)
    least: Seconds = field(init=False, default=0.0)
    corners: dict[Choice, Curve] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.lowest = self._curve(frozenset())
        self._cut()
        for corner in list(self.corners.values()):
            if corner.peak > self.limit:
                self._mix(corner)

    def copies(self) -> Choice:
        """Returns the copies of the best choice, and of all that cost less."""
        most = None if self.best is None else self.best.copies.cost
        some = (c for c, x in self.corners.items() if most is None or x.copies.cost <= most)
        return frozenset().union(*some)

    def _cut(self) -> None:
        """Makes cuts at the worst moment of the choice with the lowest peak, again and again."""
        cuts = PricedCuts(self.step.problem, droppable_forms(self.step), in_order=True)
        asked: set[OpId] = set()
        while self.best is None and len(asked) < MOMENTS:
            low = self.lowest
            worst = op_at_peak(low)
            if worst in asked:
                break
            asked.add(worst)
            found = cuts.extra(worst, self.limit)
            self.least = max(self.least, found.seconds)
            for moment in found.moments:
                choice = placed(self.step, moment.again, worst)
                self._curve(choice)
                self._curve(choice | low.copies.choice)

    def _curve(self, choice: Choice) -> Curve:
        """Looks at a choice."""
        if choice not in self.corners:
            found = self.corners[choice] = Curve.of(Copies.of(self.step, choice))
            if len(self.corners) == 1 or found.peak < self.lowest.peak:
                self.lowest = found
            if found.peak <= self.limit:
                self.best = cheaper(self.best, found)
        return self.corners[choice]

    def _mix(self, cheap: Curve) -> None:
        """Searches for the least of the best choice that brings a cheaper one within the limit."""
        dear = self.best
        if dear is None or cheap.copies.cost >= dear.copies.cost:
            return
        for ordered in ways(dear.copies.choice | cheap.copies.choice):
            low, high = 0, len(ordered)
            while high - low > 1:
                middle = (low + high) // 2
                front = dear.copies.choice.intersection(ordered[:middle])
                mixed = front | cheap.copies.choice.intersection(ordered[middle:])
                if self._curve(mixed).peak <= self.limit:
                    high = middle
                else:
                    low = middle


def droppable_forms(step: Step) -> dict[OpId, Form]:
    """Returns the forms with only those results that need not be kept."""
    found = {}
    for i, form in step.forms.items():
        if creates := tuple(b for b in form.creates if b in step.droppable):
            found[i] = replace(form, creates=creates)
    return found


def cheaper(known: Curve | None, found: Curve | None) -> Curve | None:
    """Returns the choice that costs less, the known one if they cost the same."""
    both = (c for c in (known, found) if c is not None)
    return min(both, key=lambda c: c.copies.cost, default=None)


def op_at_peak(curve: Curve) -> OpId:
    """Returns the op of the step that runs at the peak, or after the copy that runs then."""
    time = max(range(len(curve.live)), key=curve.live.__getitem__)
    return next(w for w in curve.what[time:] if not isinstance(w, tuple))


def ways(copies: Choice) -> Iterator[list[Copy]]:
    """Yields the copies in the order in which they run, and in the opposite one."""
    ordered = sorted(copies, key=lambda c: (c[1], c[0]))
    yield ordered
    yield ordered[::-1]


def placed(step: Step, again: frozenset[OpId], moment: OpId) -> Choice:
    """Returns the choice that each op runs again once, where its result is first read.

    Args:
        step: what is edited.
        again: the ops.
        moment: the op before which the cut was made: what is read before it needs no copy.
    """
    segments: dict[OpId, int] = {}
    for i in sorted(again & step.forms.keys(), reverse=True):
        wanted = []
        for b in step.droppable.intersection(step.forms[i].creates):
            for r in step.problem.users[b]:
                if r >= max(moment, step.boundary):
                    wanted.append(step.segment(r))
                elif r in segments and b in step.forms[r].reads:
                    wanted.append(segments[r])
        if wanted:
            segments[i] = min(wanted)
    return frozenset(segments.items())
