"""Merges calls that compute the same value.

Transformers build the same attention mask in every layer, and autograd saves each copy. Two calls
are the same if their op and arguments are. Calls are left alone if they draw random numbers or
have effects, if their result is written to later, or if it is returned, since the user may write
to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from roam.passes.geometry import storage_key, tensors
from roam.passes.graph_ops import frozen


@dataclass(frozen=True)
class CommonSubexpressions:
    name: str = "common_subexpressions"

    def __call__(self, module: fx.GraphModule) -> int:
        first: dict[Any, fx.Node] = {}
        needed = _returned_or_written(module.graph)
        merged = 0
        for node in list(module.graph.nodes):
            key = _key(node)
            if key is None or any(storage_key(t) in needed for t in tensors(node)):
                continue
            twin = first.setdefault(key, node)
            if twin is not node:
                node.replace_all_uses_with(twin)
                module.graph.erase_node(node)
                merged += 1
        if merged:
            module.recompile()
        return merged


def _returned_or_written(graph: fx.Graph) -> set[int]:
    """Returns the storages that are returned or written to: each needs its own memory."""
    keys: set[int] = set()
    for node in graph.nodes:
        if node.op == "output" or (node.op == "call_function" and not _is_pure(node)):
            keys |= {storage_key(t) for n in node.all_input_nodes for t in tensors(n)}
    return keys


def _is_pure(node: fx.Node) -> bool:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return not isinstance(target, torch._ops.HigherOrderOperator)
    return not target._schema.is_mutable


def _key(node: fx.Node) -> Any:
    """Returns a key that is equal for calls with equal results, None for calls to leave alone."""
    target = node.target
    if node.op != "call_function" or not _is_pure(node) or not tensors(node):
        return None
    if (
        isinstance(target, torch._ops.OpOverload)
        and torch.Tag.nondeterministic_seeded in target.tags
    ):
        return None
    # A forward op and an equal backward op are not merged: the result would have to be saved.
    phase = node.meta.get("partitioner_tag")
    return (target, phase, frozen(node.args), frozen(node.kwargs))
