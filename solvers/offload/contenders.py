"""Rules from the literature that choose the buffers to move. `choose` compares them.

last_made_stays   all buffers move; while an op would stall, the buffer made last of those that
                  stall an op stays
prefix            SSDTrain: the buffers made before some moment move (arXiv 2408.10013; its code's
                  solve_num_adaptive_keep_layers)
largest_first     torchtitan's sac_and_offload: adds buffers, the largest first, if no op stalls
most_benefit      TERAIO (arXiv 2506.06472, algorithm 1): adds the buffer that, for each second on
                  the link, saves most byte seconds above a peak to aim at, if no op stalls

`prefix` may stall ops. The rule that is compared is `first_made`: `prefix` without the buffers that
would stall an op. `timeline.late` tells whether an op would stall, without a simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from roam.core.problem import Lane
from roam.solvers.offload.bound import least_live
from roam.solvers.offload.movable import Movable, Timed
from roam.solvers.offload.timeline import Link, late, live_with, transfers

Moved = list[Movable]  # the buffers that move, in the order in which they are made
Rule = Callable[[Timed, Sequence[Movable], Link], Moved]


def last_made_stays(step: Timed, movable: Sequence[Movable], link: Link) -> Moved:
    """Returns the buffers that are left when no op stalls.

    While an op would stall, removes the buffer made last of those that stall an op.
    """
    moved = list(movable)
    while stalling := late(step, transfers(step, moved, link)):
        moved.remove(stalling[-1].moved)
    return moved


def largest_first(step: Timed, movable: Sequence[Movable], link: Link) -> Moved:
    """Returns the buffers chosen by size: tries the largest first, skips each that stalls an op."""
    return _added(step, sorted(movable, key=lambda m: (-m.size, m.made)), link)


def most_benefit(step: Timed, movable: Sequence[Movable], link: Link) -> Moved:
    """Returns the buffers chosen by benefit for each second on the link, the largest benefit first.

    The aim is a lower bound on the peak with any transfers that stall no op. The benefit of a
    buffer, in byte seconds, is the reduction of the live bytes above the aim, integrated over the
    time for which the buffer would be away if it were alone on the link. It is computed anew after
    each choice. A buffer that would stall an op is skipped. Ends when no buffer has a benefit.
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
    """Returns the buffers of all scopes before the first one that SSDTrain keeps on the device.

    Let scope j make s[j] bytes in f[j] seconds of the forward, and let the forward take F seconds.
    The first scope k that is kept is the first one with

        s[0] + ... + s[k-1] + 2 s[k]  >  write rate * (3 F - 2 (f[0] + ... + f[k-1]))

    On the left are the bytes that the link moves before the backward of scope k: it writes scopes 0
    to k and reads scope k. The rule leaves out the reads of later scopes, reads at the write rate,
    and assumes that the backward takes twice as long as the forward.

    Args:
        step: the step.
        scopes: the buffers that may leave, in the order in which they are made. A scope has the
            buffers of one layer, or a single buffer.
        link: the rates of the link to the tier.
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
    """Returns what `prefix` chooses if each buffer is a scope, without those that stall an op."""
    return last_made_stays(step, prefix(step, [[m] for m in movable], link), link)


RULES: Mapping[str, Rule] = {
    "last made stays": last_made_stays,
    "most benefit": most_benefit,
    "largest first": largest_first,
    "prefix": first_made,
}


def _added(step: Timed, found: Iterable[Movable], link: Link) -> Moved:
    """Adds the buffers of `found` in turn, each only if no op stalls then. Returns those added."""
    moved: Moved = []
    for m in found:
        moved = _with(step, moved, m, link)
    return moved


def _with(step: Timed, moved: Moved, m: Movable, link: Link) -> Moved:
    """Returns the buffers with m added, or without m if an op would stall."""
    more = sorted([*moved, m], key=lambda m: m.turn)
    return moved if late(step, transfers(step, more, link)) else more
