"""Finds saved tensors that only gradients of linears' weights read, as rows of tokens.

forward     x, [..., n] ── linear ── z, [..., m]
backward    dW = dzᵀ x or xᵀ dz, a sum over all rows of x, seen as [N, n]

Other products of the backward look the same: dx = dz W, if the forward makes W (autocast casts it),
and the gradient of a key, dk = dsᵀ q. What the forward multiplies tells them apart: x stands on the
left of an input of the graph, or of a cast of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from roam.passes.geometry import is_equal, value
from roam.passes.graph_ops import module_path
from roam.passes.rewrites.saved import Keep, Method, Reader, Replaced, Result, SavedTensor, Whole
from roam.passes.rewrites.saved.rewrite import matches
from roam.passes.rewrites.saved.tensors import aliases, base_of, is_late

aten, prims = torch.ops.aten, torch.ops.prims
EXACT_IN = (  # WTA-CRS's choice, in the names of transformers' models
    *("*.q", "*.k", "*.v", "*.query", "*.key", "*.value", "*.q_proj", "*.k_proj", "*.v_proj"),
    *("*.c_attn", "*lm_head", "*classifier", "*score"),
    *("*lora_B*", "*lora_b"),  # its input is thin already
)

# matrix products, with the position of their left operand
PRODUCTS: dict[Any, int] = {aten.mm.default: 0, aten.bmm.default: 0, aten.addmm.default: 1}
CASTS = (aten._to_copy.default, prims.convert_element_type.default)

# by position of x in the product, what makes the product of what is saved and the other operand
Product = Callable[..., Tensor]
Products = Mapping[int, Product]


def for_weights(
    tensor: SavedTensor, keep: Keep, products: Products, exact_in: tuple[str, ...]
) -> Method:
    """Returns the method of a tensor if gradients of weights read it, and nothing else does.

    Args:
        tensor: the tensor.
        keep: makes what is saved of it.
        products: make the gradient. 0: xᵀ dz of dz, [N, m]. 1: dzᵀ x of dzᵀ, [m, N].
        exact_in: patterns of modules that keep exact gradients.
    """
    if not tensor.value.is_floating_point() or not _is_linear_input(tensor):
        return None
    positions = [_position(tensor, r) for r in tensor.readers]
    if all(p is None for p in positions) or any(matches(m, exact_in) for m in tensor.modules):
        return None
    results: dict[fx.Node, Result] = {}
    for reader, position in zip(tensor.readers, positions, strict=True):
        if position is None:
            where = module_path(reader.op) or "the model"
            return Whole(f"{reader.op.target} of {where} needs all of it")
        results[reader.op] = Result(products[position], (1 - position,))
    return Replaced(keep, results)


def rows_of(x: Tensor) -> Tensor:
    """Returns a tensor as rows of tokens, [N, n]."""
    return x.reshape(-1, x.shape[-1])


def _is_linear_input(tensor: SavedTensor) -> bool:
    """Returns whether in every matrix product of the forward a tensor is the left factor of x W.

    W is a parameter, or made of parameters only. Ops that are no matrix products may read x.
    """
    products = [
        (user, alias)
        for alias in aliases(tensor.node)
        for user in alias.users
        if not is_late(user) and user.target in PRODUCTS
    ]
    operands = [(user.args[PRODUCTS[user.target] :][:2], alias) for user, alias in products]
    return all(left is alias and is_given(right) for (left, right), alias in operands)


def is_given(operand: Any) -> bool:
    """Returns whether an operand is an input of the graph, or a cast or view of one."""
    while isinstance(operand, fx.Node) and operand.op != "placeholder":
        operand = base_of(operand)
        if operand.target in CASTS:
            operand = operand.args[0]
        elif operand.op != "placeholder":
            return False
    return isinstance(operand, fx.Node)


def _position(tensor: SavedTensor, reader: Reader) -> int | None:
    """Returns the position at which a matrix product sums over the rows of a tensor, or None."""
    op, whole, found = reader.op, tensor.value, value(reader.operand)
    if op.target is not aten.mm.default or whole.dim() < 2 or not whole.is_contiguous():
        return None
    if op.args[0] is op.args[1]:
        return None
    position = op.args.index(reader.operand)
    rows = found.t() if position == 0 else found
    width: Any = whole.shape[-1]
    in_order = is_equal(rows.stride(0), width) and is_equal(rows.stride(1), 1)
    same = is_equal(rows.shape[1], width) and is_equal(rows.numel(), whole.numel())
    return position if in_order and same else None
