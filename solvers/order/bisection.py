"""The lowest peak of a phase, between a bound and an order: a limit asked after another.

    bound ──┬────────┬─────── ... ───────┬── peak of the best order so far
           no: raises the bound         yes: a better order
           to the next limit that
           makes a difference

Where every question is answered the two meet, and the order is optimal. One without an answer is
followed by the one whose "no" is a proof, if that lies further off; a second one ends the search.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from roam.core.problem import OpId, Problem
from roam.solvers.order.valleys import keeps_within

JUMPS = 3  # times that the bound is raised by one limit only, before halving what is left
WORK, WORK_AN_OP = 20_000, 120  # ops run for one question
HASTY = 0.2  # of them, before local search has had its turn
QUESTIONS = 40
WORTH = 1e-3  # of the peak: what lies closer to the bound is not worth another kind of search


@dataclass(frozen=True)
class Settled:
    """order: None where none was found that is better than the known one. bound: proven, bytes."""

    order: list[OpId] | None
    peak: int
    bound: int


def settle(
    problem: Problem,
    phase: int,
    peak_of: Callable[[list[OpId]], int],
    peak: int,
    bound: int,
    deadline: float = inf,
    effort: float = 1.0,
) -> Settled:
    """Searches for an order with a peak below `peak`, and for a lower bound above `bound`.

    Args:
        peak_of: returns the bytes that an order of the phase really takes.
        peak: bytes that the best known order takes.
        bound: bytes that no order goes below.
        deadline: a time of `time.monotonic()`.
        effort: the share of the usual work after which a question is given up.
    """
    best = Settled(None, peak, bound)
    work = int(effort * (WORK + WORK_AN_OP * len(problem.phases[phase])))
    most, unanswered = bound, False
    for question in range(QUESTIONS):
        if best.peak <= best.bound or time.monotonic() > deadline:
            break
        answer = keeps_within(problem, phase, most, work, deadline)
        if answer.order is not None:
            reached = peak_of(answer.order)
            if reached < best.peak:
                best = Settled(answer.order, reached, best.bound)
            if reached > most:
                break  # it was counted on reuse that the order does not allow
        elif answer.needed:
            best = Settled(best.order, best.peak, max(best.bound, min(answer.needed, best.peak)))
        elif unanswered or best.peak - most <= WORTH * best.peak:
            break
        else:
            unanswered, most = True, best.peak - 1
            continue
        most = best.bound if question < JUMPS else (best.bound + best.peak) // 2
    return best
