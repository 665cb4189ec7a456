"""Traces the simpler operators of which an operator consists, by PyTorch's own decompositions."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, fx
from torch._decomp import core_aten_decompositions
from torch.fx.experimental.proxy_tensor import make_fx

from roam.passes.geometry import tensors, value
from roam.passes.graph_ops import is_pure


def parts(node: fx.Node) -> fx.Graph | None:
    """Returns an op's decomposition as a graph of simpler ops, with fake values.

    The graph has a placeholder for each of `node.all_input_nodes`.

    Returns None in these cases:

    - The node calls no operator of torch, or one that changes an argument, draws random numbers,
      or is a collective.
    - An operand is not a single tensor whose shape consists of numbers.
    - PyTorch has no decomposition of the op.
    - The decomposition calls the op itself, or needs constants, which are no calls of ops.
    """
    operands = node.all_input_nodes
    if not is_pure(node) or node.target not in _table() or not all(map(_is_known, operands)):
        return None

    def call(*given: Any) -> Any:
        now = dict(zip(operands, given, strict=True))
        args, kwargs = fx.map_arg((node.args, node.kwargs), now.__getitem__)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    with tensors(node)[0].fake_mode:  # type: ignore[attr-defined]
        traced = make_fx(call, decomposition_table=_table())(*map(value, operands))
    graph: fx.Graph = traced.graph
    kinds = {n.op for n in graph.nodes}
    # some decompositions trace to the op itself
    again = any(n.target is node.target for n in graph.nodes)
    return graph if kinds <= {"placeholder", "call_function", "output"} and not again else None


@cache
def _table() -> dict[Any, Any]:
    return dict(core_aten_decompositions())


def _is_known(node: fx.Node) -> bool:
    """Returns whether a node returns a single tensor whose shape consists of numbers."""
    found = value(node)
    return isinstance(found, Tensor) and all(isinstance(n, int) for n in found.shape)
