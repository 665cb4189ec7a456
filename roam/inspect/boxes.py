"""Computes the rectangles of a plan's picture: all buffers of the step, small ones joined.

    address |   [ stacked, outside the arena )      no planned address: stacked above the arena
            |  [ stacked           )                for the picture, so that nothing is left out
            |--------------------------------
            |      [ placed     )                   in the arena, at their planned addresses
            |  [ placed                )
            +--------------------------------> time

A step of GPT2-XL's size has thousands of buffers, and most are thinner than a pixel. The largest
are drawn one by one. The others are joined if they begin, end and lie in the same cells of a grid,
which is made coarser until few enough rectangles are left.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from roam.core.lifetime import Slot, lifetimes, slots
from roam.core.plan import Plan
from roam.core.problem import Kind, Problem
from roam.inspect.moment import MemoryItem, buffer_item

SINGLE = 800  # rectangles drawn one by one
TOGETHER = 600  # rectangles that stand for several


@dataclass(frozen=True)
class Box:
    """A rectangle: times [lower, upper) in ops, addresses [offset, offset + height) in bytes.

    Attributes:
        size: bytes of all slots in it.
        count: the number of slots in it; more than 1 if small ones are joined.
        kind: of all of them.
        items: the buffers of the slot, a chain if they are written over one another; of joined
            slots only the largest buffer.
    """

    lower: int
    upper: int
    offset: int
    height: int
    size: int
    count: int
    kind: Kind
    items: tuple[MemoryItem, ...]

    @property
    def area(self) -> int:
        return self.height * (self.upper - self.lower)


def boxes(problem: Problem, plan: Plan) -> list[Box]:
    """Returns a box for each slot: at its address in the arena, or stacked above the arena."""
    lives = lifetimes(problem, plan.order)
    every = slots(problem, plan.order, plan.reuse)
    outside = [s for s in every if s.buffers[0] not in plan.offsets and s.size]
    stacked = dict(zip((s.buffers[0] for s in outside), stack(outside), strict=True))
    found = []
    for slot in every:
        head = slot.buffers[0]
        if slot.size:
            offset = plan.offsets[head] if head in plan.offsets else plan.arena + stacked[head]
            items = tuple(buffer_item(problem, b, lives) for b in slot.buffers)
            kind = slot_kind(problem, slot)
            found.append(Box(slot.lower, slot.upper, offset, slot.size, slot.size, 1, kind, items))
    return found


def slot_kind(problem: Problem, slot: Slot) -> Kind:
    """Returns the kind of a slot: SAVED if one of its buffers is, since that explains its life.

    Otherwise the kind of its last buffer.
    """
    kinds = [problem.buffers[b].kind for b in slot.buffers]
    return Kind.SAVED if Kind.SAVED in kinds else kinds[-1]


def stack(outside: Sequence[Slot]) -> list[int]:
    """Returns an offset in bytes for each slot: the lowest that is free when the slot begins."""
    offsets: list[int] = []
    alive: list[tuple[int, int, int]] = []  # offset, end, upper; by offset
    for slot in outside:
        alive = [place for place in alive if place[2] > slot.lower]
        low = 0
        for offset, end, _ in alive:
            if offset - low >= slot.size:
                break
            low = end
        offsets.append(low)
        alive.append((low, low + slot.size, slot.upper))
        alive.sort()
    return offsets


def gather(found: Sequence[Box], single: int = SINGLE, together: int = TOGETHER) -> list[Box]:
    """Returns the `single` largest boxes unchanged, and at most `together` boxes for the rest."""
    ranked = sorted(found, key=lambda b: -b.area)
    large, small = ranked[:single], ranked[single:]
    cells = 512  # along each side of the picture
    groups = _groups(small, cells)
    while len(groups) > together and cells > 1:
        cells //= 2
        groups = _groups(small, cells)
    return large + [_joined(group) for group in groups]


def _groups(small: Sequence[Box], cells: int) -> list[list[Box]]:
    width = max((b.upper for b in small), default=0) / cells or 1
    height = max((b.offset + b.height for b in small), default=0) / cells or 1
    groups: defaultdict[tuple[int, int, int, Kind], list[Box]] = defaultdict(list)
    for b in small:
        cell = int(b.lower / width), int(b.upper / width), int(b.offset / height), b.kind
        groups[cell].append(b)
    return list(groups.values())


def _joined(group: Sequence[Box]) -> Box:
    low, high = min(b.offset for b in group), max(b.offset + b.height for b in group)
    return Box(
        lower=min(b.lower for b in group),
        upper=max(b.upper for b in group),
        offset=low,
        height=high - low,
        size=sum(b.size for b in group),
        count=len(group),
        kind=group[0].kind,
        items=_largest(i for b in group for i in b.items),
    )


def _largest(items: Iterable[MemoryItem]) -> tuple[MemoryItem, ...]:
    return tuple(sorted(items, key=lambda i: -i.size)[:1])
