"""Makes the gradient of a loss in itself a constant that does not wait for the loss.

    loss ── ones_like ── gradient of the logits     ->     full ── gradient of the logits

In a step that is captured with its backward, autograd makes this gradient by an op that reads the
loss, though only its size. Without this pass no gradient could be computed before the loss is
complete, and so not block by block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from roam.passes.geometry import value

aten = torch.ops.aten


@dataclass(frozen=True)
class ConstantTangents:
    """Replaces `ones_like` by `full`, where sizes are known. Returns how many it replaced."""

    name: str = "constant_tangents"

    def __call__(self, module: fx.GraphModule) -> int:
        replaced = 0
        for node in module.graph.find_nodes(op="call_function", target=aten.ones_like.default):
            like = value(node)
            if not like.is_contiguous() or not all(isinstance(n, int) for n in like.shape):
                continue
            how = {"dtype": like.dtype, "device": like.device}
            with module.graph.inserting_before(node):
                constant = module.graph.call_function(aten.full.default, (list(like.shape), 1), how)
            constant.meta = dict(node.meta)
            node.replace_all_uses_with(constant)
            module.graph.erase_node(node)
            replaced += 1
        return replaced
