"""Exports a plan as a snapshot of PyTorch's memory allocator, for pytorch.org/memory_viz.

    segments         what exists when the step has ended: the user's buffers, and what the step
                     leaves (gradients, outputs); the blocks tile their segment
    device_traces    the step: segment_alloc and alloc, free_requested, free_completed and
                     segment_free, a microsecond an op

Each block of the arena is a segment that exists as long as the plan holds the block. Each buffer
outside the arena, and the scratch space of each op, has its own segment. So the viewer shows the
plan's held bytes as reserved, and the live bytes as allocated. The frames of an allocation are the
FX nodes that write it: the path of the module stands for the file, the time for the line.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from typing import Any

from roam.core.lifetime import lifetimes, slots
from roam.core.machine import CUDA
from roam.core.plan import Plan
from roam.core.problem import Problem
from roam.inspect.moment import MemoryItem, buffer_item, module_of

BASE = 0x7F0000000000  # the first address: looks like a device's, and is exact in JavaScript

Json = dict[str, Any]


def to_memory_viz(problem: Problem, plan: Plan) -> bytes:
    """Returns the snapshot, pickled with protocol 4 as torch.cuda.memory._dump_snapshot does."""
    return pickle.dumps(snapshot(problem, plan), protocol=4)


def snapshot(problem: Problem, plan: Plan) -> Json:
    builder = _Builder(problem, plan)
    trace = list(builder.trace())
    return {
        "segments": [*builder.users, *builder.left],
        "device_traces": [trace],
        "allocator_settings": {},
        "external_annotations": [],
    }


class _Builder:
    def __init__(self, problem: Problem, plan: Plan) -> None:
        self.problem, self.plan = problem, plan
        self.lives = lifetimes(problem, plan.order)
        self.left: list[Json] = []
        self.users = self.users_segments()
        self.arena = BASE + sum(s["total_size"] for s in self.users)
        self.next = self.arena + _rounded(plan.arena)  # the next address outside the arena

    def users_segments(self) -> list[Json]:
        """Returns one segment with the user's buffers, which exist before the step."""
        blocks = []
        for b in self.problem.buffers:
            if b.persistent:
                frame = {"filename": module_of(b), "line": 0, "name": f"{b.name} ({b.kind})"}
                blocks.append(_block(BASE, b.size, [frame]))
        return [_segment(BASE, _tiled(blocks))] if blocks else []

    def trace(self) -> Iterator[Json]:
        """Yields the events of the step in order: for each op those before it, then those after."""
        before: dict[int, list[Json]] = {}
        after: dict[int, list[Json]] = {}
        spans = list(self.spans())
        for lower, _, opening, _ in spans:
            before.setdefault(lower, []).extend(opening)
        for _, upper, _, closing in reversed(spans):
            after.setdefault(upper - 1, []).extend(closing)
        for t in range(len(self.plan.order)):
            for event in (*before.get(t, ()), *after.get(t, ())):
                yield {**event, "time_us": t}

    def spans(self) -> Iterator[tuple[int, int, list[Json], list[Json]]]:
        """Yields (lower, upper, opening events, closing events) of everything that is held."""
        for block in self.plan.blocks:  # first, so that they open before and close after the rest
            yield block.lower, block.upper, *_segment_events(self.arena + block.offset, block.size)
        for slot in slots(self.problem, self.plan.order, self.plan.reuse):
            if not slot.size:
                continue
            items = [buffer_item(self.problem, b, self.lives) for b in slot.buffers]
            head = slot.buffers[0]
            if head in self.plan.offsets:
                address = self.arena + self.plan.offsets[head]
                opening, closing = _block_events(address, slot.size, _frames(items))
            else:
                kept = self.problem.buffers[slot.buffers[-1]].kept
                opening, closing = self.alone(slot.size, _frames(items), kept)
            yield slot.lower, slot.upper, opening, closing
        for t, i in enumerate(self.plan.order):
            op = self.problem.ops[i]
            if op.scratch:
                frame = {"filename": op.where, "line": t, "name": f"{op.name} (scratch)"}
                yield t, t + 1, *self.alone(op.scratch, [frame], False)

    def alone(self, size: int, frames: list[Json], left: bool) -> tuple[list[Json], list[Json]]:
        """Returns opening and closing events of a buffer in its own segment.

        left: whether the step leaves the buffer to the user; then nothing closes it.
        """
        address, self.next = self.next, self.next + _rounded(size)
        opening, closing = _segment_events(address, size)
        inner = _block_events(address, size, frames)
        if left:
            self.left.append(_segment(address, [_block(address, size, frames)]))
            return opening + inner[0], []
        return opening + inner[0], inner[1] + closing


def _frames(items: Iterable[MemoryItem]) -> list[Json]:
    return [{"filename": i.module, "line": i.lower, "name": f"{i.op} ({i.kind})"} for i in items]


def _event(action: str, address: int, size: int, frames: list[Json]) -> Json:
    return {"action": action, "addr": address, "size": size, "stream": 0, "frames": frames}


def _block_events(address: int, size: int, frames: list[Json]) -> tuple[list[Json], list[Json]]:
    ends = [
        _event(action, address, size, frames) for action in ("free_requested", "free_completed")
    ]
    return [_event("alloc", address, size, frames)], ends


def _segment_events(address: int, size: int) -> tuple[list[Json], list[Json]]:
    return (
        [_event("segment_alloc", address, size, [])],
        [_event("segment_free", address, size, [])],
    )


def _block(address: int, size: int, frames: list[Json]) -> Json:
    return {
        "address": address,
        "size": size,
        "requested_size": size,
        "state": "active_allocated",
        "frames": frames,
    }


def _tiled(blocks: Iterable[Json]) -> list[Json]:
    """Returns the blocks at addresses one behind the other, each with its rounded size."""
    address, tiled = BASE, []
    for block in blocks:
        tiled.append({**block, "address": address, "size": _rounded(block["size"])})
        address += tiled[-1]["size"]
    return tiled


def _segment(address: int, blocks: list[Json]) -> Json:
    size = sum(b["size"] for b in blocks)
    return {
        "device": 0,
        "address": address,
        "total_size": size,
        "allocated_size": size,
        "active_size": size,
        "requested_size": sum(b["requested_size"] for b in blocks),
        "stream": 0,
        "segment_type": "large",
        "segment_pool_id": (0, 0),
        "is_expandable": False,
        "frames": [],
        "blocks": blocks,
    }


def _rounded(size: int) -> int:
    align = CUDA.allocator.round
    return -(-size // align) * align
