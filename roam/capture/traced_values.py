"""Frees what the values of a traced graph keep alive, once the graph is compiled.

Dynamo traces a graph with autograd, on fake tensors. Their autograd nodes save real tensors: every
number that a tensor is multiplied by, as a tensor of 8 bytes. Compiled code keeps the graph that it
was compiled from, and with it these tensors, between steps.

    captured graph ── node ── fake value ── autograd node ── tensor(0.5)
                                         x
                                  cut by `detach`
"""

from __future__ import annotations

import torch
from torch import fx
from torch.utils._pytree import tree_map_only

VALUE = "example_value"  # where dynamo notes the fake value of a node


def detach(gm: fx.GraphModule) -> None:
    """Takes autograd nodes off the fake values of a graph, and of the graphs inside the graph."""
    graphs = (m.graph for m in gm.modules() if isinstance(m, fx.GraphModule))
    for node in (node for graph in graphs for node in graph.nodes):
        if VALUE in node.meta:
            node.meta[VALUE] = tree_map_only(torch.Tensor, _detached, node.meta[VALUE])


def _detached(value: torch.Tensor) -> torch.Tensor:
    return value if value.grad_fn is None else value.detach()
