"""Where the forward's code puts what the backward will read.

A forward is compiled before its backward, and only a plan of both knows how long each saved tensor
lives. So the forward's code asks, every time it runs:

    saved_at = saved_stack.places()
    buf0 = empty_strided_cpu(...)
    buf1 = saved_at[0]((4, 8), (8, 1), torch.float32)      an allocation of its own, or
    buf2 = saved_at[1]((4, 8), (8, 1), torch.float32)      carved from a block

Until the backward is loaded each is an allocation of its own. Nothing but the memory taken depends
on that: a block is a storage that goes with the last tensor carved out of it, so that hooks, a
retained graph or another backward find what they expect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from roam.core.lifetime import slots
from roam.core.plan import Plan
from roam.core.problem import Problem
from roam.runtime.blocks import allocate, carve

Make = Callable[[Sequence[int], Sequence[int], torch.dtype], Tensor]  # of a shape, a stride
# another tensor of a storage: shape, stride, and its offset from the given one, in elements
Reinterpret = Callable[[Tensor, Sequence[int], Sequence[int], int], Tensor]
Bases = dict[tuple[int, torch.dtype], Tensor]  # of each block's storage, in the run of a forward


@dataclass(frozen=True)
class Places:
    """sizes: of the blocks. at: for every buffer in one its block, and its offset there. Bytes."""

    sizes: tuple[int, ...]
    at: dict[str, tuple[int, int]]

    @classmethod
    def of(cls, problem: Problem, plan: Plan) -> Places:
        at: dict[str, tuple[int, int]] = {}
        for slot in slots(problem, plan.order, plan.reuse):
            first = slot.buffers[0]
            for k, b in enumerate(plan.blocks if first in plan.offsets else ()):
                offset = plan.offsets[first] - b.offset
                if 0 <= offset < b.size and b.lower <= slot.lower < b.upper:
                    at[problem.buffers[first].name] = k, offset
        return cls(tuple(b.size for b in plan.blocks), at)


@dataclass(frozen=True)
class Stack:
    """What a forward saves. names: the buffers that its code asks for, in its order. by_itself and
    reinterpret: what the code allocates and carves with. planned: the places that its backwards
    were planned with, each of them once.
    """

    names: tuple[str, ...]
    device: str
    by_itself: Make
    reinterpret: Reinterpret
    planned: list[Places]

    def places(self) -> list[Make]:
        """What makes each of the buffers in one run of the forward.

        Blocks that suit one backward might lift another one's peak: where two do not agree there
        are none. Nor are there where the code does not ask for all that lies in them.
        """
        found = [self.by_itself] * len(self.names)
        if len(self.planned) == 1 and self.planned[0].at.keys() <= set(self.names):
            bases: Bases = {}
            for i, name in enumerate(self.names):
                if name in self.planned[0].at:
                    found[i] = partial(self.make, bases, *self.planned[0].at[name])
        return found

    def make(
        self,
        bases: Bases,
        k: int,
        offset: int,
        shape: Sequence[int],
        stride: Sequence[int],
        dtype: torch.dtype,
    ) -> Tensor:
        """A buffer in a block, which is allocated for the first of them.

        Not `carve`: in the step of a small model the time it takes shows. Of what is reinterpreted
        each has a version counter of its own, too.
        """
        base = bases.get((k, dtype))
        if base is None:
            base = bases[k, dtype] = self.base(bases, k, dtype)
        return self.reinterpret(base, shape, stride, offset // dtype.itemsize)

    def base(self, bases: Bases, k: int, dtype: torch.dtype) -> Tensor:
        """No elements, at the start of a block's storage."""
        block = next((t for (j, _), t in bases.items() if j == k), None)
        if block is None:
            block = allocate(self.planned[0].sizes[k], torch.device(self.device))
        return carve(block, 0, dtype, (0,), (1,))


_planned: dict[str, list[Places]] = {}  # by the key of a forward


def stack(
    forward: str,
    names: tuple[str, ...],
    device: str,
    by_itself: Make,
    reinterpret: Reinterpret,
) -> Stack:
    """What the code of a forward has when it is loaded. forward: its key."""
    return Stack(names, device, by_itself, reinterpret, _planned.setdefault(forward, []))


def place(forward: str, problem: Problem, plan: Plan) -> None:
    """Tells all forwards of this key what was planned with a backward of theirs."""
    places, known = Places.of(problem, plan), _planned.setdefault(forward, [])
    if places not in known:
        known.append(places)


def forget() -> None:
    """Forgets what was planned of any forward."""
    for known in _planned.values():
        known.clear()
