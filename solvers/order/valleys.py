"""Decides whether a phase has an order within a limit: goes from valley to valley of live bytes.

    live            K - - - - - - - - - - - - - -
    bytes   S              ╱╲    ╱╲                  S, T: sets of ops that have run
              ╲__╱╲      ╱    ╲╱   ╲                 T: a valley after S, with no more live bytes
                    ╲__╱            ╲___ T           hill: the sets of ops between S and T

A *valley* after S is a set T of ops that contains S and has no more live bytes than S and than
every set between S and T. The sets between S and T are a *hill*, which is wide if they are many.

Is there an order that never takes more than K bytes? Let the ops of S have run. Search the sets of
ops that can be reached from S within K. As soon as one of them is a valley T, continue from T and
forget all others. That loses nothing, because the live bytes of sets of ops are submodular. If an
order from S keeps within K, then so does running T's ops first, and then the others in that order.
(Let σ be the ops that the order has run at some time. Then live(T ∪ σ) ≤ live(T) + live(σ) -
live(T ∩ σ) ≤ live(σ), since T ∩ σ lies between S and T.) If the search ends without a valley, no
order keeps within K.

This generalises the valleys of Liu for trees (1987), and of Abdel-Wahab and Kameda for
series-parallel graphs (1978), to any graph. The time is exponential only in the width of single
hills, and training graphs have many valleys: every layer ends in one.

All of that also holds for a search from the end of the phase, with time running backwards. Ops that
one search has fixed are left out of the other search. Gradients that are kept, for example, raise
the live bytes whenever they are made: the search from the end makes them as late as possible.

The search assumes that every op writes over all dying buffers that it may ever write over. So the
answer "no" holds with and without such reuse, but the peak of an order that is found may be higher
than K, and has to be measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

from roam.core.problem import OpId, Problem
from roam.solvers.answer import Answer, Outcome
from roam.solvers.order.progress import Phase
from roam.solvers.order.segment_search import Crossed, Side
from roam.solvers.work import Units, Work

# limit on ops run to reach the next valley (few live bytes); its growth if both searches give up
FIRST, MORE = 1_000, 4
A_RUN: Units = 10_000  # units of work to run one op in the search; measured: 5 to 15 microseconds

Kept = Answer[list[OpId] | None]


def keeps_within(
    problem: Problem, phase: int, most: int, runs: int = 1_000_000, work: Work | None = None
) -> Kept:
    """Searches for an order of a phase that keeps within `most` bytes.

    Counts live bytes as if every op wrote over all dying buffers that it may ever write over.

    Args:
        problem: the Problem whose phase is ordered.
        phase: the index of the phase.
        most: the limit in bytes.
        runs: the search gives up after running so many ops.
        work: limits the search as well; unlimited if left out.

    Returns:
        FITS with the order; DOES_NOT_FIT with a bound above `most`, the bytes that every order
        takes at least; or UNKNOWN. `Answer.work` counts ops run.
    """
    ends = [Phase(problem, phase, mirrored=m) for m in (False, True)]
    return meet(ends, most, runs, work or Work())


def meet(ends: Sequence[Phase], most: int, runs: int, work: Work, patience: int = FIRST) -> Kept:
    """Searches from both ends of a phase, in turn, until all ops are fixed.

    Each search goes from valley to valley (sets of ops after which few bytes are alive), until
    there are too many sets to search up to the next valley. Then the search from the other end goes
    on: there may be fewer sets from there, or fewer when it has fixed more ops. If both searches
    give up without having fixed an op, both may run more ops between two valleys.

    Args:
        ends: the phase for a search from its start, and the phase for a search from its end.
        most: the limit in bytes.
        runs: the search gives up after running so many ops.
        work: limits the search as well, and is spent.
        patience: limit on ops run between two valleys before the other search goes on.

    Returns:
        What `keeps_within` returns.
    """
    found = _meet(ends, most, work.steps(A_RUN, runs), work, patience)
    work.spend(found.work * A_RUN)
    return found


def _meet(ends: Sequence[Phase], most: int, runs: float, work: Work, patience: int) -> Kept:
    sides = [Side(phase, most, work) for phase in ends]
    stopped = spent = 0
    for side in cycle(sides):
        before = len(side.order), side.runs
        crossed = side.walk(patience, runs - spent)
        spent += side.runs - before[1]
        if crossed is Crossed.NO:
            needed = int(min(s.refused for s in sides))
            return Answer(None, most, needed, Outcome.DOES_NOT_FIT, spent)
        if crossed is Crossed.ALL:
            break
        if spent > runs or work.is_late():
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
