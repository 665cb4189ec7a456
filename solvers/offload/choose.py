"""Chooses the transfers that lower the peak and stall no op.

Each rule of contenders.py proposes a choice of buffers, and a local search (swaps.py) improves the
best of them. From each choice, buffers are removed that need not move for the same peak, because
writing wears out a disk. The choices are simulated in the order of their peaks; of equal peaks, the
choice that moves the fewest bytes comes first. The first choice that stalls no op is returned. If
every choice stalls an op, no buffer moves.
"""

from __future__ import annotations

from collections.abc import Sequence

from roam.core.machine import Bytes
from roam.solvers.offload.contenders import RULES
from roam.solvers.offload.movable import Movable, Timed
from roam.solvers.offload.moved import stall_with
from roam.solvers.offload.swaps import swapped
from roam.solvers.offload.timeline import Link, Transfer, peak_with, transfers

CAUTION = 1.25  # planned time of a transfer / its measured time: rates differ from run to run
ROUNDING = 1e-9  # part of the step's seconds: a shorter stall is a rounding error


def choose_moves(
    step: Timed,
    movable: Sequence[Movable],
    link: Link,
    limit: Bytes = 0,
    caution: float = CAUTION,
) -> list[Transfer]:
    """Returns transfers that stall no op, in the order in which the buffers are made.

    Returns an empty list if all choices stall an op, if none lowers the peak, or if the peak is
    within `limit` without transfers. Stalls for transfers that are in the step already, such as
    loads of states, do not count.

    Args:
        step: the step, in the order in which it will run.
        movable: the buffers that may leave.
        link: the rates of the link to the tier.
        limit: a peak, in bytes, that need not be lowered further; 0 for the lowest possible.
        caution: factor on the duration of transfers in all plans and simulations here. Below 1,
            more buffers can leave, and ops will wait for them.
    """
    careful = link.slower(caution)
    proposed = [rule(step, movable, careful) for rule in RULES.values()]

    def merit(moved: Sequence[Movable]) -> tuple[Bytes, Bytes]:
        peak = peak_with(step, transfers(step, moved, careful))
        return max(peak, limit), sum(m.size for m in moved)

    proposed.append(swapped(step, movable, min(proposed, key=merit), careful, limit))
    bare = stall_with(step, (), careful)  # for transfers that are in the step already
    for moved in sorted(proposed, key=merit):
        found = _needed(step, moved, careful, limit)
        if stall_with(step, found, careful) <= bare + ROUNDING * step.seconds:
            return found
    return []


def _needed(step: Timed, moved: Sequence[Movable], link: Link, limit: Bytes) -> list[Transfer]:
    """Returns the transfers of the buffers in `moved`, without those that the peak does not need.

    A buffer stays on the device if the peak then is no higher than if all of `moved` move, or is
    within `limit`. Tries each buffer once, first those that are away for the fewest ops.
    """
    kept, found = list(moved), transfers(step, moved, link)
    aim = max(limit, peak_with(step, found))
    for m in sorted(moved, key=lambda m: (m.next - m.last, m.buffer)):
        fewer = [other for other in kept if other is not m]
        tried = transfers(step, fewer, link)
        if peak_with(step, tried) <= aim:
            kept, found = fewer, tried
    return found
