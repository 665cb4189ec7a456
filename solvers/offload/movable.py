"""Finds the buffers of a step that may leave the device between the forward and the backward.

op        made ......... last        |        next ......... (end of the step)
          forward                    |        backward
device    [------------------)                [--------)
tier                   [----------------------)
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from roam.core.lifetime import find_reuse, live_curve
from roam.core.machine import MIB, Bytes, Seconds
from roam.core.problem import BufferId, Home, Kind, OpId, Problem, Tier

SMALLEST: Bytes = MIB  # the transfer of a smaller buffer mostly takes the time to start it


@dataclass(frozen=True)
class Movable:
    """A buffer that may leave the device.

    Attributes:
        buffer: the buffer.
        size: its size in bytes.
        made: the op that makes it.
        last: the last op of the forward that uses it; `made` if none does.
        next: the first op of the backward that uses it.
    """

    buffer: BufferId
    size: Bytes
    made: OpId
    last: OpId
    next: OpId

    @property
    def turn(self) -> tuple[int, ...]:
        """The key by which buffers are sorted into the order in which they are written.

        Buffers are written in the order of the ops that make them. Of the buffers of one op, the
        one that the backward needs last is written first.
        """
        return self.made, -self.next, self.buffer


@dataclass(frozen=True)
class Timed:
    """A step in program order, with the times of its ops and its live bytes.

    Attributes:
        problem: a forward and its backward.
        boundary: the first op of the backward.
        starts: the second at which each op starts, and the second at which the last op ends, if no
            op waits for a transfer.
        live: transient bytes alive while each op runs, if no buffer leaves.
        elsewhere: names of the ops of those transfers in `problem` that use another link than the
            buffers that leave.
    """

    problem: Problem
    boundary: OpId
    starts: NDArray[np.float64]
    live: NDArray[np.int64]
    elsewhere: frozenset[str] = frozenset()

    @staticmethod
    def of(
        problem: Problem,
        boundary: OpId,
        slower: float = 1.0,
        without: Collection[BufferId] = (),
    ) -> Timed:
        """Computes the times of a Problem's ops and its live bytes, in program order.

        Args:
            problem: a forward and its backward.
            boundary: the first op of the backward.
            slower: factor on the costs of ops, also in the Problem of the step returned.
            without: buffers that do not count as alive.
        """
        if slower != 1.0:
            ops = (replace(op, cost=slower * op.cost) for op in problem.ops)
            problem = replace(problem, ops=tuple(ops))
        order = range(len(problem.ops))
        starts = np.concatenate([[0.0], np.cumsum([op.cost for op in problem.ops])])
        reuse = find_reuse(problem, order)
        live = np.array(live_curve(problem, order, reuse, without), np.int64)
        return Timed(problem, boundary, starts, live)

    @property
    def seconds(self) -> Seconds:
        return float(self.starts[-1])

    def movable(
        self, smallest: Bytes = SMALLEST, among: Collection[BufferId] | None = None
    ) -> list[Movable]:
        """Returns the buffers that may leave, in the order in which they are made and written.

        They are made by the forward and used by the backward. Leaves out buffers that the user has
        or gets, that are not on the device, that an op changes, or that are below `smallest`.

        Args:
            smallest: size in bytes of the smallest buffer that may leave.
            among: the only buffers that may leave; None for all.
        """
        problem = self.problem
        found: list[Movable] = []
        for b, buffer in enumerate(problem.buffers):
            maker, users = problem.maker[b], problem.users[b]
            if maker is None or buffer.size < smallest or buffer.tier is not Tier.DEVICE:
                continue
            if buffer.home is Home.USER or buffer.kind in (Kind.OUTPUT, Kind.GRADIENT):
                continue
            if (among is not None and b not in among) or maker >= self.boundary:
                continue
            if any(b in problem.ops[i].mutates for i in users):
                continue
            late = [i for i in users if i >= self.boundary]
            if late:
                last = max((i for i in users if i < self.boundary), default=maker)
                found.append(Movable(b, buffer.size, maker, last, min(late)))
        return sorted(found, key=lambda m: m.turn)
