"""Defines a plan that can run: a forward, a backward, and checks of the backward's inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from roam.lowering.aten.footprint import Share
from roam.lowering.protocol import Boxed
from roam.runtime.blocks import is_block
from roam.runtime.reused_inputs import ReusedInputs


@dataclass(frozen=True)
class SavedAt:
    """The place of a saved tensor in a block (one allocation for several tensors).

    The forward puts the tensor there, and the backward expects it there.

    Attributes:
        argument: the index of the tensor among the backward's inputs.
        block: the index of its block in the plan.
        offset: the tensor's offset in the block, in bytes.
        size: the size of the block, in bytes.
    """

    argument: int
    block: int
    offset: int
    size: int


@dataclass(frozen=True)
class Lowered:
    """A plan that can run. Its callables take a list of inputs and empty it.

    Attributes:
        forward: runs the forward.
        backward: runs the backward; None if there is none.
        saved: the places of the backward's inputs that lie in blocks; together the blocks are the
            arena.
        sizes: for each of the backward's inputs, its shape, or what else `size_of` returns for it.
        reused: the backward's inputs that the backward overwrites or frees.
        folds: whether the last phase (the backward; the forward if there is no backward) folds
            gradients, that is, absorbs them into the optimizer's state. If so, this phase's
            callable takes one more input, a `gradient_release.RunFolds`.
        share: the bytes that the plan takes, and those that it may take; None without a budget.
    """

    forward: Boxed
    backward: Boxed | None
    saved: tuple[SavedAt, ...]
    sizes: tuple[tuple[int, ...], ...]
    reused: ReusedInputs
    folds: bool = False
    share: Share | None = None

    def is_for(self, args: Sequence[Any]) -> bool:
        """Returns whether `args`, inputs of the backward, have the shapes that were planned for."""
        return all(size_of(a) == size for a, size in zip(args, self.sizes, strict=True))

    def finds_its_arena(self, args: Sequence[Any]) -> bool:
        """Returns whether saved tensors in `args` lie in blocks of the planned sizes, as planned.

        Returns False if saved tensor hooks have moved them, or if the forward ran without a plan or
        by a plan that puts them elsewhere. Returns True if the plan puts none of them in a block.
        """
        base: dict[int, int] = {}
        for at in self.saved:
            storage = args[at.argument].untyped_storage()
            start = storage.data_ptr()
            if not is_block(storage) or base.setdefault(at.block, start) != start:
                return False
            if storage.nbytes() != at.size:
                return False
            if args[at.argument].storage_offset() * args[at.argument].itemsize != at.offset:
                return False
        return True


def size_of(given: Any, numbers: Callable[[Any], Any] = int) -> tuple[int, ...]:
    """Returns the shape of a tensor, (n,) for a whole number n, and () for anything else.

    `numbers` returns the value of a symbolic number.
    """
    if isinstance(given, torch.Tensor):
        return tuple(numbers(n) for n in given.shape)
    return (numbers(given),) if isinstance(given, (int, torch.SymInt)) else ()
