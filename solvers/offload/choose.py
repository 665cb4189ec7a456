"""Chooses the transfers that lower the peak and stall no op.

All that may leave ── those that would stall an op stay, the last made first ── the lowest peak ──
those that it does not need stay, too: what is written wears a disk out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from roam.core.machine import Bytes
from roam.solvers.offload.bound import least_live
from roam.solvers.offload.movable import Movable, Timed
from roam.solvers.offload.timeline import Link, Transfer, late, peak_with, transfers

CAUTION = 1.25  # planned time of a transfer by the time that was measured: rates differ by the run


@dataclass(frozen=True)
class Moves:
    """The transfers of a step.

    Attributes:
        transfers: in the order in which the buffers are made.
        peak: live bytes at the worst moment of the given order.
        bound: bytes below which no transfers without a stall bring this order.
    """

    transfers: tuple[Transfer, ...]
    peak: Bytes
    bound: Bytes

    @property
    def written(self) -> Bytes:
        """Bytes that go to the tier in each step."""
        return sum(t.moved.size for t in self.transfers)


def choose_moves(
    step: Timed,
    movable: Sequence[Movable],
    link: Link,
    limit: Bytes = 0,
    caution: float = CAUTION,
) -> Moves:
    """Returns transfers without a stall.

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
    bound = least_live(step, movable, link)
    return Moves(tuple(found), peak_with(step, found), bound)
