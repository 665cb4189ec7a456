"""Small folds wait for one another, so that one call of the optimizer does the work of many.

    planned     mm1 fold1 mm2 fold2 mm3 fold3 mm4 fold4
    gathered    mm1 mm2 mm3 fold1 fold2 fold3 mm4 fold4       mm4 holds the peak: no room for three

A fold of some kilobytes takes less time than calling for it. Its gradient may stay as long as it
lifts no peak, so small folds are put off until there is no room, and run one after another.
"""

from __future__ import annotations

from collections.abc import Sequence

from roam.core.lifetime import find_reuse, live_curve, slots
from roam.core.problem import Kind, OpId, Problem

SMALL = 1 << 18  # bytes of a gradient; for a larger one the call is a small part of the fold


def gather(problem: Problem, order: Sequence[OpId]) -> list[OpId]:
    """The order with its small folds put off, each as far as the peak allows.

    Folds that allocate for themselves stay where they are: together they would allocate more.
    """
    reuse = find_reuse(problem, order)
    curve = live_curve(problem, order, reuse)
    frees = [0] * len(order)
    for slot in slots(problem, order, reuse):
        frees[min(slot.upper, len(order)) - 1] += slot.size
    peak = max(curve, default=0)
    gathered: list[OpId] = []
    waiting: dict[OpId, int] = {}  # and what each keeps alive
    for t, i in enumerate(order):
        if is_small_fold(problem, i):
            waiting[i] = frees[t]
            continue
        full = curve[t] + sum(waiting.values()) > peak
        if full or any(must_precede(problem, fold, i) for fold in waiting):
            gathered += waiting
            waiting.clear()
        gathered.append(i)
    gathered += waiting
    after = live_curve(problem, gathered, find_reuse(problem, gathered))
    # what is written over what may differ where a gradient lives longer
    return gathered if max(after, default=0) <= peak else list(order)


def must_precede(problem: Problem, first: OpId, then: OpId) -> bool:
    return first in problem.predecessors[then] or problem.ops[first].phase < problem.ops[then].phase


def is_small_fold(problem: Problem, i: OpId) -> bool:
    """Whether an op only absorbs gradients, small ones."""
    op = problem.ops[i]
    released = [b for b in op.reads if problem.buffers[b].kind is Kind.RELEASED]
    size = sum(problem.buffers[b].size for b in released)
    return bool(released) and size <= SMALL and not op.creates and not op.scratch
