"""Steps made by hand, planned by hand: every figure in the tests can be checked on paper."""

from __future__ import annotations

from roam.core.plan import Block, Plan, measure
from roam.core.problem import Buffer, Home, Kind, Op, Problem
from roam.inspect.record import GraphRecord
from roam.inspect.step_plan import StepPlan

MIB = 2**20


def step(saved: int = 2, weight: int = 4) -> StepPlan:
    """A forward of two modules and their backward; sizes in MiB.

    time     0    1    2    3    4
    saved    [--------------)         encoder, at 0
    hidden        [----)              head; op 2 writes `over` on it, behind `saved` and a gap
    over               [----)
    outside       [----)              external, 3
    grad                    [----)    the user's, 1
    """
    problem = Problem(
        "step",
        (
            Buffer("x", MIB, Kind.INPUT, Home.USER),
            Buffer("head.weight", weight * MIB, Kind.PARAMETER, Home.USER),
            Buffer("head.weight.exp_avg", weight * MIB, Kind.STATE, Home.USER),
            Buffer("saved", saved * MIB, Kind.SAVED, where="encoder"),
            Buffer("hidden", MIB, where="head"),
            Buffer("over", MIB, where="head"),
            Buffer("outside", 3 * MIB, home=Home.EXTERNAL, where="head"),
            Buffer("grad", MIB, Kind.GRADIENT, Home.EXTERNAL, where="head"),
        ),
        (
            Op("embed", reads=(0,), creates=(3,), where="encoder"),
            Op("mm", reads=(0, 1), creates=(4, 6), scratch=512, where="head"),
            Op("mul", reads=(3, 4, 6), creates=(5,), over=((5, 4),), phase=1, where="head"),
            Op("mm_1", reads=(5,), creates=(7,), phase=1, where="head"),
        ),
    )
    order, reuse = (0, 1, 2, 3), {5: 4}
    hidden = (saved + 1) * MIB  # and so one MiB between the two is lost
    offsets = {3: 0, 4: hidden, 5: hidden}
    blocks = (Block(0, (saved + 2) * MIB, 0, 4),)
    peak, live = measure(problem, order, reuse, offsets, blocks)
    bound = (saved + 4) * MIB  # at the end of the forward; mm before embed takes no more
    plan = Plan(
        "step", problem.fingerprint, order, offsets, reuse, blocks,
        peak, live, bound, problem.persistent, "by hand",
    )  # fmt: skip
    return StepPlan((GraphRecord("step", problem, plan),))


def chain(n: int) -> StepPlan:
    """A forward of n layers that save one buffer each, and the backward that reads them."""
    buffers = [Buffer("x", MIB, Kind.INPUT, Home.USER)]
    ops = []
    for i in range(n):
        buffers.append(Buffer(f"saved<{i}>", MIB + i, Kind.SAVED, where=f"layers.{i}"))
        ops.append(Op(f"forward_{i}", reads=(i,), creates=(i + 1,), where=f"layers.{i}"))
    for i in reversed(range(n)):
        buffers.append(Buffer(f"back_{i}", 64, where=f"layers.{i}"))
        made = len(buffers) - 1
        reads = (i + 1,) if i == n - 1 else (i + 1, made - 1)
        where = f"layers.{i}"
        ops.append(Op(f"backward_{i}", reads=reads, creates=(made,), phase=1, where=where))
    problem = Problem("chain", tuple(buffers), tuple(ops))
    order = tuple(range(2 * n))
    offsets = {i: (i - 1) * 2 * MIB for i in range(1, n + 1)}
    blocks = (Block(0, 2 * n * MIB, 0, 2 * n),)
    peak, live = measure(problem, order, {}, offsets, blocks)
    plan = Plan(
        "chain", problem.fingerprint, order, offsets, {}, blocks,
        peak, live, live, problem.persistent, "by hand",
    )  # fmt: skip
    return StepPlan((GraphRecord("chain", problem, plan),))
