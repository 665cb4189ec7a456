"""Chooses the transfers that lower the peak and stall no op.

All that may leave ── those that would stall an op stay, the last made first ── the lowest peak ──
those that it does not need stay, too: what is written wears a disk out.
"""

from __future__ import annotations

from collections.abc import Sequence

from roam.core.machine import Bytes
from roam.solvers.offload.movable import Movable, Timed
from roam.solvers.offload.timeline import Link, Transfer, late, peak_with, transfers

CAUTION = 1.25  # planned time of a transfer by the time that was measured: rates differ by the run


def choose_moves(
    step: Timed,
    movable: Sequence[Movable],
    link: Link,
    limit: Bytes = 0,
    caution: float = CAUTION,
) -> list[Transfer]:
    """Returns transfers without a stall, in the order in which the buffers are made.

    Args:
        step: the step, in the order that it will run in.
        movable: what may leave.
        link: how fast.
        limit: bytes that are low enough; 0 to go as low as it goes.
        caution: how many times longer than on the link a transfer is planned to take.
    """
    careful = link.slower(caution)
    moved = list(movable)
    while True:
        found = transfers(step, moved, careful)
        stalling = late(step, found)
        if not stalling:
            break
        moved.remove(stalling[-1].moved)
    aim = max(limit, peak_with(step, found))
    for m in sorted(moved, key=lambda m: (m.next - m.last, m.buffer)):
        fewer = [other for other in moved if other is not m]
        tried = transfers(step, fewer, careful)
        if peak_with(step, tried) <= aim:
            moved, found = fewer, tried
    return found
