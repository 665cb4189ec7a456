"""Puts the ops of a Python function into a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree

from roam.passes.geometry import tensors, value
from roam.passes.graph_ops import facts
from roam.passes.stand_ins import in_phase

Function = Callable[..., Any]  # of tensors; returns tensors
Table = Mapping[Any, Callable[..., Any]]  # decompositions, by op


@dataclass(frozen=True)
class Tracer:
    """Adds the ops of functions to graphs.

    table: decompositions of ops; others stay as they are.
    """

    table: Table = field(default_factory=dict)

    def add(
        self, near: fx.Node, phase: str, function: Function, *operands: fx.Node
    ) -> list[fx.Node]:
        """Adds the ops of a function to the graph of `near`, where the graph inserts nodes now.

        Args:
            near: the op whose module the new ops belong to.
            phase: "is_forward" or "is_backward".
            function: a function of tensors that returns a tensor or a tuple of tensors. Sizes may
                be symbolic.
            operands: the nodes that it is called with.

        Returns:
            The nodes of the results.
        """
        with _mode(operands), torch.no_grad():
            module = make_fx(function, dict(self.table))(*map(value, operands))
        made = dict(zip(module.graph.find_nodes(op="placeholder"), operands, strict=True))
        for node in module.graph.nodes:
            if node.op == "call_function":
                copy = made[node] = near.graph.node_copy(node, made.__getitem__)
                copy.meta = facts(near, value(node))
                in_phase(copy, phase)
        returned, _ = _pytree.tree_flatten(module.graph.output_node().args[0])
        return [made[n] for n in returned]


def results(function: Function, *operands: fx.Node) -> list[torch.Tensor]:
    """Returns the fake tensors that a function would return."""
    with _mode(operands), torch.no_grad():
        return list(_pytree.tree_leaves(function(*map(value, operands))))


def _mode(operands: tuple[fx.Node, ...]) -> Any:
    return next(t.fake_mode for n in operands for t in tensors(n))  # type: ignore[attr-defined]
