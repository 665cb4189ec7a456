"""Recognizes ops that add values at some indices, as the backward of an embedding does."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import fx

aten = torch.ops.aten

MASKED = aten._unsafe_masked_index_put_accumulate.default
SCATTERS: frozenset[Any] = frozenset(
    {aten.index_put.default, aten._unsafe_index_put.default, MASKED}
)


class Scatter(NamedTuple):
    """The operands of an op that adds values at some indices.

    Attributes:
        acc: the tensor to which they are added.
        indices: where, as `index_put` takes them: a tensor or None for each first dimension.
        added: the values.
        flags: which of them are added; None if all are.
    """

    acc: fx.Node
    indices: list[fx.Node | None]
    added: fx.Node
    flags: fx.Node | None = None


def scatter(node: fx.Node) -> Scatter | None:
    """Returns the operands of a node that adds values at some indices; None for other nodes."""
    args: Any = node.args
    if node.target is MASKED:
        acc, flags, indices, added = args
        return Scatter(acc, indices, added, flags)
    adds = node.target in SCATTERS and args[3:] == (True,)
    return Scatter(*args[:3]) if adds else None
