"""Tells which operators add over the rows, so that what they give for blocks is to be added up."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import fx

from roam.passes.rewrites.split.row_rules import Call, Cuts
from roam.passes.rewrites.split.spans import Span, dim_in_block, shape

aten = torch.ops.aten

_SUM_OF = {  # by a sum or mean, the operator that adds over the rows of a block
    aten.sum.default: aten.sum.default,
    aten.sum.dim_IntList: aten.sum.dim_IntList,
    aten.mean.default: aten.sum.default,
    aten.mean.dim: aten.sum.dim_IntList,
}


def summed(node: fx.Node, operand: fx.Node, span: Span) -> Cuts | None:
    """Returns which operands an op needs in blocks to add over their rows; None if it does not.

    The results for all blocks, added up, are the result of the op.

    Args:
        node: the op.
        operand: one of its operands.
        span: the rows of the operand.
    """
    if node.target is aten.mm.default:
        a, b = node.args
        if len(span.dims) != 1 or a is b:
            return None
        over = span.first == (1 if operand is a else 0)
        return {a: span.at(1), b: span.at(0)} if over else None  # type: ignore[dict-item]
    if node.target in _SUM_OF:
        return {operand: span} if all(d in _dims(node) for d in span.dims) else None
    return None


def sum_call(node: fx.Node, cuts: Cuts, blocks: dict[fx.Node, fx.Node]) -> Call:
    """Returns the op that adds over the rows of one block: its operator and arguments."""
    args: list[Any] = [blocks.get(a, a) if isinstance(a, fx.Node) else a for a in node.args]
    if node.target not in _SUM_OF:
        return node.target, tuple(args), dict(node.kwargs)
    if len(args) > 1:
        ((_, span),) = cuts.items()
        along = _dims(node)
        args[1] = sorted({span.first if span.holds(d) else dim_in_block(d, span) for d in along})
    return _SUM_OF[node.target], tuple(args), dict(node.kwargs)


def terms(node: fx.Node) -> int:
    """Returns by what the sum over all rows is divided: the number of terms of a mean, or 1."""
    if node.target not in (aten.mean.default, aten.mean.dim):
        return 1
    sizes = shape(node.args[0])  # type: ignore[arg-type]
    return prod(sizes[d] for d in _dims(node))


def _dims(node: fx.Node) -> list[int]:
    """Returns the dimensions that a sum or mean adds over."""
    number = len(shape(node.args[0]))  # type: ignore[arg-type]
    given: Any = node.args[1] if len(node.args) > 1 else None
    return [d % number for d in given] if given else [*range(number)]
