"""Finds the best order of a phase, with a proof: walks from valley to valley of the live bytes.

    live            K - - - - - - - - - - - - - -
    bytes   S              ╱╲    ╱╲                  S, T: sets of ops that have run
              ╲__╱╲      ╱    ╲╱   ╲                 T: a valley after S, with no more live bytes
                    ╲__╱            ╲___ T           hill: the sets of ops between S and T

Is there an order that never takes more than K bytes? Let S have run. Search the sets of ops that
can be reached from S within K. As soon as one of them, T, has no more live bytes than S and than
every set between S and T, continue from T and forget all others. That loses nothing, because the
live bytes of sets of ops are submodular. If an order from S keeps within K, then so does running
T's ops first, and then the others in that order. (Let σ be the ops that the order has run at some
time. Then live(T ∪ σ) ≤ live(T) + live(σ) - live(T ∩ σ) ≤ live(σ), since T ∩ σ lies between S and
T.) If the search ends without a T, no order keeps within K.

This generalises the valleys of Liu for trees (1987), and of Abdel-Wahab and Kameda for
series-parallel graphs (1978), to any graph. The search is exponential only in the width of single
hills, and training graphs have many valleys: every layer ends in one.

All of that also holds from the end of the phase, with time running backwards. Ops that one end has
fixed are no choice for the search from the other end. Kept gradients, for example, raise the live
bytes whenever they are made: the search from the end fixes them as the last ops.

The search assumes that every op writes over all dying buffers that it may ever write over. So the
answer "no" holds with and without reuse, but an order that is found has to be measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

from roam.core.problem import OpId, Problem
from roam.solvers.answer import Answer, Outcome
from roam.solvers.order.progress import Phase
from roam.solvers.order.segment_search import Crossed, Side
from roam.solvers.work import Units, Work

FIRST, MORE = 1_000, 4  # ops run on one hill before the other end is tried; grows by this factor
A_RUN: Units = 10_000  # of one op run; measured: 5 to 15 microseconds

Kept = Answer[list[OpId] | None]


def keeps_within(
    problem: Problem, phase: int, most: int, runs: int = 1_000_000, work: Work | None = None
) -> Kept:
    """Searches for an order of a phase that keeps within `most` bytes, all reuse granted.

    Args:
        runs: ops run until the search gives up.
        work: what it may do besides; unlimited if left out.

    Returns:
        FITS with the order; DOES_NOT_FIT with the bytes that every order takes as the bound; or
        UNKNOWN. `work` counts ops run.
    """
    ends = [Phase(problem, phase, mirrored=m) for m in (False, True)]
    return meet(ends, most, runs, work or Work())


def meet(ends: Sequence[Phase], most: int, runs: int, work: Work, patience: int = FIRST) -> Kept:
    """Walks from both ends of a phase until they meet; when one gets no further, the other goes on.

    A hill that is wide from one end may be narrow from the other, or become narrow when the other
    end has come closer. If no end gets any further, both get more work for each hill.
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
