"""What operators are known to allocate for themselves while they run, in bytes."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from roam.passes import cross_entropy_backward
from roam.passes.geometry import tensor_inputs, tensors, value


def scratch(node: fx.Node) -> Any:
    """Bytes of scratch space, symbolic where the sizes are; 0 where nothing is known."""
    if not isinstance(node.target, torch._ops.OpOverload) or not tensors(node):
        return 0
    if node.target is cross_entropy_backward.OP:
        log_probs = value(node.args[1])
        return cross_entropy_backward.rows_per_block(log_probs) * log_probs[0].nbytes
    if tensors(node)[0].device.type == "cpu" and torch.Tag.pointwise in node.target.tags:
        return _casts(node)
    return 0


def _casts(node: fx.Node) -> Any:
    """A pointwise op on the CPU copies operands of another type before it computes."""
    operands = [t for _, t in tensor_inputs(node)]
    if len({t.dtype for t in operands}) < 2:
        return 0
    common = operands[0].dtype
    for t in operands:
        if t.dim() > 0:
            common = torch.promote_types(common, t.dtype)
    return sum(t.numel() * common.itemsize for t in operands if t.dim() and t.dtype != common)
