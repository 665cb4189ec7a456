"""Adds transfers to a step as ops, and simulates how long ops wait for them."""

from __future__ import annotations

from collections.abc import Sequence

from roam.core.edits import Load, Offload, apply
from roam.core.machine import Seconds
from roam.core.problem import Problem, Tier
from roam.solvers.offload.movable import Timed
from roam.solvers.offload.timeline import Link, Transfer
from roam.solvers.simulate.step import simulate


def with_transfers(step: Timed, found: Sequence[Transfer], tier: Tier = Tier.FILE) -> Problem:
    """Returns the step with transfers as ops: a start and a wait for each write and each read.

    A write starts when its buffer is made. The wait for the write and the start of the read come
    just before the ops that the `Transfer` names. If several reads start before the same op, the
    read of the buffer that is needed first comes first.

    found: the transfers, none of which would stall an op (`timeline.late`).
    """
    problem = step.problem
    names = [op.name for op in problem.ops]
    edits = []
    for t in sorted(found, key=lambda t: t.moved.next):
        users = problem.users[t.moved.buffer]
        back = Load(
            tuple(names[i] for i in users if i >= step.boundary),
            names[t.start],
            names[t.moved.next],
        )
        write_wait = names[t.wait]
        edits.append(Offload(problem.buffers[t.moved.buffer].name, tier, (back,), "", write_wait))
    return apply(problem, edits)


def stall_with(step: Timed, found: Sequence[Transfer], link: Link) -> Seconds:
    """Returns the seconds for which ops wait for transfers, by a simulation of the step.

    Counts the waits for `found`, and for the transfers that are in the step already, except those
    in `step.elsewhere`.
    """
    problem = with_transfers(step, found)
    return simulate(problem, range(len(problem.ops)), link, step.elsewhere).stall
