"""Rules that choose what moves, from the literature. The best of all is taken, after simulation.

last_made_stays   everything moves, but for what would stall an op, the last made first
prefix            SSDTrain: what is made before some moment moves (arXiv 2408.10013; its code's
                  solve_num_adaptive_keep_layers)
largest_first     torchtitan's sac_and_offload: the largest first, as long as there is room
most_benefit      TERAIO (arXiv 2506.06472, algorithm 1): the most byte seconds above the aim for
                  each second of the link

No rule but `prefix` returns what would stall an op; `first_made` is that without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from roam.core.problem import Lane
from roam.solvers.offload.bound import least_live
from roam.solvers.offload.movable import Movable, Timed
from roam.solvers.offload.timeline import Link, late, live_with, transfers

Moved = list[Movable]  # in the order in which they are made
Rule = Callable[[Timed, Sequence[Movable], Link], Moved]


def last_made_stays(step: Timed, movable: Sequence[Movable], link: Link) -> Moved:
    """Returns all that may leave, without those that would stall an op, the last made first."""
    moved = list(movable)
    while stalling := late(step, transfers(step, moved, link)):
        moved.remove(stalling[-1].moved)
    return moved


def largest_first(step: Timed, movable: Sequence[Movable], link: Link) -> Moved:
    """Returns what can leave without a stall beside all that is larger, or made earlier."""
    return _added(step, sorted(movable, key=lambda m: (-m.size, m.made)), link)


def most_benefit(step: Timed, movable: Sequence[Movable], link: Link) -> Moved:
    """Returns what leaves if always that is next which lowers the most for its time on the link.

    The benefit of a buffer is the integral, over the time for which it is away, of the bytes by
    which the step then is less above the aim: the bound of all schedules.
    """
    aim = least_live(step, movable, link)
    seconds = np.diff(step.starts)
    moved: Moved = []
    left = list(movable)
    while left:
        above = np.maximum(live_with(step, transfers(step, moved, link)) - aim, 0)

        def worth(m: Movable, above: np.ndarray = above) -> float:
            (alone,) = transfers(step, [m], link)
            away = slice(alone.wait, alone.start)
            freed = float(np.minimum(above[away], m.size) @ seconds[away])
            return freed / (
                link.seconds(Lane.COPY_OUT, m.size) + link.seconds(Lane.COPY_IN, m.size)
            )

        best = max(left, key=worth)
        if worth(best) <= 0:
            break
        left.remove(best)
        moved = _with(step, moved, best, link)
    return moved


def prefix(step: Timed, scopes: Sequence[Sequence[Movable]], link: Link) -> Moved:
    """Returns the buffers of the scopes before the first that SSDTrain would keep.

    With s bytes and f seconds of the forward a scope, and F seconds of the whole forward, the first
    scope k is kept, and so are all behind it, for which

        s of those before k, and twice that of k  >  write rate * (3 F - 2 * f of those before k)

    It takes the backward for twice as long as the forward, and reads for free but for one.

    Args:
        scopes: what may leave, by layer or one by one, in the order in which they are made.
    """
    forward = float(step.starts[step.boundary])
    moved: Moved = []
    for scope in scopes:
        size = sum(m.size for m in (*moved, *scope, *scope))
        before = float(step.starts[scope[0].made])
        if size > link.write * (3 * forward - 2 * before):
            break
        moved += scope
    return moved


def first_made(step: Timed, movable: Sequence[Movable], link: Link) -> Moved:
    """Returns SSDTrain's prefix, one buffer a scope, without what would stall an op."""
    return last_made_stays(step, prefix(step, [[m] for m in movable], link), link)


RULES: Mapping[str, Rule] = {
    "last made stays": last_made_stays,
    "most benefit": most_benefit,
    "largest first": largest_first,
    "prefix": first_made,
}


def _added(step: Timed, found: Iterable[Movable], link: Link) -> Moved:
    """Adds one buffer after another, but for those that would stall an op beside the others."""
    moved: Moved = []
    for m in found:
        moved = _with(step, moved, m, link)
    return moved


def _with(step: Timed, moved: Moved, m: Movable, link: Link) -> Moved:
    """Returns the buffers with a further one; without it if an op would stall."""
    more = sorted([*moved, m], key=lambda m: m.turn)
    return moved if late(step, transfers(step, more, link)) else more
