"""Cuts the backward into segments at moments with few temporary bytes, mostly between two layers.

    temporary    ╱╲  ╱╲    ╱╲       Segments of equally many ops would put the cuts at certain
    bytes       ╱  ╲╱  ╲╱╲╱  ╲      places. Each cut is at the moment with the fewest temporary
                    │    │          bytes near one of these places.

A segment should contain the backward of one part of the model. Then the copies in a segment are
near their readers, and their results are soon freed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from roam.core.lifetime import lifetimes
from roam.core.problem import OpId, Problem

OPS = 8  # about how many ops a segment has
MOST = 26  # limit on the number of segments: the CP-SAT program grows with it


def cut_backward(
    problem: Problem, boundary: OpId, ops: int = OPS, most: int = MOST
) -> tuple[OpId, ...]:
    """Returns the first op of each segment of the backward, in program order.

    Args:
        problem: forward and backward.
        boundary: the first op of the backward.
        ops: about how many ops a segment has; more if there would be more than `most` segments.
        most: the largest number of segments.
    """
    number = len(problem.ops) - boundary
    count = max(1, min(most, number // ops))
    alive = temporary_bytes(problem, boundary)
    starts = [boundary]
    for k in range(1, count):
        ideal, half = boundary + k * number // count, number // count // 2
        window = range(max(ideal - half, starts[-1] + 1), min(ideal + half, len(problem.ops)))
        if window:
            starts.append(min(window, key=lambda p: (alive[p], abs(p - ideal))))
    return tuple(starts)


def temporary_bytes(problem: Problem, boundary: OpId) -> NDArray[np.int64]:
    """Returns, by op, the bytes of buffers that the backward made before the op and still needs.

    That is, the op itself or a later op uses the buffers. Leaves out buffers that the user holds to
    the end of the step.
    """
    change = np.zeros(len(problem.ops) + 1, np.int64)
    maker = problem.maker
    for b, (lower, upper) in enumerate(lifetimes(problem, range(len(problem.ops)))):
        made = maker[b]
        if made is not None and made >= boundary and not problem.buffers[b].kept:
            change[lower + 1] += problem.buffers[b].transient
            change[upper] -= problem.buffers[b].transient
    found: NDArray[np.int64] = change.cumsum()
    return found
