"""Searches for a better choice of buffers to move, by a local search.

A step of the search flips a few random buffers: each of them moves if it stayed, and stays if it
moved. The rules of contenders.py decide once for each buffer. If tensors are large and few, as in a
model of few wide layers, other combinations use the link better.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from roam.core.machine import Bytes
from roam.solvers.offload.bound import least_live
from roam.solvers.offload.movable import Movable, Timed
from roam.solvers.offload.timeline import Candidates, Link, is_late

TRIES = 20_000  # limit on the choices tried, each of which takes a tenth of a millisecond
TRIES_A_PAIR = 5  # times the square of the number of buffers: another limit on the choices tried
MOST = 6  # limit on the buffers that one step of the search flips
NEAR = 0.005  # the search ends if the peak exceeds the aim by at most this share
# the peak; the squares of the live bytes above an aim, summed over time. Less is better. The aim is
# the limit that `swapped` gets, or a lower bound on the peak if that is larger
Merit = tuple[Bytes, float]


def swapped(
    step: Timed,
    movable: Sequence[Movable],
    moved: Sequence[Movable],
    link: Link,
    limit: Bytes = 0,
) -> list[Movable]:
    """Returns a choice of buffers that stalls no op, with a peak no higher than that of `moved`.

    Tries random changes of the present choice, and takes each that stalls no op and is no worse. Of
    two choices with the same peak, the better one has the smaller sum of squares of live bytes
    above an aim: fewer moments near the peak. Ends after TRIES choices at most, or when the peak is
    near this aim, which is `limit` or, if that is larger, a lower bound on the peak. If there are
    few buffers, fewer choices are tried.

    Args:
        step: the step, in the order in which it will run.
        movable: the buffers that may leave, in the order in which they are made.
        moved: the choice to begin with, which stalls no op.
        link: the rates of the link to the tier.
        limit: a peak, in bytes, that need not be lowered further.
    """
    candidates = Candidates.of(step, movable)
    aim = max(limit, least_live(step, movable, link))
    places = {m.buffer: j for j, m in enumerate(movable)}
    chosen = np.zeros(len(movable), bool)
    chosen[[places[m.buffer] for m in moved]] = True
    best = _merit(step, candidates, chosen, link, aim)
    assert best is not None, "the choice to begin with stalls no op"
    random = np.random.default_rng(0)  # the same choice on every machine
    for _ in range(min(TRIES, TRIES_A_PAIR * len(movable) ** 2)):
        if best[0] <= (1 + NEAR) * aim:
            break
        flipped = random.integers(len(movable), size=random.integers(1, MOST, endpoint=True))
        tried = chosen.copy()
        tried[flipped] ^= True
        merit = _merit(step, candidates, tried, link, aim)
        if merit is not None and merit <= best:
            chosen, best = tried, merit
    return [m for m, moves in zip(movable, chosen, strict=True) if moves]


def _merit(
    step: Timed, candidates: Candidates, chosen: NDArray[np.bool_], link: Link, aim: Bytes
) -> Merit | None:
    """Returns the peak of a choice, and its squared live bytes above `aim`, summed over time.

    Returns None if the choice stalls an op.
    """
    moved = candidates.some(chosen)
    places = moved.placed(step, link)
    if is_late(step, places).any():
        return None
    live = moved.live(step, places)
    above = np.maximum(live - aim, 0).astype(np.float64)
    return int(live.max(initial=0)), float(above @ above)
