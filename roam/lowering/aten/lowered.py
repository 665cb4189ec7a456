"""A plan that can run, and what its backward expects of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from roam.lowering.protocol import Boxed
from roam.runtime.blocks import is_block
from roam.runtime.reused_inputs import ReusedInputs


@dataclass(frozen=True)
class SavedAt:
    """The address of a saved tensor: an offset in a block, and the bytes of the block."""

    argument: int
    block: int
    offset: int
    size: int


@dataclass(frozen=True)
class Lowered:
    """A plan that can run. Its callables take a list of inputs and empty it.

    Attributes:
        saved: the backward's inputs that must lie in the arena as the forward left them.
        sizes: of all of the backward's inputs.
        reused: the backward's inputs that it may overwrite.
        folds: whether the backward folds gradients. If so, it takes one more input, a function
            absorb(index of the parameter, gradient).
    """

    forward: Boxed
    backward: Boxed | None
    saved: tuple[SavedAt, ...]
    sizes: tuple[tuple[int, ...], ...]
    reused: ReusedInputs
    folds: bool = False

    def is_for(self, args: Sequence[Any]) -> bool:
        """Returns whether these inputs of the backward have the sizes that were planned for."""
        return all(size_of(a) == size for a, size in zip(args, self.sizes, strict=True))

    def finds_its_arena(self, args: Sequence[Any]) -> bool:
        """Returns whether the saved tensors lie where the plan's forward writes them.

        They do not if saved tensor hooks moved them, or if the forward ran without a plan or by
        another one.
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
    """Returns the shape of a tensor, the value of a number, () for anything else."""
    if isinstance(given, torch.Tensor):
        return tuple(numbers(n) for n in given.shape)
    return (numbers(given),) if isinstance(given, (int, torch.SymInt)) else ()
