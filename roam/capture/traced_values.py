"""Frees what the values of a traced graph keep alive, once the graph is compiled.

Compiled code keeps the graph that it was compiled from. The fake values of its nodes refer to real
tensors:

    fake value ── autograd node ── tensor(0.5)    dynamo traces with autograd, which saves every
                                                  number that a tensor is multiplied by
    fake value ── tensor(8.0)                     the value of a constant such as `torch.tensor(8.)`
"""

from __future__ import annotations

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_map_only

VALUE = "example_value"  # where dynamo notes the fake value of a node


def free(gm: fx.GraphModule) -> None:
    """Frees the real tensors that the fake values of a graph, and of graphs in it, refer to."""
    graphs = (m.graph for m in gm.modules() if isinstance(m, fx.GraphModule))
    for node in (node for graph in graphs for node in graph.nodes):
        if VALUE in node.meta:
            node.meta[VALUE] = tree_map_only(FakeTensor, _alone, node.meta[VALUE])


def _alone(value: FakeTensor) -> torch.Tensor:
    value.constant = None
    return value if value.grad_fn is None else value.detach()
