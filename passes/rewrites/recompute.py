"""Recomputes a saved tensor in the backward if one pointwise op makes it from other saved tensors.

    forward     x ──── silu ──── y          backward     x ──── silu ──── y' ── ...
                │ saved          │ saved                 │ saved
                v                v                       v

Autograd saves both x, for the derivative of the op itself, and y, for the derivative of the op
that reads y. Saving x is enough: the same op on the same input has the same bits. The price is one
more pass over the tensor, little beside matrix products. This pass does not search for what to
recompute under a budget: each tensor it drops costs one pointwise op, and no other tensor lives
longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from roam.passes.geometry import (
    fills_its_storage,
    storage_key,
    tensor_inputs,
    tensors,
    value,
)

aten = torch.ops.aten


@dataclass(frozen=True)
class Recompute:
    """smallest: the fewest bytes of a saved tensor that are worth an op."""

    name: str = "recompute"
    smallest: int = 16 * 1024

    def __call__(self, module: fx.GraphModule) -> int:
        graph = module.graph
        returned = _returned(graph)
        saved = {storage_key(t) for n in _forward(graph) if _in_backward(n) for t in tensors(n)}
        recomputed: set[int] = set()
        for node in list(_forward(graph)):
            if not self.is_cheap(node) or storage_key(value(node)) not in saved - returned:
                continue
            sources = {storage_key(t) for _, t in tensor_inputs(node)}
            if sources and sources <= saved - recomputed - _written(graph):
                recomputed.add(storage_key(value(node)))
                _recompute(graph, node)
        if recomputed:
            module.recompile()
        return len(recomputed)

    def is_cheap(self, node: fx.Node) -> bool:
        """Returns whether the node is a pointwise op with a new result of enough bytes."""
        result = value(node)
        if not isinstance(node.target, torch._ops.OpOverload) or not isinstance(
            result, torch.Tensor
        ):
            return False
        if torch.Tag.pointwise not in node.target.tags or node.target is aten.clone.default:
            return False
        if torch.Tag.nondeterministic_seeded in node.target.tags or not fills_its_storage(result):
            return False
        nbytes = result.numel() * result.element_size()
        known = isinstance(nbytes, int)
        return known and nbytes >= self.smallest


def _forward(graph: fx.Graph) -> Iterator[fx.Node]:
    return (n for n in graph.nodes if n.meta.get("partitioner_tag") == "is_forward")


def _in_backward(node: fx.Node) -> list[fx.Node]:
    return [u for u in node.users if u.meta.get("partitioner_tag") == "is_backward"]


def _returned(graph: fx.Graph) -> set[int]:
    """Returns the storages that the graph returns: they are alive in the backward in any case."""
    return {storage_key(t) for n in graph.output_node().all_input_nodes for t in tensors(n)}


def _written(graph: fx.Graph) -> set[int]:
    """Returns the storages that the graph writes to: in the backward their contents differ."""
    keys: set[int] = set()
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            keys |= {storage_key(t) for _, t in tensor_inputs(node)}
    return keys


def _recompute(graph: fx.Graph, node: fx.Node) -> None:
    """Copies the op, and the views of its result, for the ops that read them in the backward."""
    copies: dict[fx.Node, fx.Node] = {}
    aliases = [n for n in _forward(graph) if _shares(n, node)]
    position = {n: i for i, n in enumerate(graph.nodes)}
    users = {u: alias for alias in aliases for u in _in_backward(alias)}
    first = min(users, key=lambda u: position[u])
    wanted = [a for a in aliases if a is node or _in_backward(a) or _has_view(a, aliases)]
    with graph.inserting_before(first):
        for alias in wanted:
            copies[alias] = _copy(graph, alias, copies)
    for alias in wanted:
        for user in _in_backward(alias):
            if user not in copies.values():
                user.replace_input_with(alias, copies[alias])
    for copy in reversed(list(copies.values())):
        if not copy.users:
            graph.erase_node(copy)


def _shares(node: fx.Node, other: fx.Node) -> bool:
    found = value(node)
    mine = value(other)
    return isinstance(found, torch.Tensor) and storage_key(found) == storage_key(mine)


def _has_view(alias: fx.Node, aliases: list[fx.Node]) -> bool:
    return any(user in aliases for user in alias.users)


def _copy(graph: fx.Graph, node: fx.Node, copies: dict[fx.Node, fx.Node]) -> fx.Node:
    copy = graph.node_copy(node, lambda n: copies.get(n, n))
    copy.meta = dict(node.meta, partitioner_tag="is_backward")
    source = next((n for n in node.all_input_nodes if n in copies), None)
    copy.meta["val"] = _fresh(node) if source is None else _view_again(node, copies)
    return copy


def _fresh(node: fx.Node) -> torch.Tensor:
    """Returns a fake value of the same layout with a new storage."""
    result = value(node)
    fresh: torch.Tensor = result.new_empty_strided(result.shape, result.stride())
    return fresh


def _view_again(node: fx.Node, copies: dict[fx.Node, fx.Node]) -> Any:
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: value(copies.get(n, n)))
    return node.target(*args, **kwargs)  # type: ignore[operator]
