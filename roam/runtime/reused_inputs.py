"""Tells whether a backward may overwrite the tensors that it was given.

A plan overwrites inputs after their last use: saved tensors, and the gradients of the outputs
(tangents). That is allowed only if nothing else can read them later, which reference counts tell
at run time:

    arguments ───────────────> tensor ──> storage
    a hook, a variable ───────────┘ │ │      │       Python counts its references
    autograd, another function ─────┘ │      │       the tensor counts those of C++
    the tensor that it is a view of ──┘      │       the same two counts
    another tensor of the memory ────────────┘       the storage counts its tensors

The counts of a tensor with no other reference differ between versions of Python and torch, so they
are measured at import (`ALONE`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Counts = set[tuple[str, int, int]]  # (object, references in Python, unknown references in C++)


@dataclass(frozen=True)
class ReusedInputs:
    """The inputs of a backward whose memory its plan reuses, by position.

    Attributes:
        blocks: for every block of the arena, the saved tensors that lie in it.
        overwritten: inputs outside the arena that the result of an op is written over.
        dying: tangents that the plan frees after their last use.
    """

    blocks: tuple[tuple[int, ...], ...] = ()
    overwritten: frozenset[int] = frozenset()
    dying: frozenset[int] = frozenset()

    def owns_blocks(self, args: list[Any]) -> bool:
        """Returns whether only `args` refer to the saved tensors in the arena."""
        return not any(is_shared(args, block) for block in self.blocks)

    def copy_shared(self, args: list[Any]) -> frozenset[int]:
        """Replaces inputs in `args` by copies if the plan overwrites them and others refer to them.

        Returns:
            The tangents that the plan frees but that others keep alive.
        """
        shared = [i for i in self.overwritten | self.dying if not is_own(args, i)]
        for i in self.overwritten.intersection(shared):
            args[i] = args[i].clone()
        return self.dying.intersection(shared)


def is_shared(args: list[Any], which: Sequence[int]) -> bool:
    """Returns whether something besides `args` refers to the memory of these tensors.

    which: the positions in `args` of all tensors of one storage.
    """
    return not _counts(args, which) <= ALONE


def is_own(args: list[Any], i: int) -> bool:
    """Returns whether tensor `i` is a whole allocation to which only `args` refer.

    False for memory that another library or process lent (`from_numpy`, `share_memory_`): its
    readers are unknown.
    """
    tensor: Tensor = args[i]
    storage = tensor.untyped_storage()
    whole = tensor.storage_offset() == 0 and storage.nbytes() == tensor.nbytes
    lent = not storage.resizable() or (storage.device.type == "cpu" and storage.is_shared())
    del tensor, storage  # or they would be counted
    return whole and not lent and not is_shared(args, [i])


def _counts(args: list[Any], which: Sequence[int]) -> Counts:
    found: Counts = set()
    bases: dict[int, list[Tensor]] = {}  # by id: the base of a view, once for each of its views
    for i in which:
        found.add(("tensor", sys.getrefcount(args[i]), args[i]._use_count()))
        if args[i]._is_view():
            bases.setdefault(id(args[i]._base), []).append(args[i]._base)
    for views in bases.values():
        n = len(views)
        uses = views[0]._use_count()  # type: ignore[attr-defined]
        found.add(("base", sys.getrefcount(views[0]) - n, uses - n))
    storage = args[which[0]].untyped_storage()
    tensors = torch._C._storage_Use_Count(storage._cdata) - len(which) - len(bases)
    found.add(("storage", sys.getrefcount(storage), tensors))
    return found


ALONE = _counts([torch.empty(1)], [0]) | _counts([torch.empty(1).view(1, 1)], [0])
