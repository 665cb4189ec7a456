"""The best order of a phase, with a proof: from valley to valley of the live bytes.

    live            K - - - - - - - - - - - - - -
    bytes   S              ╱╲    ╱╲                  S, T: sets of ops that have run
              ╲__╱╲      ╱    ╲╱   ╲                 T: after S, no more is alive than after S
                    ╲__╱            ╲___ T           hill: what has to be passed in between

Is there an order that never takes more than K bytes? Let S have run. Search the sets of ops that
can be reached from S within K; as soon as one of them, T, holds no more bytes than S and than every
set between the two, go on from T and forget the others. Nothing is lost: the live bytes of sets of
ops are submodular, so whatever order from S keeps within K, running T's ops first and then the
others in that order keeps within K as well. (Let σ be what the order has run at some moment. Then
live(T ∪ σ) ≤ live(T) + live(σ) - live(T ∩ σ) ≤ live(σ), for T ∩ σ lies between S and T.) If the
search ends without a T, no order keeps within K.

It generalises Liu's valleys of trees (1987), and Abdel-Wahab and Kameda's of series-parallel
graphs (1978), to any graph; what is exponential is the width of single hills only, and training
graphs are rich in valleys: every layer ends in one.

All of that holds from the end of the phase as well, with time running backwards, and what has run
for good from one end is out of the way of the search from the other: gradients that are kept, say,
which raise the live bytes whenever they are made, go last, and are no choice any more.

An op is taken to write over dying buffers wherever it ever might. So an answer of "no" holds with
and without reuse, while an order that is found has to be measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from math import inf
from time import monotonic

from roam.core.problem import OpId, Problem
from roam.solvers.order.progress import Phase
from roam.solvers.order.segment_search import Crossed, Side

FIRST, MORE = 1_000, 4  # ops run for one hill before others are tried, and how many times more


@dataclass(frozen=True)
class Verdict:
    """order: the ops of the phase, where one keeps within the limit. needed: bytes that every
    order takes, 0 where the search gave up. work: how many ops were run to find out.
    """

    order: list[OpId] | None
    needed: int
    work: int


def keeps_within(
    problem: Problem, phase: int, most: int, work: int = 1_000_000, deadline: float = inf
) -> Verdict:
    """Whether an order of a phase keeps within `most` bytes, all reuse granted.

    work: after how many ops run to give up. deadline: a time of `time.monotonic()`.
    """
    return meet([Phase(problem, phase, mirrored=m) for m in (False, True)], most, work, deadline)


def meet(
    ends: Sequence[Phase], most: int, work: int, deadline: float, patience: int = FIRST
) -> Verdict:
    """Walks from the ends of one phase until they meet, one in turn where another gets no further.

    Hills that are wide from one end may be narrow from the other, or become so when that one has
    come closer. Where no end gets any further, more patience is given to all.
    """
    sides = [Side(phase, most, deadline) for phase in ends]
    stopped = spent = 0
    for side in cycle(sides):
        before = len(side.order), side.work
        crossed = side.walk(patience, work - spent)
        spent += side.work - before[1]
        if crossed is Crossed.NO:
            return Verdict(None, int(min(s.refused for s in sides)), spent)
        if crossed is Crossed.ALL:
            break
        if spent > work or monotonic() > deadline:
            return Verdict(None, 0, spent)
        for other in sides:
            if other is not side:
                other.block(side.order)
        stopped = stopped + 1 if len(side.order) == before[0] else 1
        if stopped == len(sides):
            patience, stopped = MORE * patience, 0
    from_start = [i for s in sides if not s.phase.mirrored for i in s.ran]
    from_end = [i for s in sides if s.phase.mirrored for i in s.ran]
    return Verdict([*from_start, *reversed(from_end)], 0, spent)
