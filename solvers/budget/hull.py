"""Chooses copies by minimum cuts at the worst moment, and mixes two choices into one that fits.

Let every byte that is alive at the worst moment have a price in seconds. A minimum cut finds the
choice of copies with the least sum of the copies' seconds and the price of the bytes alive
(solvers/bound/priced_cut.py). Rising prices give a few choices, the corners of the hull: no other
choice takes both less time and fewer bytes at this moment. Layers that are equal are recomputed
from the same price on. So the limit usually lies between two corners: the cheap choice takes too
many bytes, and the dear choice takes more seconds than necessary. A bisection mixes the two: one
part of the copies is that of the dear choice, the rest is that of the cheap one.

    seconds                               copies      c0 c1 c2 c3 │ c4 c5 c6 c7
       │  ·                                           dear choice │ cheap choice
       │     ·  dear
       │        x  mixed                  as small a part of the dear choice as the bisection finds
       │            ·  cheap              to keep the step within the limit
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

MOMENTS = 6  # limit on the moments at which cuts are made


@dataclass
class Hull:
    """Searches, when it is made, for cheap choices of copies that keep a step within a limit.

    A choice is a set of copies. Choices come from minimum cuts at the worst moment, and from mixing
    two choices: some copies of one that fits, the rest from a cheaper one that does not fit.

    Attributes:
        step: the step.
        limit: the limit on the peak, in bytes.
        best: the cheapest choice found that fits; None if none is found.
        lowest: the choice found with the lowest peak.
        least: a lower bound on the seconds of any choice that fits, if the step's ops keep their
            program order; inf if it is proven that no choice fits.
        corners: all choices tried, mixed ones too, with their live curves.
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
        """Returns the union of all choices tried that cost at most as much as `best`.

        If no choice fits, returns the union of all choices tried.
        """
        most = None if self.best is None else self.best.copies.cost
        some = (c for c, x in self.corners.items() if most is None or x.copies.cost <= most)
        return frozenset().union(*some)

    def _cut(self) -> None:
        """Makes minimum cuts at the worst moment of the choice in `lowest`, until a choice fits.

        Ends also if cuts were made at this moment already, or after MOMENTS moments.
        """
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
        """Returns the live curve of a choice. Updates `best`, `lowest` and `corners`."""
        if choice not in self.corners:
            found = self.corners[choice] = Curve.of(Copies.of(self.step, choice))
            if len(self.corners) == 1 or found.peak < self.lowest.peak:
                self.lowest = found
            if found.peak <= self.limit:
                self.best = cheaper(self.best, found)
        return self.corners[choice]

    def _mix(self, cheap: Curve) -> None:
        """Mixes the best choice with a cheaper one that does not fit.

        Bisects for the smallest part of the best choice with which the mixture fits. Copies are
        sorted by segment and op: this part begins at the first copy in one bisection, and at the
        last copy in another (`ways`). Does nothing if no choice fits, or if `cheap` costs no less
        than the best choice.
        """
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
    """Returns, by op, what a copy reads and makes if it makes only the op's droppable results.

    A result is droppable if it need not stay alive, since copies can make it again. Leaves out ops
    without a droppable result: their copies would save no bytes.
    """
    found = {}
    for i, form in step.forms.items():
        if creates := tuple(b for b in form.creates if b in step.droppable):
            found[i] = replace(form, creates=creates)
    return found


def cheaper(known: Curve | None, found: Curve | None) -> Curve | None:
    """Returns the choice that costs less, `known` if they cost the same; None if both are None."""
    both = (c for c in (known, found) if c is not None)
    return min(both, key=lambda c: c.copies.cost, default=None)


def op_at_peak(curve: Curve) -> OpId:
    """Returns the op that runs when the peak is first reached; the next op if a copy runs then."""
    time = max(range(len(curve.live)), key=curve.live.__getitem__)
    return next(w for w in curve.what[time:] if not isinstance(w, tuple))


def ways(copies: Choice) -> Iterator[list[Copy]]:
    """Yields two lists of the copies: sorted by segment and op, and the reverse of that.

    In the first list the copies are nearly in the order in which they run. Inside a segment their
    readers decide this order.
    """
    ordered = sorted(copies, key=lambda c: (c[1], c[0]))
    yield ordered
    yield ordered[::-1]


def placed(step: Step, again: frozenset[OpId], moment: OpId) -> Choice:
    """Returns the choice in which each op of `again` runs again once, before its first reader.

    Leaves out ops that may not be recomputed. Also leaves out ops whose droppable results (those
    that need not stay alive) are read neither by an op of the backward from `moment` on nor by a
    copy.

    Args:
        step: the step.
        again: the ops that a minimum cut has run again.
        moment: the cut decides what is alive just before this op. Readers that run earlier use the
            original results.
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
