"""Moves ops that can share a call next to each other, if that does not raise the peak.

    planned     gelu mm1 sum1 mm2 fold1 mm3 fold2 mm4 sum2 mm5 relu
    gathered    gelu sum1 mm1 mm2 mm3 fold1 fold2 mm4 mm5 sum2 relu

In the picture, fold1 and fold2 (ops that absorb a gradient into the optimizer's state) come to
share one call of the optimizer: the overhead of a call is larger than the time of a fold of some
kilobytes. Kernels that Inductor generates can become one function, such as gelu and sum1. A run is
a maximal sequence of neighbouring ops that can share a call. It moves as a whole:

to the end of the run before it     if the moved run needs no op in between, and its results fit
                                    below the peak while those ops run
to the start of the run after it    if no op in between needs the moved run, and the buffers that it
                                    frees late fit below the peak while those ops run
"""

from __future__ import annotations

from collections.abc import Container, Sequence, Set
from itertools import groupby

from roam.core.lifetime import find_reuse, live_curve, live_peak
from roam.core.problem import Home, Kind, OpId, Problem

SMALL = 1 << 18  # limit on the bytes of gradient of a fold for which sharing a call pays off


def gather(problem: Problem, order: Sequence[OpId], sharing: Container[OpId]) -> list[OpId]:
    """Returns an order in which the ops in `sharing` stand in fewer groups, if the peak allows it.

    A group is a sequence of neighbouring ops in `sharing`. The peak does not rise, and no op leaves
    its phase. Returns a copy of `order` if the moves would raise the peak.
    """
    earlier = _join(problem, order, sharing, backwards=False)
    later = _join(problem, earlier, sharing, backwards=True)
    # measure the peak again: the moves change which results can be written over dying buffers
    return later if live_peak(problem, later) <= live_peak(problem, order) else list(order)


def small_folds(problem: Problem) -> frozenset[OpId]:
    """Returns the folds of at most SMALL bytes of gradient that allocate nothing.

    A fold is an op that absorbs a gradient into the optimizer's state. Folds with scratch space are
    left out: several in one call would allocate all their scratch space at once.
    """
    return frozenset(i for i in range(len(problem.ops)) if _is_small_fold(problem, i))


def _is_small_fold(problem: Problem, i: OpId) -> bool:
    op, buffers = problem.ops[i], problem.buffers
    gradients = sum(buffers[b].size for b in op.reads if buffers[b].kind is Kind.RELEASED)
    absorbs = gradients > 0 and any(buffers[b].home is Home.USER for b in op.mutates)
    return absorbs and gradients <= SMALL and not op.creates and not op.scratch


def _join(
    problem: Problem, order: Sequence[OpId], sharing: Container[OpId], *, backwards: bool
) -> list[OpId]:
    """Moves each run to the end of the run before it, if dependencies and the peak allow that.

    A run is a maximal sequence of neighbouring ops in `sharing`. With `backwards`, moves each run
    to the start of the run after it instead.
    """
    curve = live_curve(problem, order, find_reuse(problem, order))
    peak = max(curve, default=0)
    room = {i: peak - live for i, live in zip(order, curve, strict=True)}
    joined: list[OpId] = []
    end: int | None = None  # index in `joined` just behind the phase's last run of sharing ops
    phase = None
    for (in_phase, shares), ops in groupby(
        reversed(order) if backwards else order, lambda i: (problem.ops[i].phase, i in sharing)
    ):
        end, phase = end if in_phase == phase else None, in_phase
        run, between = list(ops), joined[end:]
        if shares and end is not None and _is_free(problem, run, between, backwards=backwards):
            held = _held(problem, run, set(joined[:end]), backwards=backwards)
            scratch = max(problem.ops[i].scratch for i in run)
            if all(held + scratch <= room[i] for i in between):
                room |= {i: room[i] - held for i in between}
                joined[end:end] = run
                end += len(run)
                continue
        joined += run
        end = len(joined) if shares else end
    return joined[::-1] if backwards else joined


def _is_free(
    problem: Problem, run: Sequence[OpId], between: Sequence[OpId], *, backwards: bool
) -> bool:
    """Returns whether the ops of a run may move to before the ops in `between`.

    They may if none of them waits for an op in `between`. With `backwards`, returns whether the run
    may move to behind the ops in `between`, because none of those waits for an op of the run.
    """
    waits_for = problem.successors if backwards else problem.predecessors
    return set(between).isdisjoint(p for i in run for p in waits_for[i])


def _held(problem: Problem, run: Sequence[OpId], beyond: Set[OpId], *, backwards: bool) -> int:
    """Returns an upper bound on the bytes that moving a run adds while the ops that it passes run.

    Args:
        run: the neighbouring ops that move together.
        beyond: the ops that the run does not pass, on the side to which it moves.
        backwards: whether the run moves to a later time.
    """
    touched = dict.fromkeys(b for i in run for b in problem.ops[i].touches)
    return sum(
        problem.buffers[b].size
        for b in touched
        if problem.buffers[b].home is not Home.USER
        and not (backwards and problem.buffers[b].kept)
        and problem.maker[b] not in beyond
        and beyond.isdisjoint(problem.users[b])
    )
