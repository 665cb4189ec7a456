"""Finds the lowest peak of a phase, between a lower bound and a known order, by bisection.

Asks `valleys` a sequence of questions: is there an order whose live bytes keep within a limit?

    bound ──┬────────┬─────── ... ───────┬── peak of the best order so far
           no: raises the bound         yes: a better order
           to the next limit that
           could be answered otherwise

If every question is answered, bound and peak meet, and the order is optimal. After an inconclusive
answer the search asks about one byte below the peak: a "no" proves that the order is optimal. The
second inconclusive answer ends the search.
"""

from __future__ import annotations

from collections.abc import Callable

from roam.core.problem import OpId, Problem
from roam.solvers.answer import Answer, Outcome, minimized
from roam.solvers.order.valleys import Kept, keeps_within
from roam.solvers.work import Work

JUMPS = 3  # number of questions that ask about the lower bound; later questions halve the gap
# limit on the ops run for one question: RUNS, plus RUNS_AN_OP for each op of the phase
RUNS, RUNS_AN_OP = 20_000, 120
HASTY = 0.2  # share of the usual ops run that the bisection before local search may take
QUESTIONS = 40  # limit on the questions that are asked about one phase
WORTH = 1e-3  # least relative gap between peak and bound that is worth another search


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
    """Searches for an order with a lower peak than the given one, and for a higher bound.

    Args:
        problem: the Problem whose phase is ordered.
        phase: the index of the phase.
        order: the best known order of the phase.
        peak_of: returns the measured peak of an order of the phase, in bytes.
        bound: bytes below which no order can go.
        work: limits the search; unlimited if left out.
        effort: the share of the usual limit on ops run that each question may take.
        ask: answers as `valleys.keeps_within` does, which is asked if this is left out.

    Returns:
        The best order, its peak and the best bound. `Answer.work` counts ops run.
    """
    work = work or Work()
    best, peak = order, peak_of(order)
    runs = int(effort * (RUNS + RUNS_AN_OP * len(problem.phases[phase])))
    most, unanswered, spent = bound, False, 0
    for question in range(QUESTIONS):
        if peak <= bound or work.is_over():
            break
        answer = ask(most) if ask else keeps_within(problem, phase, most, runs, work)
        spent += answer.work
        if answer.found is not None:
            reached = peak_of(answer.found)
            if reached < peak:
                best, peak = answer.found, reached
            if reached > most:
                break  # the search assumed reuse of memory that this order does not allow
        elif answer.status is Outcome.DOES_NOT_FIT:
            bound = max(bound, min(answer.bound, peak))
        elif unanswered or peak - most <= WORTH * peak:
            break
        else:
            unanswered, most = True, peak - 1
            continue
        most = bound if question < JUMPS else (bound + peak) // 2
    return minimized(best, peak, bound, spent)
