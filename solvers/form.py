"""Describes the copies of ops that are recomputed: what a copy reads, makes and costs."""

from __future__ import annotations

from dataclasses import dataclass

from roam.core.machine import Bytes, Seconds
from roam.core.problem import BufferId, Op, OpId, Problem


@dataclass(frozen=True)
class Form:
    """Describes a copy of an op. The copy may do less than the op.

    For example, a copy of dropout reads the mask that the op drew, and makes only the other result.

    Attributes:
        reads: the buffers that the copy reads.
        creates: those results of the op that the copy makes anew.
        scratch: the bytes that the copy allocates and frees while it runs.
        cost: the seconds that the copy takes.
        over: pairs (result, buffer that the result may be written over).
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
    """Returns, for each op that may be copied, the `Form` of a copy that does all the op does."""
    return {i: Form.of(op) for i, op in enumerate(problem.ops) if op.may_be_copied}
