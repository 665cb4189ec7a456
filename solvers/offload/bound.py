"""What no transfers without a stall can go below, for one order of ops.

While an op runs, from s to e, let y be the bytes of each movable buffer that are absent. Memory is
freed and taken between ops only. So whatever the schedule, with any buffer cut into any parts, what
is absent was written after it was made and before s, and will be read after e and before it is
used. So for every time a and every time u

    sum of y over buffers made at a or later      <= write rate * (s - a)
    sum of y over buffers used again by u         <= read rate * (u - e)

Each of the two families is nested, so that the most that fits into it is a minimum over the places
where it may be cut:

    most = min over k of  sizes of the k first made  +  write rate * (s - made of the next one)

and the same with reads. The step takes at least `live - most` during every op.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from roam.core.machine import Bytes, Seconds
from roam.solvers.offload.movable import Movable, Timed
from roam.solvers.offload.timeline import Link

HALVINGS = 6  # of the range in which the bound on time lies


def least_live(step: Timed, movable: Sequence[Movable], link: Link) -> Bytes:
    """Returns a lower bound on the peak, in bytes, of transfers that stall no op of this order."""
    starts, live = step.starts, step.live
    size = np.array([m.size for m in movable], np.float64)
    made = np.array([starts[m.made + 1] for m in movable])
    used = np.array([starts[m.next] for m in movable])
    last = np.array([m.last for m in movable])
    following = np.array([m.next for m in movable])
    by_use = np.argsort(-used, kind="stable")
    worst = 0.0
    for t in np.argsort(-live, kind="stable"):
        if live[t] <= worst:
            break  # nothing is left that could raise it
        absent = (last < t) & (t < following)
        write = _most(size[absent], link.write * (starts[t] - made[absent]))
        back = by_use[absent[by_use]]
        read = _most(size[back], link.read * (used[back] - starts[t + 1]))
        worst = max(worst, float(live[t]) - min(write, read))
    return int(np.ceil(worst))


def _most(sizes: np.ndarray, room: np.ndarray) -> float:
    """Returns the most bytes that fit: all, or those before some place and the room behind it."""
    before = np.concatenate([[0.0], np.cumsum(sizes)])
    return float(min(before[-1], (before[:-1] + room).min(initial=before[-1])))


def mixed_time_bound(
    recomputing: Callable[[Bytes], Seconds],
    limit: Bytes,
    seconds: Seconds,
    movable: Bytes,
    link: Link,
    found: Seconds,
) -> Seconds:
    """Returns extra seconds that no mix of copies and transfers goes below, in any order of ops.

    At a time t of a step of T seconds, what is absent was written before t and is read after it, so
    it is at most

        min(write * t, read * (T - t))  <=  T * write * read / (write + read)

    Whoever recomputes beside that, does so as if the limit were higher by those bytes. So the extra
    time x is too short if recomputing alone needs more than x within the limit and what may be
    absent in a step of `seconds + x`. The largest such x is found by halving.

    Args:
        recomputing: takes a limit in bytes; returns seconds that recomputing alone needs at least.
        limit: bytes that no moment may exceed.
        seconds: of the step with neither.
        movable: bytes of all that may move at all.
        link: how fast.
        found: extra seconds that suffice.
    """
    rate = 1 / (1 / link.write + 1 / link.read)

    def is_too_short(extra: Seconds) -> bool:
        absent = min(movable, rate * (seconds + extra))
        return recomputing(limit + int(absent)) > extra

    low, high = 0.0, found
    if not is_too_short(low):
        return low
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_too_short(middle) else (low, middle)
    return low
