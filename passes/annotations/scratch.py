"""Computes what an op allocates while it runs, beside its results, if that is known in advance.

It is known for roam's own ops and for pointwise ops on the CPU. Others have to be measured.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from roam.passes.geometry import tensor_inputs, tensors, value
from roam.passes.rewrites import cross_entropy_backward


def scratch(node: fx.Node) -> Any:
    """Returns bytes of scratch space, symbolic if the sizes are; 0 if nothing is known."""
    if not isinstance(node.target, torch._ops.OpOverload) or not tensors(node):
        return 0
    if node.target is cross_entropy_backward.OP:
        return cross_entropy_backward.block_bytes(value(node.args[1]))  # type: ignore[arg-type]
    if tensors(node)[0].device.type != "cpu":
        return 0
    return _casts(node) if torch.Tag.pointwise in node.target.tags else 0


MASKED: dict[Any, int] = {  # op -> position of the mask, which is never cast
    torch.ops.aten.where.self: 0,
    torch.ops.aten.masked_fill.Scalar: 1,
    torch.ops.aten.masked_fill.Tensor: 1,
}


def _casts(node: fx.Node) -> Any:
    """Returns the bytes of the operands that a pointwise op casts, which makes copies of them.

    The op computes in the type to which operands and result promote: the square root of an integer
    is computed in floating point. The boolean result of a comparison does not count.
    """
    mask = node.args[MASKED[node.target]] if node.target in MASKED else None
    operands = [t for n, t in tensor_inputs(node) if n is not mask]
    result = tensors(node)[0]
    common = operands[0].dtype if result.dtype is torch.bool else result.dtype
    for t in operands:
        if t.dim() > 0:
            common = torch.promote_types(common, t.dtype)
    return sum(t.numel() * common.itemsize for t in operands if t.dim() and t.dtype != common)
