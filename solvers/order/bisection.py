"""Finds the lowest peak of a phase, between a bound and an order, by asking about limits.

A question is: is there an order whose live bytes keep within this limit?

    bound ──┬────────┬─────── ... ───────┬── peak of the best order so far
           no: raises the bound         yes: a better order
           to the next limit that
           makes a difference

If every question is answered, bound and peak meet, and the order is optimal. After an inconclusive
answer the search asks about one byte below the peak, whose "no" would be the proof; the second
inconclusive answer ends it.
"""

from __future__ import annotations

from collections.abc import Callable

from roam.core.problem import OpId, Problem
from roam.solvers.answer import Answer, Outcome, minimized
from roam.solvers.order.valleys import keeps_within
from roam.solvers.work import Work

JUMPS = 3  # times that the bound is raised to the next limit, before the gap is halved instead
RUNS, RUNS_AN_OP = 20_000, 120  # ops run for one question: a constant, and for each op
HASTY = 0.2  # the share of these runs before local search has run
QUESTIONS = 40  # at most
WORTH = 1e-3  # a gap below this share of the peak is not worth another kind of search


def settle(
    problem: Problem,
    phase: int,
    order: list[OpId],
    peak_of: Callable[[list[OpId]], int],
    bound: int,
    work: Work | None = None,
    effort: float = 1.0,
) -> Answer[list[OpId]]:
    """Searches for an order with a lower peak than the given one, and for a higher bound.

    Args:
        order: the best known order of the phase.
        peak_of: returns the bytes that an order of the phase really takes.
        bound: bytes that no order goes below.
        work: what the search may do; unlimited if left out.
        effort: the share of the usual work after which a question is given up.

    Returns:
        The best order, its peak and the bound. `work` counts ops run.
    """
    work = work or Work()
    best, peak = order, peak_of(order)
    runs = int(effort * (RUNS + RUNS_AN_OP * len(problem.phases[phase])))
    most, unanswered, spent = bound, False, 0
    for question in range(QUESTIONS):
        if peak <= bound or work.is_over():
            break
        answer = keeps_within(problem, phase, most, runs, work)
        spent += answer.work
        if answer.found is not None:
            reached = peak_of(answer.found)
            if reached < peak:
                best, peak = answer.found, reached
            if reached > most:
                break  # it was counted on reuse that the order does not allow
        elif answer.status is Outcome.DOES_NOT_FIT:
            bound = max(bound, min(answer.bound, peak))
        elif unanswered or peak - most <= WORTH * peak:
            break
        else:
            unanswered, most = True, peak - 1
            continue
        most = bound if question < JUMPS else (bound + peak) // 2
    return minimized(best, peak, bound, spent)
