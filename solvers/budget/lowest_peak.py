"""Chooses the copies that lower a step's peak most within a limit on their time.

bytes at the worst moment
   │ x  no copies
   │    x                             x: choices by minimum cuts at this moment, for several
   │       x ┆                           prices. A choice beyond the limit on seconds is
   │         ┆   x                       mixed with one within it: some copies are those of
   └─────────┴──────── seconds           the one, the rest those of the other.
          limit
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from roam.core.lifetime import Reuse, find_reuse, lifetimes, live_curve
from roam.core.machine import Bytes, Seconds
from roam.core.problem import BufferId, OpId, Problem
from roam.solvers.bound.priced_cut import PricedCuts
from roam.solvers.budget.choose import trimmed
from roam.solvers.budget.copies import Choice, Copies, Curve, Step
from roam.solvers.budget.hull import droppable_forms, op_at_peak, placed, ways
from roam.solvers.form import as_they_are

MOMENTS = 6  # limit on the moments at which cuts are made
TRIALS = 40  # limit on the copies whose removal is tried at the end of the search
CURVES = 400_000  # limit on the ops in all live curves together: 40 curves of 10,000 ops


def lowest_peak(step: Step, seconds: Seconds) -> Copies:
    """Searches for the copies that lower the peak most and take at most `seconds` together.

    Returns no copies if the search finds none that lower the peak.
    """
    return _Search(step, seconds).found().copies


@dataclass
class _Search:
    """A search for the copies, with the choices whose live curves are known.

    Attributes:
        step: the step.
        seconds: limit on the time of the copies together.
        left: a live curve is computed only if this is above 0. Each curve reduces it by the number
            of ops in the step, without copies.
        curves: by choice, its live curve.
    """

    step: Step
    seconds: Seconds
    left: int = CURVES
    curves: dict[Choice, Curve] = field(default_factory=dict)

    def found(self) -> Curve:
        none = best = self.curve(frozenset())
        if not self.step.droppable:
            return none
        cuts = PricedCuts(self.step.problem, droppable_forms(self.step), in_order=True)
        asked: set[OpId] = set()
        while len(asked) < MOMENTS and (worst := op_at_peak(best)) not in asked and self.left > 0:
            asked.add(worst)
            best = self.better(best, cuts, worst)
        trials = min(TRIALS, max(0, self.left) // max(1, len(self.step.problem.ops)))
        return best if best is none else trimmed(best, best.peak, trials)

    def better(self, best: Curve, cuts: PricedCuts, worst: OpId) -> Curve:
        """Returns the choice with the lowest peak: `best`, or a better one that is found here.

        Tries the choices that cuts at op `worst` find, each alone and together with the copies of
        `best`, the best choice so far. Mixes some of these choices with the one that has the lowest
        peak of all within the limit on seconds.
        """
        known = best.copies.choice
        choices = [placed(self.step, m.again, worst) for m in cuts.within(worst, self.seconds)]
        cheap, dear = [known], list[Choice]()
        for choice in choices:
            for some in (choice, choice | known):
                cost = Copies.of(self.step, some).cost
                (cheap if cost <= self.seconds else dear).append(some)
        found = [self.curve(choice) for choice in cheap]
        best = min(found, key=lambda c: c.peak)
        # the first two that exceed the limit on seconds: `choices` begins with the cheapest, and
        # each choice comes before its union with `known`
        mixable = dear[:2]
        if best.copies.choice == known:
            # each whole choice within the limit raises the peak elsewhere; a part of it may not
            mixable += [choice for choice in cheap if choice != known]
        for choice in dict.fromkeys(mixable):
            mixed = self.mixed(choice, best.copies.choice)
            best = min(best, mixed, key=lambda c: c.peak)
        return best

    def mixed(self, dear: Choice, cheap: Choice) -> Curve:
        """Returns the choice with the lowest peak: `cheap`, or a mixture of `dear` and `cheap`.

        Bisects for the largest part of `dear` that the limit on seconds allows; the rest is that of
        `cheap`. Copies are sorted by segment and op: the part of `dear` begins at the first copy in
        one bisection, and at the last copy in another (`ways`).
        """
        best = self.curve(cheap)
        for ordered in ways(dear | cheap):
            low, high = 0, len(ordered)
            while high - low > 1:
                middle = (low + high) // 2
                mixed = dear.intersection(ordered[:middle]) | cheap.intersection(ordered[middle:])
                if Copies.of(self.step, mixed).cost <= self.seconds:
                    low, best = middle, min(best, self.curve(mixed), key=lambda c: c.peak)
                else:
                    high = middle
        return best

    def curve(self, choice: Choice) -> Curve:
        """Returns the live curve of a choice; the curve without copies if `left` is used up."""
        if choice not in self.curves:
            if self.left <= 0:
                return self.curves[frozenset()]
            self.left -= len(self.step.problem.ops)
            self.curves[choice] = Curve.of(Copies.of(self.step, choice))
        return self.curves[choice]


def peak_without(
    problem: Problem, order: Sequence[OpId], reuse: Reuse, dropped: Collection[BufferId]
) -> Bytes:
    """Returns the peak that an order would have if some buffers lived only while an op uses them.

    This is a quick lower bound on the peak of this order with any copies of the ops that make these
    buffers. What the copies read and their scratch space are not counted.

    Args:
        problem: the step.
        order: an order of its ops.
        reuse: maps each buffer that is written over a dying buffer to that dying buffer.
        dropped: the buffers, each made by an op.
    """
    change = np.zeros(len(order) + 1, np.int64)
    used = np.zeros(len(order), np.int64)
    time = {i: t for t, i in enumerate(order)}
    lives = lifetimes(problem, order)
    for b in dropped:
        made, size = problem.maker[b], problem.buffers[b].transient
        assert made is not None, "nothing makes what is the user's"
        change[lives[b][0]] += size
        change[lives[b][1]] -= size
        for i in {made, *problem.users[b]}:
            used[time[i]] += size
    unused = change.cumsum()[:-1] - used
    curve = np.array(live_curve(problem, order, reuse), np.int64)
    return int((curve - unused).max(initial=0))


def least_with_copies(problem: Problem, again: Collection[OpId]) -> Bytes:
    """Returns a lower bound on the peak of program order with any copies of some ops, in bytes.

    Computed by one minimum cut, at the worst moment without copies.

    Args:
        problem: the step.
        again: the ops that may be recomputed, unchanged. Ops that must not run twice are ignored.
    """
    order = range(len(problem.ops))
    curve = live_curve(problem, order, find_reuse(problem, order))
    forms = {i: form for i, form in as_they_are(problem).items() if i in again}
    worst = max(order, key=curve.__getitem__)
    return PricedCuts(problem, forms, in_order=True).least(worst)


def saved_buffers(problem: Problem, boundary: OpId) -> list[BufferId]:
    """Returns the buffers that the forward makes and the backward uses.

    Leaves out the buffers that the user holds to the end of the step.

    boundary: the first op of the backward, in program order.
    """
    return [
        b
        for b, buffer in enumerate(problem.buffers)
        if (made := problem.maker[b]) is not None
        and made < boundary
        and not buffer.kept
        and problem.users[b]
        and problem.users[b][-1] >= boundary
    ]
