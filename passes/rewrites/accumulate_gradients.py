"""Adds the parts of a gradient into one buffer, for weights that a model uses more than once.

A weight's gradient is a sum with one part for each use. Autograd makes each part whole and then
adds them, so two tensors as large as the weight exist at once. But matrix products, and scatters
(the gradient of an embedding), can add to a buffer that exists already:

    head = mm(g, x)                            head = mm(g, x)
    rows = index_put(zeros, ids, v)     ->     both = index_put(head, ids, v)
    both = head + rows

    first = mm(g1, x1)                         first = mm(g1, x1)
    second = mm(g2, x2)                 ->     both = add_mm(first, g2, x2)
    both = first + second

The new ops are free of side effects too. Inductor runs them in place if nothing reads the buffer
later, which holds for the buffers that this pass adds to.

The parts are added in the order in which the graph makes them. Results are exact up to rounding:
the sums run in another order. A scatter into float32 whose result is cast to bfloat16 remains in
float32, and is joined with other scatters of that kind only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from roam.passes import add_mm
from roam.passes.geometry import (
    fills_its_storage,
    is_view,
    same_shape,
    storage_key,
    tensors,
    value,
)
from roam.passes.graph_ops import add_number, add_op, erase_unused, is_zeros
from roam.passes.scatters import MASKED, SCATTERS, scatter

aten = torch.ops.aten
CAST = torch.ops.prims.convert_element_type.default


@dataclass(frozen=True)
class Part:
    """One part of a sum.

    Attributes:
        node: the part as the sum reads it.
        made: the op that makes the part. Between `made` and `node` are only casts or transposes.
    """

    node: fx.Node
    made: fx.Node

    def added_to(self, acc: fx.Node) -> fx.Node:
        """Adds an op to the graph that adds this part to `acc`, and returns that op."""
        return add_op(self.node, aten.add.Tensor, acc, self.node)


@dataclass(frozen=True)
class Product(Part):
    """A matrix product or, if `transposed`, the transpose of one."""

    transposed: bool

    def added_to(self, acc: fx.Node) -> fx.Node:
        a, b = self.made.args
        if self.transposed:
            a, b = (add_op(self.node, aten.permute.default, x, [1, 0]) for x in (b, a))
        return add_op(self.node, add_mm.OP, acc, a, b)


@dataclass(frozen=True)
class Scatter(Part):
    """Values added at some indices to zeros."""

    def added_to(self, acc: fx.Node) -> fx.Node:
        if self.made.target is not MASKED:
            return add_op(self.node, self.made.target, acc, *self.made.args[1:])
        # Inductor lowers the masked op to these ops too, but would copy `acc` first
        _, mask, indices, given = self.made.args
        values = add_op(self.node, aten.where.self, mask, given, add_number(self.node, 0, given))
        sizes = value(acc).shape
        clamped = [
            None if at is None else self._clamped(at, size)
            for at, size in zip(indices, sizes, strict=False)  # type: ignore[arg-type]
        ]
        return add_op(self.node, aten._unsafe_index_put.default, acc, clamped, values, True)

    def _clamped(self, index: Any, size: Any) -> fx.Node:
        least, most = (add_number(self.node, n, index) for n in (-size, size - 1))
        above = add_op(self.node, aten.maximum.default, index, least)
        return add_op(self.node, aten.minimum.default, above, most)


@dataclass(frozen=True)
class AccumulateGradients:
    """Rewrites the sums that a graph returns, casts and views of them included."""

    name: str = "accumulate_gradients"

    def __call__(self, module: fx.GraphModule) -> int:
        returned = module.graph.output_node().all_input_nodes
        totals = [n for n in dict.fromkeys(map(_uncast, returned)) if _is_sum(n)]
        added = sum(map(_accumulate, totals))
        if added:
            module.recompile()
        return added


def _accumulate(total: fx.Node) -> int:
    """Rewrites one sum. Returns the number of parts that are then added to a buffer."""
    position = {node: i for i, node in enumerate(total.graph.nodes)}
    parts = sorted(map(_part, _addends(total)), key=lambda part: position[part.node])
    joined, added = _joined(parts)
    acc_part = next((part for part in joined if _may_be_changed(part)), None)
    others = [part for part in joined if part is not acc_part]
    into_acc = sum(isinstance(part, (Product, Scatter)) for part in others)
    if acc_part is None or not added + into_acc:
        return 0
    acc, at = acc_part.node, joined.index(acc_part)
    for i, part in enumerate(joined):
        if part is not acc_part:
            last = joined[max(i, at)].node  # the later one of `acc_part` and `part`
            with total.graph.inserting_before(last.next):
                acc = part.added_to(acc)
    total.replace_all_uses_with(acc)
    erase_unused(total)
    return added + into_acc


def _joined(parts: Sequence[Part]) -> tuple[list[Part], int]:
    """Joins the scatters that are cast from one type before they are added to the other parts.

    Returns the parts, and how many scatters were joined with an earlier one.
    """
    alike: dict[torch.dtype, list[Part]] = defaultdict(list)
    for part in parts:
        if part.made.target in SCATTERS and not isinstance(part, Scatter):
            alike[value(part.made).dtype].append(part)
    found, added = list(parts), 0
    for first, *others in alike.values():
        acc = first.made
        for part in others:
            with part.node.graph.inserting_before(part.node.next):
                acc = Scatter(part.made, part.made).added_to(acc)
        if others:
            last = others[-1]
            with last.node.graph.inserting_before(acc.next):
                cast = add_op(last.node, CAST, acc, value(last.node).dtype)
            found[found.index(last)] = Part(cast, cast)
            found = [part for part in found if part not in (first, *others)]
            added += len(others)
    return found, added


def _part(node: fx.Node) -> Part:
    if _is_scatter(node):
        return Scatter(node, node)
    if node.target is CAST and len(node.users) == 1 and _is_scatter(node.args[0]):
        return Part(node, node.args[0])  # type: ignore[arg-type]
    made, transposed = node, False
    while len(made.users) == 1 and made.target is aten.permute.default:
        transposed ^= list(made.args[1]) == [1, 0]  # type: ignore[arg-type]
        made = made.args[0]  # type: ignore[assignment]
    if len(made.users) == 1 and made.target is aten.mm.default:
        return Product(node, made, transposed)
    return Part(node, node)


def _is_scatter(node: Any) -> bool:
    """Returns whether the node only adds values to zeros, for one reader."""
    if not isinstance(node, fx.Node) or len(node.users) != 1:
        return False
    found = scatter(node)
    if found is None or not is_zeros(found.acc):
        return False
    return all(isinstance(size, int) for size in value(node).shape)


def _may_be_changed(part: Part) -> bool:
    """Returns whether the sum may be written over a part: nothing else reads the part's memory."""
    if not fills_its_storage(value(part.node)):
        return False
    memory = storage_key(value(part.node))
    sharing = [n for n in part.node.graph.nodes if memory in map(storage_key, tensors(n))]
    return all(n.op == "call_function" and len(n.users) <= 1 for n in sharing)


def _is_sum(node: fx.Node) -> bool:
    """Returns whether the node adds two tensors with the shape and type of the result."""
    if node.target is not aten.add.Tensor or node.kwargs or node.args[0] is node.args[1]:
        return False
    result = value(node)
    return all(
        isinstance(n, fx.Node)
        and same_shape(value(n), result)
        and value(n).dtype == result.dtype
        and value(n).device == result.device
        for n in node.args
    )


def _addends(total: fx.Node) -> Iterator[fx.Node]:
    """Yields what a sum adds. Looks into sums that only this sum reads."""
    pending = [total]
    while pending:
        for node in pending.pop().args:
            assert isinstance(node, fx.Node)
            if _is_sum(node) and len(node.users) == 1:
                pending.append(node)
            else:
                yield node


def _uncast(node: fx.Node) -> fx.Node:
    """Returns the node that a result was made from by casts and views alone."""
    while node.op == "call_function" and (node.target is CAST or is_view(node)):
        node = node.all_input_nodes[0]
    return node
