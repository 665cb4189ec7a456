"""Proves lower bounds for transfers: on the peak without a stall, and on the time of any mix.

The bound on the peak is for one order of ops. While an op runs, from second s to second e, let y be
the bytes of each movable buffer (movable.py) that are absent from the device. Memory is freed and
taken between ops only. So in any schedule, even if it cuts buffers into parts, the absent bytes of
a buffer were written after the buffer was made and before s, and will be read after e and before
the buffer is used. So for every time a and every time u

    sum of y over buffers made at a or later      <= write rate * (s - a)
    sum of y over buffers used again by u         <= read rate * (u - e)

The sets of buffers in each of the two families of constraints are nested. So the largest sum of y
that a family allows is a minimum over k, the number of buffers that are absent as a whole:

    most = min over k of  sizes of the k made first  +  write rate * (s - end of the next one's op)

where the next one is the buffer made after these k. The same holds for reads. If `live` bytes are
alive without transfers while the op runs, at least `live - most` of them are on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from roam.core.machine import Bytes, Seconds
from roam.solvers.offload.movable import Movable, Timed
from roam.solvers.offload.timeline import Link

HALVINGS = 6  # steps of the bisection in `mixed_time_bound`; each halves the error of the bound


def least_live(step: Timed, movable: Sequence[Movable], link: Link) -> Bytes:
    """Returns a lower bound, in bytes, on the peak with any transfers that stall no op.

    The bound holds for the order of `step` only.

    Args:
        step: the step, in the order in which it will run.
        movable: the buffers that may move, in the order in which they are made.
        link: the rates of the link to the tier; its delay is ignored.
    """
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
            break  # no further op can raise the bound
        absent = (last < t) & (t < following)
        write = _most(size[absent], link.write * (starts[t] - made[absent]))
        back = by_use[absent[by_use]]
        read = _most(size[back], link.read * (used[back] - starts[t + 1]))
        worst = max(worst, float(live[t]) - min(write, read))
    return int(np.ceil(worst))


def _most(sizes: np.ndarray, room: np.ndarray) -> float:
    """Returns the largest sum of absent bytes that the limits in `room` allow.

    For every k, buffer k and those after it are absent with at most `room[k]` bytes together. So
    the sum is at most the sizes of the first k buffers plus `room[k]`, and at most all sizes
    together; 0 without buffers.
    """
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
    """Returns a lower bound on the extra seconds of any mix of copies and transfers, in any order.

    At second t of a step of T seconds, the absent bytes were written before t and are read after t.
    So the number of absent bytes is at most

        min(write * t, read * (T - t))  <=  T * write * read / (write + read)

    With these bytes absent, the copies only have to keep a limit that is higher by as many bytes.
    Let a be the bytes that may be absent in a step of `seconds + x`. If recomputation alone needs
    more than x seconds to keep `limit + a`, then x extra seconds are not enough. A bisection
    between 0 and `found`, of HALVINGS steps, approaches the largest such x from below. Returns 0 if
    not even x = 0 is proven to be too short.

    Args:
        recomputing: takes a limit in bytes; returns a lower bound on the seconds that copies need
            to keep it without transfers.
        limit: transient bytes that no moment may exceed.
        seconds: the time of the step without copies and transfers.
        movable: bytes of all buffers that may move.
        link: the rates of the link to the tier.
        found: the extra seconds of a known mix that keeps the limit.
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
