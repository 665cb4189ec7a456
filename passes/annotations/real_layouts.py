"""Corrects fake values whose strides differ from those that the operator really returns.

    fake value     _log_softmax_backward_data(gradient.t(), ...)    (300, 200), strides (1, 300)
    real result                                                     (300, 200), strides (200, 1)

Later passes then decide by the real strides: where a result may be written, which tensors have the
same layout, which operand a matrix product copies. The fake values of the ops that read a
corrected result are computed again.
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
Order = tuple[int, ...]  # the dims with more than one element, the outermost in memory first


@dataclass(frozen=True)
class RealLayouts:
    """Gives results the strides that they really have. Returns how many operators it corrected.

    Attributes:
        layouts: returns the order of each result of a node in memory, as a trial found it. The
            order is None for a result with gaps or overlaps; the return value is None for a node
            that was not tried.
    """

    layouts: Callable[[fx.Node], Sequence[Order | None] | None]
    name: str = "real_layouts"

    def __call__(self, module: fx.GraphModule) -> int:
        changed: set[fx.Node] = set()
        corrected = 0
        for node in module.graph.nodes:
            stale = not changed.isdisjoint(node.all_input_nodes)  # computed from old strides
            if node.op != "call_function" or not tensors(node):
                continue
            if node.target is operator.getitem:
                if stale:
                    node.meta["val"] = value(node.args[0])[node.args[1]]
                    changed.add(node)
                continue
            orders = self.layouts(node) if may_lie_otherwise(node) else None
            if orders is None and stale:
                changed.update(_compute(node))
            elif orders is not None and not _have_order(tensors(node), orders):
                parts = map(_laid_out, tensors(node), orders)
                node.meta["val"] = _replaced(value(node), parts)
                changed.add(node)
                corrected += 1
        return corrected


def may_lie_otherwise(node: fx.Node) -> bool:
    """Returns whether the real strides of a node's results may differ from the fake ones."""
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
    """Computes the fake value of a node again, after the strides of an operand have changed.

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
    """Returns whether the operand's strides allow the view.

    Tries the operator on fake values, because sizes may be symbolic.
    """
    args, kwargs = fx.map_arg((node.args, node.kwargs), value)
    try:
        node.target(*args, **kwargs)  # type: ignore[operator]
    except (RuntimeError, ValueError):
        return False
    return True


def _have_order(results: Sequence[Tensor], orders: Sequence[Order | None]) -> bool:
    return all(
        order is None or all(map(is_equal, t.stride(), _strides(t, order)))
        for t, order in zip(results, orders, strict=True)
    )


def _laid_out(tensor: Tensor, order: Order | None) -> Tensor:
    if order is None:
        return tensor
    return tensor.new_empty_strided(tensor.shape, _strides(tensor, order))


def _strides(tensor: Tensor, order: Order) -> list[Any]:
    """Returns dense strides in that order. Dims that are not in it, of one element, keep theirs."""
    found: list[Any] = list(tensor.stride())
    step: Any = 1
    for d in reversed(order):
        found[d], step = step, step * tensor.shape[d]
    return found


def _replaced(found: Any, parts: Iterator[Tensor]) -> Any:
    """Returns the same nested results with the next tensors of `parts` in place of theirs."""
    if isinstance(found, (tuple, list)):
        return tuple(_replaced(f, parts) for f in found)
    return next(parts) if isinstance(found, Tensor) else found
