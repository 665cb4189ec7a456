"""Searches for the lowest peak of a phase, between a bound and a known order's peak, by bisection.

Asks `valleys` a sequence of questions: is there an order whose live bytes keep within a limit? The
first limit is the bound.

    bound ──┬──── limit ──── ... ───────┬── peak of the best order so far
           no: raises the bound        yes: a better order, which lowers the peak
           to the lowest limit that
           this "no" does not rule out

If every question is answered, bound and peak meet, and the order is optimal. If `valleys` cannot
answer a question, the next question is whether an order has a lower peak than the best order so
far, by a byte or more: a "no" proves that the best order is optimal. The second question without an
answer ends the bisection. So does the first one if the distance of its limit from the peak is at
most the share WORTH of the peak. The bisection also ends after QUESTIONS questions, if no work is
left, or if the measured peak of an order found is above the limit (`bracket.py`).
"""

from __future__ import annotations

from collections.abc import Callable

from roam.core.problem import OpId, Problem
from roam.solvers.answer import Answer, Outcome, minimized
from roam.solvers.order.bracket import Bracket
from roam.solvers.order.valleys import Kept, keeps_within
from roam.solvers.work import Work

# a question asks whether an order keeps within a limit. If one of the first JUMPS questions is
# answered, the next limit is the bound; after later answers it is halfway between bound and peak
JUMPS = 3
# limit on the ops that `valleys` runs to find out whether an order keeps within a number of bytes:
# RUNS, plus RUNS_AN_OP per op of the phase
RUNS, RUNS_AN_OP = 20_000, 120
HASTY = 0.2  # factor on RUNS and on RUNS_AN_OP in a first, short bisection
# limit on the questions "does an order keep within this limit?" of one bisection
QUESTIONS = 40
# share of the peak: no further search is worth it if the bound, or a limit that `valleys` could not
# decide on, is at most so far below the peak
WORTH = 1e-3


def settle(
    problem: Problem,
    phase: int,
    order: list[OpId],
    peak_of: Callable[[list[OpId]], int],
    bound: int,
    work: Work | None = None,
    effort: float = 1.0,
    ask: Callable[[int], Kept] | None = None,
) -> Answer[list[OpId]]:
    """Searches for an order of a phase with a lower peak than `order`, and for a higher bound.

    Tries one limit in bytes after another: does an order of the phase keep within it?

    Args:
        problem: the Problem whose phase is ordered.
        phase: the index of the phase.
        order: the best known order of the phase.
        peak_of: returns the measured peak of an order of the phase, in bytes.
        bound: a proven lower bound on the peak, in bytes, or any peak that is low enough.
        work: limits the work and the time of the search; no limit if left out.
        effort: the share of the usual limit on ops run that each question may use. Without effect
            if `ask` is given.
        ask: called with a limit in bytes, answers whether an order keeps within it, as
            `valleys.keeps_within` does. That function is asked if `ask` is left out.

    Returns:
        The best order, its peak, and the highest bound proven, or `bound` if none is higher.
        If `bound` is not proven and no higher one is, the status OPTIMAL is no proof. `Answer.work`
        is the sum over all answers: the number of ops run, unless `ask` counts something else.
    """
    work = work or Work()
    known = Bracket(order, peak_of, bound)
    runs = int(effort * (RUNS + RUNS_AN_OP * len(problem.phases[phase])))
    most, unanswered, spent = bound, False, 0
    for question in range(QUESTIONS):
        if known.peak <= known.bound or work.is_over():
            break
        answer = ask(most) if ask else keeps_within(problem, phase, most, runs, work)
        spent += answer.work
        if not known.learn(answer):
            break
        if answer.status is not Outcome.UNKNOWN:
            most = known.bound if question < JUMPS else (known.bound + known.peak) // 2
        elif unanswered or known.peak - most <= WORTH * known.peak:
            break
        else:
            unanswered, most = True, known.peak - 1
    return minimized(known.best, known.peak, known.bound, spent)
