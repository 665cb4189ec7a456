"""Decides where the forward's code puts the tensors that it saves for the backward.

A forward is compiled before its backward, and only a plan of both knows how long each saved tensor
lives. So the forward's code looks up the places every time it runs:

    saved_at = saved_stack.places()
    buf0 = empty_strided_cpu(...)
    buf1 = saved_at[0]((4, 8), (8, 1), torch.float32)      an allocation of its own, or
    buf2 = saved_at[1]((4, 8), (8, 1), torch.float32)      carved from a block

Until the backward is loaded, each saved tensor is an allocation of its own. The places change only
how much memory is used: a block is a storage that is freed with the last tensor carved out of it,
so hooks, a retained graph or another backward find what they expect.
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

Make = Callable[[Sequence[int], Sequence[int], torch.dtype], Tensor]  # shape, stride, dtype
# makes another tensor on a tensor's storage: shape, stride, and offset to the tensor, in elements
Reinterpret = Callable[[Tensor, Sequence[int], Sequence[int], int], Tensor]
Bases = dict[tuple[int, torch.dtype], Tensor]  # by block and dtype, in one run of a forward


@dataclass(frozen=True)
class Places:
    """The blocks of a plan, and the buffers in them.

    Attributes:
        sizes: bytes of each block.
        at: by the name of a buffer: the index of its block, and its offset there in bytes.
    """

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
    """The tensors that a forward saves, and the functions that make them.

    Attributes:
        names: the buffers that the forward's code asks for, in the order of the code.
        device: of all of them.
        by_itself: allocates a tensor of its own.
        reinterpret: makes a tensor on the storage of another one.
        planned: the places that the forward's backwards were planned with, without repeats.
    """

    names: tuple[str, ...]
    device: str
    by_itself: Make
    reinterpret: Reinterpret
    planned: list[Places]

    def places(self) -> list[Make]:
        """Returns the functions that make each of the buffers in one run of the forward.

        Uses no blocks if two backwards were planned with different places: the blocks for one
        might raise the peak of the other. Uses none either if the code does not ask for all the
        buffers in them.
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
        """Returns a buffer in block `k`. The first buffer in a block allocates the block.

        `carve` would do too, but its time shows in the step of a small model. Reinterpreted
        tensors also have a version counter of their own.
        """
        base = bases.get((k, dtype))
        if base is None:
            base = bases[k, dtype] = self.base(bases, k, dtype)
        return self.reinterpret(base, shape, stride, offset // dtype.itemsize)

    def base(self, bases: Bases, k: int, dtype: torch.dtype) -> Tensor:
        """Returns an empty tensor at the start of a block's storage, to reinterpret."""
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
    """Returns the stack of a forward. The forward's code calls this once, when it is loaded.

    forward: the key of the forward.
    """
    return Stack(names, device, by_itself, reinterpret, _planned.setdefault(forward, []))


def place(forward: str, problem: Problem, plan: Plan) -> None:
    """Gives all forwards of this key the places that were planned with one of their backwards."""
    places, known = Places.of(problem, plan), _planned.setdefault(forward, [])
    if places not in known:
        known.append(places)


def forget() -> None:
    """Forgets the planned places of all forwards."""
    for known in _planned.values():
        known.clear()
