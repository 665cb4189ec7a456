"""Moves ops that can run in one call next to each other, if that does not raise the peak.

    planned     gelu mm1 sum1 mm2 fold1 mm3 fold2 mm4 sum2 mm5 relu
    gathered    gelu sum1 mm1 mm2 mm3 fold1 fold2 mm4 mm5 sum2 relu

A fold absorbs a gradient into the optimizer's state. In the picture, the moves bring fold1 and
fold2 together, so that one call of the optimizer runs both: the overhead of a call is larger than
the time of a fold of some kilobytes. Kernels that Inductor generates, such as gelu and sum1, can
become one function if they are neighbours. A *run* is a maximal sequence of neighbouring ops that
can run in one call. All ops of a run move together:

to the end of the run before it     if no op of the moved run needs an op in between, and the moved
                                    run's results and scratch space fit below the peak while the ops
                                    in between run
to the start of the run after it    if no op in between needs an op of the moved run, and the
                                    buffers that the moved run frees later than before, and its
                                    scratch space, fit below the peak while the ops in between run
"""

from __future__ import annotations

from collections.abc import Container, Sequence, Set
from itertools import groupby

from roam.core.lifetime import find_reuse, live_curve, live_peak
from roam.core.problem import Home, Kind, OpId, Problem

# limit on the bytes of the gradients of a fold that is worth running in one call with other folds
SMALL = 1 << 18


def gather(problem: Problem, order: Sequence[OpId], sharing: Container[OpId]) -> list[OpId]:
    """Moves ops in `sharing` next to each other if the peak allows it, and returns the new order.

    `sharing` holds the ops that can run in one call together if they are neighbours. No op leaves
    its phase or runs before an op that it waits for. Returns a copy of `order` if all the moves
    together would raise the peak.
    """
    earlier = _join(problem, order, sharing, backwards=False)
    later = _join(problem, earlier, sharing, backwards=True)
    # measure the peak again: the moves change which results can be written over dying buffers
    return later if live_peak(problem, later) <= live_peak(problem, order) else list(order)


def small_folds(problem: Problem) -> frozenset[OpId]:
    """Returns the folds whose gradients have at most SMALL bytes, and that allocate nothing.

    A fold is an op that absorbs a gradient into the optimizer's state. Folds with scratch space are
    left out: several folds in one call would allocate all their scratch space at once.
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
    """Returns `order` with each run moved to the end of the run before it, if that is allowed.

    `sharing` holds the ops that can run in one call together if they are neighbours. A run is a
    maximal sequence of neighbouring ops of a phase that are in `sharing`. A move is allowed if
    every op still runs after all ops that it waits for, and the live bytes, estimated from above
    (`_held`), stay within the peak of `order`. With `backwards`, moves each run to the start of
    the run after it instead.
    """
    curve = live_curve(problem, order, find_reuse(problem, order))
    peak = max(curve, default=0)
    room = {i: peak - live for i, live in zip(order, curve, strict=True)}
    joined: list[OpId] = []
    # index in `joined` just behind the last run (neighbouring ops in `sharing`) that `joined` has
    # of this phase; None if it has none yet
    end: int | None = None
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
    """Returns whether the ops of `run`, which are neighbours, may move across the ops in `between`.

    Without `backwards`, the run moves to before the ops in `between`. It may do so if no op of the
    run waits for an op in `between`. With `backwards`, the run moves to behind these ops. It may do
    so if no op in `between` waits for an op of the run.
    """
    waits_for = problem.successors if backwards else problem.predecessors
    return set(between).isdisjoint(p for i in run for p in waits_for[i])


def _held(problem: Problem, run: Sequence[OpId], beyond: Set[OpId], *, backwards: bool) -> int:
    """Returns an upper bound on the bytes that moving a run adds while the ops that it passes run.

    A run is neighbouring ops that can run in one call. Counts the bytes of the buffers that the run
    makes or uses, and that no op beyond the run's new place makes or uses. Leaves out the user's
    buffers, and if the run moves later, the kept buffers too, which do not live longer then. The
    caller has to add the run's scratch space. The bound does not hold if the move takes away an
    in-place write.

    Args:
        problem: the Problem that is ordered.
        run: the neighbouring ops that move together.
        beyond: the ops beyond the run's new place: those before it, or with `backwards`, after it.
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
