"""Decides whether a phase has an order within a limit: goes from valley to valley of live bytes.

    live            K - - - - - - - - - - - - - -
    bytes   S              ╱╲    ╱╲                  S, T: sets of ops that have run
              ╲__╱╲      ╱    ╲╱   ╲                 T: a valley after S, with no more live bytes
                    ╲__╱            ╲___ T           hill: the sets of ops between S and T

A *valley* after S is a set T of ops that contains S and has no more live bytes than S and than
every set between S and T. The sets between S and T are a *hill*, which is wide if they are many.

Is there an order that never takes more than K bytes? Let the ops of S have run. Search the sets of
ops that can be reached from S within K bytes. As soon as one of them is a valley T, continue from T
and forget all others. That loses nothing, because the live bytes of sets of ops are submodular. If
some order of the ops that follow S keeps within K, then so does this order: the ops of T first, and
then all other ops as in the given order. (Let σ be the set of ops that the given order has run at
some time. Then live(T ∪ σ) ≤ live(T) + live(σ) - live(T ∩ σ) ≤ live(σ), since T ∩ σ lies between S
and T.) If no set is left to search, and no valley was reached, no order keeps within K.

This generalises the valleys of Liu for trees (1987), and of Abdel-Wahab and Kameda for
series-parallel graphs (1978), to any graph. The time is exponential only in the width of single
hills, and training graphs have many valleys: every layer ends in one.

All of that also holds for a search from the end of the phase, with time running backwards. The ops
whose order one search has fixed are left out of the other search. Gradients that are kept, for
example, raise the live bytes whenever they are made: the search from the end makes them late.

The search assumes that every op writes over all dying buffers that it may ever write over. So the
answer "no" holds with and without such reuse. But the peak of an order that is found may be higher
than K bytes, and has to be measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

from roam.core.problem import OpId, Problem
from roam.solvers.answer import Answer, Outcome
from roam.solvers.order.progress import Phase
from roam.solvers.order.segment_search import Crossed, Side
from roam.solvers.work import Work

# FIRST: limit on the ops that a search runs from one valley (a set of ops after which few bytes are
# alive) to the next, before it pauses
# MORE: factor on this limit whenever both searches, from the start and the end, are stuck
FIRST, MORE = 1_000, 4

Kept = Answer[list[OpId] | None]


def keeps_within(
    problem: Problem, phase: int, most: int, runs: int = 1_000_000, work: Work | None = None
) -> Kept:
    """Searches for an order of a phase that keeps within `most` bytes.

    Counts live bytes as if every op wrote over all dying buffers that it may ever write over. So
    the measured peak of the order found may be above `most`.

    Args:
        problem: the Problem whose phase is ordered.
        phase: the index of the phase.
        most: the limit on live bytes.
        runs: limit on the ops that the search runs; when it is reached, the answer is UNKNOWN.
        work: limits the work and the time of the search too; no limit if left out.

    Returns:
        FITS with the order; DOES_NOT_FIT with a lower bound above `most` on the peak of every
        order; or UNKNOWN. `Answer.work` is the number of ops run.
    """
    ends = [Phase(problem, phase, mirrored=m) for m in (False, True)]
    return meet(ends, most, runs, work or Work())


def meet(ends: Sequence[Phase], most: int, runs: int, work: Work, patience: int = FIRST) -> Kept:
    """Searches from both ends of a phase, in turn, until all ops have their place.

    The two searches each go from valley to valley (sets of ops after which few bytes are alive). A
    search pauses if it has run `patience` ops without reaching its next valley, and the search from
    the other end goes on. There may be fewer sets to search from that end. The paused search, when
    its turn comes again, leaves out the ops that the other search has fixed, so it may have fewer
    sets too. Both are stuck if each has paused with the same `patience`, and the later one has
    fixed no op in its turn: then `patience` grows by the factor MORE.

    Args:
        ends: the phase for a search from its start, and the phase for a search from its end.
        most: the limit on live bytes.
        runs: limit on the ops that both searches run; when it is reached, the answer is UNKNOWN.
        work: limits the work and the time of the searches too; the work done is added to it.
        patience: first limit on the ops that a search runs from one valley to the next before it
            pauses.

    Returns:
        FITS with the order; DOES_NOT_FIT with a lower bound above `most` on the peak of every
        order; or UNKNOWN. `Answer.work` is the number of ops run.
    """
    sides = [Side(phase, most, work) for phase in ends]
    stopped = spent = 0
    for side in cycle(sides):
        before = len(side.order), side.runs
        crossed = side.walk(patience, runs - spent)
        side.spend()
        spent += side.runs - before[1]
        if crossed is Crossed.NO:
            needed = int(min(s.refused for s in sides))
            return Answer(None, most, needed, Outcome.DOES_NOT_FIT, spent)
        if crossed is Crossed.ALL:
            break
        if spent > runs or work.is_over():
            return Answer(None, most, 0, Outcome.UNKNOWN, spent)
        for other in sides:
            if other is not side:
                other.block(side.order)
        stopped = stopped + 1 if len(side.order) == before[0] else 1
        if stopped == len(sides):
            patience, stopped = MORE * patience, 0
    from_start = [i for s in sides if not s.phase.mirrored for i in s.ran]
    from_end = [i for s in sides if s.phase.mirrored for i in s.ran]
    return Answer([*from_start, *reversed(from_end)], most, 0, Outcome.FITS, spent)
