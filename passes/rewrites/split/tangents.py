"""Takes the tangent of a scalar loss out of a group, so that the forward can run all of it.

    forward     logits ── ... ── gradient of the logits, for the tangent 1 ── products
    backward    products * tangent

A gradient is linear in the tangent. So the gradients for the tangent 1, times the tangent, are the
gradients, if every op on the way is linear, which the functions of this file check: a custom
backward that clips is not.

The tangent may also be multiplied by a function of all rows, as in the backward of exp(mean(...)).
What follows is linear in that product, a scalar too, which takes the place of the tangent then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from roam.passes.dependencies import needed_for
from roam.passes.geometry import value
from roam.passes.graph_ops import is_zeros

if TYPE_CHECKING:
    from roam.passes.rewrites.split.blocks import Writer

aten = torch.ops.aten
prims = torch.ops.prims

# linear in their first operand
_FIRST = {
    aten.div.Tensor,
    aten.div.Scalar,
    aten.mul.Scalar,
    aten.gather.default,
    aten.scatter.value,
    aten.sum.dim_IntList,
    aten.sum.default,
    aten.mean.dim,
    aten.neg.default,
    aten.expand.default,
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.permute.default,
    aten.t.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.squeeze.default,
    aten.alias.default,
    aten.detach.default,
    aten.clone.default,
    aten.select.int,
    aten.cumsum.default,
    aten.flip.default,
    prims.rev.default,
    aten.slice.Tensor,
    aten._to_copy.default,
    prims.convert_element_type.default,
    aten._softmax_backward_data.default,
    aten._log_softmax_backward_data.default,
    aten.gelu_backward.default,
    aten.nll_loss_backward.default,
    aten.sigmoid_backward.default,
    aten.silu_backward.default,
    aten.tanh_backward.default,
    aten.threshold_backward.default,
}
# linear in one operand if the others do not depend on the tangent
_ONE = {aten.mul.Tensor, aten.mm.default, aten.bmm.default}
# linear if all operands are linear in the tangent, or zero
_ALL = {aten.add.Tensor, aten.sub.Tensor}
# by name, positions of the factors of a product and of what is added to it; Inductor makes fma
_ADDED = {
    "aten.addmm.default": (1, 2, 0),
    "aten.baddbmm.default": (1, 2, 0),
    "prims.fma.default": (0, 1, 2),
}


def is_linear(node: fx.Node, dependent: Collection[fx.Node]) -> bool:
    """Returns whether a result is linear in the tangent if its dependent operands are.

    Args:
        node: the op.
        dependent: the ops that depend on the tangent.
    """
    operands = [a for a in node.args if isinstance(a, fx.Node)]
    on_tangent = [a for a in operands if a in dependent]
    if node.target is aten.where.self:
        condition, *values = node.args
        return condition not in dependent and all(_vanishes(v, dependent) for v in values)
    if node.target is aten.scatter.value and node.args[3] != 0:
        return False
    if node.target in (aten.slice_scatter.default, aten.select_scatter.default):
        return all(_vanishes(v, dependent) for v in node.args[:2])
    if node.target in (aten.scatter_add.default, aten.scatter.src):
        self, _, index, source = node.args
        return index not in dependent and all(_vanishes(v, dependent) for v in (self, source))
    if node.target in _FIRST:
        return on_tangent == [node.args[0]]
    if node.target in _ONE:
        return len(on_tangent) == 1
    if str(node.target) in _ADDED:  # a product and what is added to it
        *factors, added = (node.args[i] for i in _ADDED[str(node.target)])
        one = sum(f in dependent for f in factors) == 1
        return one and _vanishes(added, dependent)
    if node.target in _ALL:
        return all(_vanishes(a, dependent) for a in node.args[:2])
    return False


def _vanishes(operand: Any, dependent: Collection[fx.Node]) -> bool:
    """Returns whether an operand is zero if the tangent is: dependent on it, or a constant zero."""
    if not isinstance(operand, fx.Node):
        return bool(operand == 0)
    return operand in dependent or is_zeros(operand)


def is_tangent(node: fx.Node) -> bool:
    """Returns whether a node is the gradient of a result of the forward, which autograd passes."""
    return node.op == "placeholder" and str(node.target).startswith("tangents")


@dataclass(frozen=True)
class Tangent:
    """The tangent of the loss, or a multiple of it, which a group's results are multiplied by.

    Attributes:
        node: the input of the graph, or the op that makes the multiple.
        dependent: the ops that depend on it.
    """

    node: fx.Node
    dependent: frozenset[fx.Node]

    def at_one(self, writer: Writer, wanted: Iterable[fx.Node]) -> dict[fx.Node, fx.Node]:
        """Adds the ops between the tangent and a group to the graph again, for the tangent 1.

        Args:
            writer: adds the ops.
            wanted: operands of the group. Those that do not depend on the tangent stay.

        Returns:
            By an op that depends on the tangent, the one for the tangent 1.
        """
        found: dict[fx.Node, fx.Node] = {}
        needed = self.between(wanted)
        for node in [n for n in self.node.graph.nodes if n in needed]:
            if node is self.node:
                like: Tensor = value(node)
                how = {"dtype": like.dtype, "device": like.device}
                found[node] = writer.add(node, aten.full.default, (list(like.shape), 1), how)
            else:
                args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: found.get(n, n))
                found[node] = writer.add(node, node.target, args, dict(kwargs))
        return found

    def between(self, wanted: Iterable[fx.Node]) -> set[fx.Node]:
        """Returns the dependent ops from the tangent on, included, to the wanted ones, included."""
        return needed_for(wanted, self.dependent.__contains__)

    def times(self, writer: Writer, node: fx.Node, result: fx.Node) -> fx.Node:
        """Adds ops to the backward that multiply a result by the tangent; returns the product.

        Args:
            writer: adds the ops.
            node: the op that `result` stands for.
            result: what the blocks give for the tangent 1.
        """
        factor = self.node
        if value(factor).dim():
            factor = writer.add(factor, aten.reshape.default, (factor, []), {})
            factor.meta["partitioner_tag"] = "is_backward"
        product = writer.add(node, aten.mul.Tensor, (result, factor), {})
        product.meta["partitioner_tag"] = "is_backward"
        return product
