"""Chooses the transfers that lower the peak and stall no op.

Each rule of contenders.py proposes a choice, and a search for swaps improves the best of them. The
proposals are tried in the order of their peaks, and of the bytes that move if peaks are equal:
buffers that the peak does not need stay on the device, since what is written wears a disk out. The
first proposal that stalls no op in a simulation is returned.
"""

from __future__ import annotations

from collections.abc import Sequence

from roam.core.machine import Bytes
from roam.solvers.offload.contenders import RULES
from roam.solvers.offload.movable import Movable, Timed
from roam.solvers.offload.moved import stall_with
from roam.solvers.offload.swaps import swapped
from roam.solvers.offload.timeline import Link, Transfer, peak_with, transfers

CAUTION = 1.25  # planned time of a transfer by the time that was measured: rates differ by the run
ROUNDING = 1e-9  # share of a step: a stall below it is an error of the arithmetic


def choose_moves(
    step: Timed,
    movable: Sequence[Movable],
    link: Link,
    limit: Bytes = 0,
    caution: float = CAUTION,
) -> list[Transfer]:
    """Returns transfers that stall no op, in the order in which the buffers are made.

    Args:
        step: the step, in the order that it will run in.
        movable: what may leave.
        link: how fast.
        limit: bytes that are low enough; 0 to go as low as it goes.
        caution: factor on the duration of transfers. Below 1, ops will wait for transfers, so that
            more can leave.
    """
    careful = link.slower(caution)
    proposed = [rule(step, movable, careful) for rule in RULES.values()]

    def merit(moved: Sequence[Movable]) -> tuple[Bytes, Bytes]:
        peak = peak_with(step, transfers(step, moved, careful))
        return max(peak, limit), sum(m.size for m in moved)

    proposed.append(swapped(step, movable, min(proposed, key=merit), careful, limit))
    bare = stall_with(step, (), careful)  # for what moves anyway, such as loads of states
    for moved in sorted(proposed, key=merit):
        found = _needed(step, moved, careful, limit)
        if stall_with(step, found, careful) <= bare + ROUNDING * step.seconds:
            return found
    return []


def _needed(step: Timed, moved: Sequence[Movable], link: Link, limit: Bytes) -> list[Transfer]:
    """Returns the transfers of these buffers, without those that the peak does not need.

    Those go first that are away for the shortest time.
    """
    kept, found = list(moved), transfers(step, moved, link)
    aim = max(limit, peak_with(step, found))
    for m in sorted(moved, key=lambda m: (m.next - m.last, m.buffer)):
        fewer = [other for other in kept if other is not m]
        tried = transfers(step, fewer, link)
        if peak_with(step, tried) <= aim:
            kept, found = fewer, tried
    return found
