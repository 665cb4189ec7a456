"""Improves the order and the bound of a phase with a wide graph by wider and wider beams.

A beam searches sets of ops for an order that keeps within a limit (`beam_search.py`). Of the sets
with equally many ops, it extends only a limited number: its width. The *step* is the distance of
the limit on live bytes below the peak of the best order so far:

    bound ───────────────────── limit ──── peak        fits          the peak falls, the next step
                                  │<─ step ─>│                       is twice as long
                                                       unknown       the next step is half as long
                                                       does not fit  the bound rises

After an answer, a step is at most half of the gap between bound and peak. It is never shorter than
the share `Beams.worth` of the peak. If the gap is at most twice that shortest step, the limit is
one byte below the peak.

A narrow beam, which searches few sets of ops, soon finds good orders. A wide beam proves that there
are no better ones. So beams of one width after another are used, from the narrowest to the widest.
The narrowest beam begins with the bound as its limit, each wider one with the shortest step. A
wider beam takes over if a beam cannot answer for the shortest step, or if the measured peak of an
order found is above the limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from roam.core.problem import OpId, Problem
from roam.solvers.answer import Answer, Outcome, minimized
from roam.solvers.order.beam_search import FOUND, NONE, a_step, both_ends, search
from roam.solvers.order.bracket import Bracket
from roam.solvers.order.levels import NEVER
from roam.solvers.work import Work


@dataclass(frozen=True)
class Beams:
    """How wide the beams are, and how long they search.

    A beam searches sets of ops. A level of a beam is the sets with equally many ops.

    Attributes:
        widths: limits on the sets of a level that are extended; each is tried after the one before.
        both: largest width with which beams search from both ends of the phase. Wider beams search
            only from the end from which a search has last given an answer; from the end of the
            phase if none has.
        tries: limit on the steps of one search, from one end: a step for each op tried after a set,
            and some for each level.
        worth: the shortest distance of a limit on live bytes below the peak, as a share of the
            peak. If the gap between bound and peak is at most twice this distance, the limit is one
            byte below the peak.
    """

    widths: tuple[int, ...] = (100, 1_000, 10_000, 100_000)
    both: int = 1_000
    tries: int = 10_000_000
    worth: float = 1e-3


class BeamSearch:
    """Asks whether a phase has an order within a limit on live bytes, by beams from both ends.

    A beam searches sets of ops. Of those with equally many ops, it extends only a limited number.

    Attributes:
        ends: the phase as seen from its end and from its start. The end whose search has last given
            an answer comes first.
        tries: limit on the steps of one search, from one end: a step for each op tried after a set,
            and some for each number of ops in a set (`beam_search.search`).
        ops: the ids of the ops of the phase, in program order.
    """

    def __init__(self, problem: Problem, phase: int, tries: int = NEVER) -> None:
        self.tries = tries
        self.ops = problem.phases[phase]
        self.ends = both_ends(problem, phase)

    def keeps_within(
        self, most: int, width: int, work: Work, *, both: bool = True
    ) -> Answer[list[OpId] | None]:
        """Searches for an order of the phase that keeps within `most` bytes.

        Counts live bytes as if every op wrote over all dying buffers that it may ever write over.
        So the measured peak of the order found may be above `most`.

        Args:
            most: the limit on live bytes.
            width: limit on the sets with equally many ops that the search extends.
            work: limits the work and the time of the search.
            both: whether to search from both ends of the phase, or only from the end that comes
                first in `ends`.

        Returns:
            FITS with the order; DOES_NOT_FIT with a lower bound above `most` on the peak of every
            order; or UNKNOWN. `Answer.work` is the number of steps: one for each op tried after a
            set, and some for each number of ops in a set (`beam_search.search`).
        """
        cost, tried = a_step(len(self.ops)), 0
        for end in list(self.ends if both else self.ends[:1]):
            steps = int(work.steps(cost, self.tries))
            how, found, needed, done = search(end, most, width, steps)
            work.spend(done * cost)
            tried += done
            if how in (FOUND, NONE):
                self.ends.sort(key=lambda other: other is not end)
            if how == NONE:
                return Answer(None, most, needed, Outcome.DOES_NOT_FIT, tried)
            if how == FOUND:
                order = [self.ops[k] for k in (found[::-1] if end.mirrored else found)]
                return Answer(order, most, 0, Outcome.FITS, tried)
        return Answer(None, most, 0, Outcome.UNKNOWN, tried)


def widen(
    problem: Problem,
    phase: int,
    order: list[OpId],
    peak_of: Callable[[list[OpId]], int],
    bound: int,
    work: Work | None = None,
    beams: Beams | None = None,
) -> Answer[list[OpId]]:
    """Searches for an order of a phase with a lower peak than `order`, and for a higher bound.

    Args:
        problem: the Problem whose phase is ordered.
        phase: the index of the phase.
        order: the best known order of the phase.
        peak_of: returns the measured peak of an order of the phase, in bytes.
        bound: a proven lower bound on the peak, in bytes, or any peak that is low enough.
        work: limits the work and the time of the search; no limit if left out.
        beams: how wide the beams are, and how long they search; the defaults if left out.

    Returns:
        The best order, its peak, and the highest bound proven, or `bound` if none is higher.
        If `bound` is not proven and no higher one is, the status OPTIMAL is no proof. `Answer.work`
        is the number of steps of all searches: one for each op tried after a set of ops, and some
        for each number of ops in a set (`beam_search.search`).
    """
    work, beams = work or Work(), beams or Beams()
    with work.uncounted():  # the first call of a process compiles the search
        asked = BeamSearch(problem, phase, beams.tries)
    known, tried = Bracket(order, peak_of, bound), 0
    step: float = known.peak - known.bound
    for width in beams.widths:
        least = beams.worth * known.peak
        while known.peak > known.bound and not work.is_over():
            near = known.peak - known.bound <= 2 * least
            most = known.peak - 1 if near else max(known.bound, int(known.peak - step))
            answer = asked.keeps_within(most, width, work, both=width <= beams.both)
            tried += answer.work
            if not known.learn(answer):
                break
            half = (known.peak - known.bound) / 2
            if answer.status is Outcome.FITS:
                step = min(2 * step, half)
            elif answer.status is Outcome.DOES_NOT_FIT:
                step = min(step, half)
            elif near or step <= least:
                break
            else:
                step /= 2
            step = max(step, least)
        step = least
    return minimized(known.best, known.peak, known.bound, tried)
