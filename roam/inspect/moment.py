"""Lists what a step holds at one moment, item by item.

    committed curve at t  =  buffers alive at t  +  scratch of the op at t  +  fragmentation
                                                                     (unused room in blocks)

So the items of the worst moment add up to the peak that the plan states, to the byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from roam.core.lifetime import Slot, lifetimes, slots
from roam.core.plan import Plan
from roam.core.problem import Buffer, BufferId, Home, Kind, Problem

SCRATCH = "scratch"
FRAGMENTATION = "fragmentation"
TOP = "(top level)"  # how the module with the empty path is shown


@dataclass(frozen=True)
class MemoryItem:
    """Some bytes that a step holds at the times lower <= t < upper.

    Attributes:
        name: of the buffer.
        kind: one of `Kind`, or SCRATCH or FRAGMENTATION.
        module: path of the module that made it, "" for the model itself or none.
        op: name of the op that made it.
        size: bytes.
        lower, upper: times.
    """

    name: str
    kind: str
    module: str
    op: str
    size: int
    lower: int
    upper: int


def worst_moment(problem: Problem, plan: Plan) -> int:
    """Returns the first time of the peak, 0 for a step without ops."""
    curve = plan.committed(problem)
    return max(range(len(curve)), key=curve.__getitem__, default=0)


def held_at(problem: Problem, plan: Plan, t: int) -> list[MemoryItem]:
    """Returns all transient items while the op at time t runs, the largest first."""
    if not plan.order:
        return []
    op = problem.ops[plan.order[t]]
    scratch = MemoryItem(op.name, SCRATCH, op.where, op.name, op.scratch, t, t + 1)
    return _by_size([scratch, *_held(problem, plan, t, t)])


def held_before(problem: Problem, plan: Plan, t: int) -> list[MemoryItem]:
    """Returns the items between the ops at times t - 1 and t, the largest first.

    For the end of the order these are the outputs and gradients that the step leaves to the user.
    """
    return _by_size(_held(problem, plan, t - 1, t))


def _held(problem: Problem, plan: Plan, first: int, last: int) -> Iterator[MemoryItem]:
    """Yields the items that exist at both times.

    Buffers that the user keeps also exist at the end of the order.
    """
    lives = lifetimes(problem, plan.order)
    placed = 0
    for slot in slots(problem, plan.order, plan.reuse):
        stays = problem.buffers[slot.buffers[-1]].kept
        if slot.lower <= first and (last < slot.upper or stays):
            yield buffer_item(problem, slot_buffer_at(slot, lives, first), lives)
            placed += slot.size if slot.buffers[0] in plan.offsets else 0
    blocks = sum(b.size for b in plan.blocks if b.lower <= first and last < b.upper)
    yield MemoryItem(FRAGMENTATION, FRAGMENTATION, "", "", blocks - placed, first, last + 1)


def _by_size(items: Iterable[MemoryItem]) -> list[MemoryItem]:
    return sorted((h for h in items if h.size), key=lambda h: -h.size)


def curves_by_kind(problem: Problem, plan: Plan) -> dict[str, list[int]]:
    """Returns, by kind, the bytes held while each op runs. They sum to the committed curve."""
    change: dict[str, list[int]] = {}
    end = len(plan.order)

    def hold(kind: str, lower: int, upper: int, size: int) -> None:
        steps = change.setdefault(kind, [0] * (end + 1))
        steps[lower] += size
        steps[upper] -= size

    lives = lifetimes(problem, plan.order)
    for slot in slots(problem, plan.order, plan.reuse):
        for b, after in zip(slot.buffers, (*slot.buffers[1:], None), strict=True):
            upper = slot.upper if after is None else lives[after][0]
            hold(problem.buffers[b].kind.value, lives[b][0], upper, slot.size)
        if slot.buffers[0] in plan.offsets:
            hold(FRAGMENTATION, slot.lower, slot.upper, -slot.size)
    for block in plan.blocks:
        hold(FRAGMENTATION, block.lower, block.upper, block.size)
    curves = {kind: list(accumulate(steps))[:-1] for kind, steps in change.items()}
    curves[SCRATCH] = [problem.ops[i].scratch for i in plan.order]
    return curves


def buffer_item(problem: Problem, b: BufferId, lives: list[tuple[int, int]]) -> MemoryItem:
    """Returns a buffer of the step as an item."""
    buffer, maker = problem.buffers[b], problem.maker[b]
    op = "" if maker is None else problem.ops[maker].name
    return MemoryItem(buffer.name, buffer.kind.value, module_of(buffer), op, buffer.size, *lives[b])


def slot_buffer_at(slot: Slot, lives: list[tuple[int, int]], t: int) -> BufferId:
    """Returns the buffer in a slot at t: the later one while it is written over the earlier one."""
    return next(b for b in reversed(slot.buffers) if lives[b][0] <= t)


def module_of(buffer: Buffer) -> str:
    """Returns the path of the module of a buffer. The name of a parameter or state contains it."""
    if buffer.home is not Home.USER:
        return buffer.where
    own = 2 if buffer.kind is Kind.STATE else 1  # drops "weight.exp_avg" or "weight"
    return ".".join(buffer.name.split(".")[:-own])


def layers_as_one(module: str) -> str:
    """Returns a module's path with `*` for numbers: layers of one kind count together."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", module)
