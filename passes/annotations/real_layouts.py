"""Corrects fake values that state other strides than the operator returns.

    fake value     _log_softmax_backward_data(gradient.t(), ...)    (300, 200), strides (1, 300)
    real result                                                     (300, 200), strides (200, 1)

Whatever is decided by strides afterwards (where a result may be written, what lies alike, which
operand a product copies) is decided by the real ones, and what reads the result has its own value
computed anew.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from roam.passes.geometry import is_equal, is_view, tensor_inputs, tensors, value

aten = torch.ops.aten
VIEWS = frozenset({aten.view.default, aten._unsafe_view.default})
Order = tuple[int, ...]  # the dims of more than one element, from the outermost in memory


@dataclass(frozen=True)
class RealLayouts:
    """Gives results the strides that they really have. Counts the operators it corrected.

    layouts: the order of each of an operator's results in memory, as tried: None where one has
    gaps or overlaps, and None for all if the operator was not tried.
    """

    layouts: Callable[[fx.Node], Sequence[Order | None] | None]
    name: str = "real_layouts"

    def __call__(self, module: fx.GraphModule) -> int:
        changed: set[fx.Node] = set()
        corrected = 0
        for node in module.graph.nodes:
            anew = not changed.isdisjoint(node.all_input_nodes)
            if node.op != "call_function" or not tensors(node):
                continue
            if node.target is operator.getitem:
                if anew:
                    node.meta["val"] = value(node.args[0])[node.args[1]]
                    changed.add(node)
                continue
            orders = self.layouts(node) if may_lie_otherwise(node) else None
            if orders is None and anew:
                changed.update(_compute(node))
            elif orders is not None and not _lie_so(tensors(node), orders):
                parts = map(_laid_out, tensors(node), orders)
                node.meta["val"] = _replaced(value(node), parts)
                changed.add(node)
                corrected += 1
        return corrected


def may_lie_otherwise(node: fx.Node) -> bool:
    """Whether the strides that are stated of an operator's results may be others."""
    op = node.target
    if not isinstance(op, torch._ops.OpOverload) or op.namespace != "aten" or is_view(node):
        return False
    if any(a.alias_info for a in (*op._schema.arguments, *op._schema.returns)):
        return False
    operands = [t for _, t in tensor_inputs(node)]
    plain = all(t.is_contiguous() for t in (*operands, *tensors(node)))
    if plain and torch.Tag.pointwise in op.tags:
        return False
    return any(sum(not is_equal(n, 1) for n in t.shape) > 1 for t in tensors(node))


def _compute(node: fx.Node) -> tuple[fx.Node, ...]:
    """Computes the fake value of a node whose operands lie otherwise than when it was traced.

    A view that the operand's real strides do not allow becomes a view of a contiguous copy, as in
    `Tensor.reshape`. Returns the nodes with a new value.
    """
    if not isinstance(node.target, torch._ops.OpOverload):
        return (node,)
    if node.target in VIEWS and not _is_viewable(node):
        source = node.all_input_nodes[0]
        contiguous: dict[str, Any] = {"memory_format": torch.contiguous_format}
        with node.graph.inserting_before(node):
            copy = node.graph.call_function(aten.clone.default, (source,), contiguous)
        copy.meta = dict(node.meta)
        node.replace_input_with(source, copy)
        return (*_compute(copy), *_compute(node))
    args, kwargs = fx.map_arg((node.args, node.kwargs), value)
    node.meta["val"] = node.target(*args, **kwargs)
    return (node,)


def _is_viewable(node: fx.Node) -> bool:
    """Whether the operand allows the view. The operator is asked, as sizes may be symbols."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), value)
    try:
        node.target(*args, **kwargs)  # type: ignore[operator]
    except (RuntimeError, ValueError):
        return False
    return True


def _lie_so(results: Sequence[Tensor], orders: Sequence[Order | None]) -> bool:
    return all(
        order is None or all(map(is_equal, t.stride(), _strides(t, order)))
        for t, order in zip(results, orders, strict=True)
    )


def _laid_out(tensor: Tensor, order: Order | None) -> Tensor:
    if order is None:
        return tensor
    return tensor.new_empty_strided(tensor.shape, _strides(tensor, order))


def _strides(tensor: Tensor, order: Order) -> list[Any]:
    """Dense strides in that order; dims of one element, which it leaves out, keep theirs."""
    found: list[Any] = list(tensor.stride())
    step: Any = 1
    for d in reversed(order):
        found[d], step = step, step * tensor.shape[d]
    return found


def _replaced(found: Any, parts: Iterator[Tensor]) -> Any:
    """The same results with other tensors."""
    if isinstance(found, (tuple, list)):
        return tuple(_replaced(f, parts) for f in found)
    return next(parts) if isinstance(found, Tensor) else found
