"""Tells whether the backward reads a saved tensor linearly: then unbiased values leave no bias.

    dW = dzᵀ x'          dx = dy · g'          the expected result is that of the expected x', g'

The gradient is a product along every path through the backward. It stays unbiased if each tensor
whose values are random is a factor once, and if different tensors' values are independent.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import torch
from torch import fx

from roam.passes.dependencies import depends_on, needed_for
from roam.passes.rewrites.saved import Reader, SavedTensor

aten = torch.ops.aten

PRODUCTS = (aten.mm.default, aten.bmm.default, aten.mul.Tensor)

# Positions of attention's values and result. Its backward is linear in both together: with the
# probabilities p, made of queries and keys, ds = p · (do vᵀ - rowsum(do · o)), and dv = pᵀ do.
ATTENTION: dict[Any, tuple[int, ...]] = {
    aten._scaled_dot_product_flash_attention_for_cpu_backward.default: (3, 4),
    aten._scaled_dot_product_flash_attention_backward.default: (3, 4),
    aten._scaled_dot_product_cudnn_attention_backward.default: (3, 4),
    aten._scaled_dot_product_efficient_attention_backward.default: (3, 5),
}


def reads_linearly(tensor: SavedTensor) -> bool:
    """Returns whether all ops of the backward that read a tensor are linear in it."""
    behind = depends_on(tensor.node.graph, {r.op for r in tensor.readers})
    return all(_is_linear(r, behind) for r in tensor.readers)


def multiplies_gradients(op: fx.Node) -> bool:
    """Returns whether all uses of an op's result are factors of a gradient."""
    behind = depends_on(op.graph, {*op.users})
    return all(_is_linear(Reader(user, op), behind) for user in op.users)


def _is_linear(reader: Reader, behind: Set[fx.Node]) -> bool:
    """Returns whether an op is linear in what it reads.

    behind: the ops that depend on readers of the same tensor. If the other factor is one of them,
        the tensor is a factor twice.
    """
    op, operand = reader.op, reader.operand
    at = [i for i, arg in enumerate(op.args) if arg is operand]
    if op.target in ATTENTION:
        others = [a for i, a in enumerate(op.args) if i not in ATTENTION[op.target]]
        return {*at} <= {*ATTENTION[op.target]} and behind.isdisjoint(_nodes(others))
    if op.target not in PRODUCTS or len(at) != 1:
        return False
    other = op.args[1 - at[0]]
    return isinstance(other, fx.Node) and other not in behind and _is_gradient(other)


def _is_gradient(node: fx.Node) -> bool:
    """Returns whether a value depends on the gradient that the backward is given."""
    return any(n.op == "placeholder" and "tangents" in n.name for n in needed_for([node]))


def _nodes(args: list[Any]) -> set[fx.Node]:
    return {a for a in args if isinstance(a, fx.Node)}
