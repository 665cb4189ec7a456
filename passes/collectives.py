"""Recognizes functional collectives: ops that communicate with other ranks.

    start    r = all_reduce(x, ...)     returns at once: r has no values yet, and x is still read
    wait     w = wait_tensor(r)         w is r, in the same memory, with its values

All ranks must start the same collectives in the same order.
"""

from __future__ import annotations

import operator

import torch
from torch import fx

NAMESPACE = "_c10d_functional"


def is_collective(node: fx.Node) -> bool:
    """Returns whether an op starts a collective or waits for one."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == NAMESPACE


def is_wait(node: fx.Node) -> bool:
    """Returns whether an op waits for a collective."""
    return is_collective(node) and node.target._opname == "wait_tensor"  # type: ignore[union-attr]


def being_sent(wait: fx.Node) -> list[fx.Node]:
    """Returns the tensors that the collective reads until this op has waited for it.

    Empty if the collective was started outside of the graph.
    """
    start = wait.args[0]
    while isinstance(start, fx.Node) and start.target is operator.getitem:
        start = start.args[0]
    if not isinstance(start, fx.Node) or not is_collective(start):
        return []
    return start.all_input_nodes
