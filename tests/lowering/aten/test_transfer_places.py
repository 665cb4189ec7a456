"""The order of a step with transfers, as they were chosen to run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from roam.core.build import ProblemBuilder
from roam.core.problem import Problem
from roam.lowering.aten.transfer_places import order_with_transfers
from roam.passes.move_to_tier import SLOTS
from roam.planner import Transfer
from roam.solvers.offload.movable import Movable


def step(*, moves: bool) -> Problem:
    """A forward that makes h, and a backward that reads it; with transfers of h or without."""
    build = ProblemBuilder(align=1)
    h, tangent, gradient = (build.add_buffer(name, 1) for name in ("h", "t", "g"))
    build.add_op("make", creates=[h])
    if moves:
        for name in (SLOTS, "h~file~1.start", "h~file~1.wait"):
            build.add_op(name)
    build.begin_phase(1, [tangent])
    if moves:
        build.add_op("h~1.start")
        build.add_op("h~1.wait")
    build.add_op("use", reads=[h, tangent], creates=[gradient])
    return build.problem("step")


def test_a_write_that_ends_beside_the_tangents_is_waited_for_in_front_of_them() -> None:
    """The tangents have no node, so the wait stands behind the last op of the forward.

    The order put it behind the tangents, where no op of the forward may be, and compiling failed.
    """
    source: Any = SimpleNamespace(name="h")
    transfer = Transfer(Movable(0, 1, made=0, last=0, next=2), 2, 2, written=1.0, reading=1.0)
    moved = step(moves=True)
    order = order_with_transfers(step(moves=False), moved, [(transfer, source)])
    names = [moved.ops[i].name for i in order]
    assert names == [op.name for op in moved.ops]
    assert moved.in_order(order).ops == moved.ops
