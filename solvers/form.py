"""What runs when an op runs again."""

from __future__ import annotations

from dataclasses import dataclass

from roam.core.machine import Bytes, Seconds
from roam.core.problem import BufferId, Op, OpId, Problem


@dataclass(frozen=True)
class Form:
    """What runs when an op runs again. It may do less than the op did.

    Attributes:
        reads: the buffers that it reads.
        creates: those results of the op that it makes anew.
        scratch: bytes that it allocates and frees.
        cost: seconds.
        over: pairs of a result and a buffer that it may be written over.
    """

    reads: tuple[BufferId, ...]
    creates: tuple[BufferId, ...]
    scratch: Bytes = 0
    cost: Seconds = 0.0
    over: tuple[tuple[BufferId, BufferId], ...] = ()

    @staticmethod
    def of(op: Op) -> Form:
        return Form(op.reads, op.creates, op.scratch, op.cost, op.over)


def as_they_are(problem: Problem) -> dict[OpId, Form]:
    """Returns the forms of all ops that may be copied, each as it is."""
    return {i: Form.of(op) for i, op in enumerate(problem.ops) if op.may_be_copied}
