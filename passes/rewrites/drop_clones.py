"""Removes clones that cannot be distinguished from their source.

In a functional graph, a clone with its source's layout is a second copy of the same numbers. It is
needed only if code outside the graph could see that clone and source are one tensor: if one of
them is returned, or is the user's own memory, which the graph may change at its end and the user
at any time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from roam.passes.geometry import same_layout, storage_key, tensors, value

aten = torch.ops.aten


@dataclass(frozen=True)
class DropClones:
    name: str = "drop_clones"

    def __call__(self, module: fx.GraphModule) -> int:
        graph = module.graph
        visible = _visible_outside(graph)
        dropped = 0
        for node in graph.find_nodes(op="call_function", target=aten.clone.default):
            source = node.args[0]
            if _is_useless(node, source, visible):
                node.replace_all_uses_with(source)
                graph.erase_node(node)
                dropped += 1
        if dropped:
            module.recompile()
        return dropped


def _is_useless(clone: fx.Node, source: fx.Node, visible: set[int]) -> bool:
    mine, original = value(clone), value(source)
    if not isinstance(mine, torch.Tensor) or not isinstance(original, torch.Tensor):
        return False
    if storage_key(mine) in visible or storage_key(original) in visible:
        return False
    return same_layout(mine, original)


def _visible_outside(graph: fx.Graph) -> set[int]:
    """Returns the storages of inputs and outputs, and those that the graph writes to."""
    keys: set[int] = set()
    for node in graph.nodes:
        if node.op in ("placeholder", "get_attr"):
            keys |= {storage_key(t) for t in tensors(node)}
        elif node.op == "output" or _has_effects(node):
            keys |= {storage_key(t) for n in node.all_input_nodes for t in tensors(n)}
    return keys


def _has_effects(node: fx.Node) -> bool:
    if isinstance(node.target, torch._ops.OpOverload):
        return bool(node.target._schema.is_mutable)
    return isinstance(node.target, torch._ops.HigherOrderOperator)
