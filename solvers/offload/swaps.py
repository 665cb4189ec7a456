"""Searches for a better choice of what moves: lets some buffers change sides, over and over.

The rules of contenders.py decide once for each buffer. Where tensors are large and few, as in a
model of few wide layers, other combinations fill the link better.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from roam.core.machine import Bytes
from roam.solvers.offload.bound import least_live
from roam.solvers.offload.movable import Movable, Timed
from roam.solvers.offload.timeline import Candidates, Link, is_late

TRIES = 20_000  # choices, of a tenth of a millisecond each: most are looked at,
TRIES_A_PAIR = 5  # and this many for each pair of buffers
MOST = 6  # buffers that change sides at a time
NEAR = 0.005  # share of the bound: so close to it, the search ends
Merit = tuple[Bytes, float]  # the peak, then the sum of squares of what is alive above the aim


def swapped(
    step: Timed,
    movable: Sequence[Movable],
    moved: Sequence[Movable],
    link: Link,
    limit: Bytes = 0,
) -> list[Movable]:
    """Returns a choice with a peak that is not above that of `moved`, and that stalls no op either.

    Takes a step to any choice that is not worse. The squares tell which of two choices with the
    same peak has fewer moments that are about as high.

    Args:
        step: the step, in the order that it will run in.
        movable: what may leave, in the order in which it is made.
        moved: some of that, without a stall.
        link: how fast.
        limit: bytes that are low enough.
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
    """Returns how good a choice is, less being better; None if it stalls an op."""
    moved = candidates.some(chosen)
    places = moved.placed(step, link)
    if is_late(step, places).any():
        return None
    live = moved.live(step, places)
    above = np.maximum(live - aim, 0).astype(np.float64)
    return int(live.max(initial=0)), float(above @ above)
