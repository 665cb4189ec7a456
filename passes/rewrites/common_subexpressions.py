"""Computes once what the graph computes several times.

Transformers build the same attention mask in every layer, and autograd saves each copy. Two calls
are the same when their op and arguments are; what draws random numbers, has effects or makes memory
that is written to later is left alone, and so is what is returned, since the user may write to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from roam.passes.geometry import storage_key, tensors


@dataclass(frozen=True)
class CommonSubexpressions:
    name: str = "common_subexpressions"

    def __call__(self, module: fx.GraphModule) -> int:
        first: dict[Any, fx.Node] = {}
        held = _held(module.graph)
        merged = 0
        for node in list(module.graph.nodes):
            key = _key(node)
            if key is None or any(storage_key(t) in held for t in tensors(node)):
                continue
            twin = first.setdefault(key, node)
            if twin is not node:
                node.replace_all_uses_with(twin)
                module.graph.erase_node(node)
                merged += 1
        if merged:
            module.recompile()
        return merged


def _held(graph: fx.Graph) -> set[int]:
    """Storages that are returned, or written to."""
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
    """Equal for calls that yield the same numbers; None for a call that must be its own."""
    target = node.target
    if node.op != "call_function" or not _is_pure(node) or not tensors(node):
        return None
    if (
        isinstance(target, torch._ops.OpOverload)
        and torch.Tag.nondeterministic_seeded in target.tags
    ):
        return None
    # backward ops that nobody tells apart from the forward's may still be kept apart by their phase
    phase = node.meta.get("partitioner_tag")
    return (target, phase, _freeze(node.args), _freeze(node.kwargs))


def _freeze(argument: Any) -> Any:
    """A hashable stand-in that also tells 1 from 1.0 and True."""
    if isinstance(argument, (list, tuple)):
        return tuple(_freeze(a) for a in argument)
    if isinstance(argument, dict):
        return tuple((k, _freeze(v)) for k, v in argument.items())
    if isinstance(argument, slice):
        return ("slice", _freeze((argument.start, argument.stop, argument.step)))
    return (type(argument), argument)
