"""Small folds wait for one another, so that one call of the optimizer does the work of many.

    planned     mm1 fold1 mm2 fold2 mm3 fold3 mm4 fold4
    gathered    mm1 mm2 mm3 fold1 fold2 fold3 mm4 fold4       mm4 holds the peak: no room for three

A fold of some kilobytes takes less time than calling for it. Its gradient may stay as long as it
lifts no peak, so small folds are put off until there is no room, and run one after another.
"""

from __future__ import annotations

from collections.abc import Sequence

from roam.core.lifetime import find_reuse, live_curve, live_peak
from roam.core.problem import Home, Kind, OpId, Problem

SMALL = 1 << 18  # bytes of a gradient; for a larger one the call is a small part of the fold


def gather(problem: Problem, order: Sequence[OpId]) -> list[OpId]:
    """The order with its small folds put off, each as far as the peak allows.

    Folds that allocate for themselves stay where they are: together they would allocate more.
    """
    curve = live_curve(problem, order, find_reuse(problem, order))
    peak = max(curve, default=0)
    gathered: list[OpId] = []
    waiting: dict[OpId, int] = {}  # and what each keeps alive
    for i, live in zip(order, curve, strict=True):
        if is_small_fold(problem, i):
            waiting[i] = kept_alive(problem, i)
            continue
        full = live + sum(waiting.values()) > peak
        if full or any(must_precede(problem, fold, i) for fold in waiting):
            gathered += waiting
            waiting.clear()
        gathered.append(i)
    gathered += waiting
    # what is written over what may differ where a gradient lives longer
    return gathered if live_peak(problem, gathered) <= peak else list(order)


def must_precede(problem: Problem, first: OpId, then: OpId) -> bool:
    return first in problem.predecessors[then] or problem.ops[first].phase < problem.ops[then].phase


def is_small_fold(problem: Problem, i: OpId) -> bool:
    """Whether an op does nothing but absorb a small gradient in what is the user's."""
    op, buffers = problem.ops[i], problem.buffers
    gradients = sum(buffers[b].size for b in op.reads if buffers[b].kind is Kind.RELEASED)
    absorbs = gradients > 0 and any(buffers[b].home is Home.USER for b in op.mutates)
    return absorbs and gradients <= SMALL and not op.creates and not op.scratch


def kept_alive(problem: Problem, i: OpId) -> int:
    """Bytes that may wait with an op: of its gradient, and of whatever else it reads."""
    read = (problem.buffers[b] for b in problem.ops[i].reads)
    return sum(b.size for b in read if b.home is not Home.USER)
