"""Tells what kind of op a node is, and adds ops to a graph with what later passes need to know."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import fx

from roam.passes.collectives import is_collective
from roam.passes.geometry import tensors, value

aten = torch.ops.aten
OFFERS = "roam_offers"  # which options would keep the value smaller (annotations/offers.py)
ABOUT_THE_VALUE = ("val", "tensor_meta", "eager_input_vals", OFFERS)  # keys of `node.meta`


def is_pure(node: fx.Node) -> bool:
    """Returns whether an op gives the same result whenever it runs on the same operands."""
    target = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return False
    if is_collective(node):
        return False
    return not target._schema.is_mutable and torch.Tag.nondeterministic_seeded not in target.tags


def frozen(argument: Any, standing_in: Mapping[fx.Node, fx.Node] | None = None) -> Any:
    """Returns a hashable form of an argument, in which 1, 1.0 and True differ.

    standing_in: other nodes that nodes in the argument are taken for.
    """
    if isinstance(argument, (list, tuple)):
        return tuple(frozen(a, standing_in) for a in argument)
    if isinstance(argument, dict):
        return tuple((k, frozen(v, standing_in)) for k, v in argument.items())
    if isinstance(argument, slice):
        return ("slice", frozen((argument.start, argument.stop, argument.step), standing_in))
    if standing_in is not None and isinstance(argument, fx.Node):
        argument = standing_in[argument]
    return (type(argument), argument)


def is_zeros(node: Any) -> bool:
    """Returns whether a node is a constant whose elements are zero."""
    constant = node.target in (aten.full.default, aten.scalar_tensor.default)
    position = 1 if node.target is aten.full.default else 0
    return constant and bool(node.args[position] == 0)


def facts(near: fx.Node, val: Any) -> dict[str, Any]:
    """Returns metadata for a node with the fake value `val`.

    It has what `near` knows about the user's code, such as the module and the stack trace, and
    nothing of what `near` knows about its own value.
    """
    return {k: v for k, v in near.meta.items() if k not in ABOUT_THE_VALUE} | {"val": val}


def offers(node: fx.Node) -> tuple[str, ...]:
    """Returns what options would do to a node's value, a sentence each. See OFFERS."""
    found: tuple[str, ...] = node.meta.get(OFFERS, ())
    return found


def add_op(
    near: fx.Node, target: Any, *args: Any, name: str | None = None, **kwargs: Any
) -> fx.Node:
    """Adds an op to the graph of `near`, where the graph inserts nodes now, and returns the op.

    Args:
        near: the op whose code the new op stands for; see `facts`.
        target: the operator.
        args: its arguments.
        name: the name of the node; by default that of the operator.
        kwargs: its keyword arguments.
    """
    made = near.graph.create_node("call_function", target, args, kwargs, name=name)
    given, named = fx.map_arg((args, kwargs), value)
    modes = (t.fake_mode for t in tensors(near) if hasattr(t, "fake_mode"))
    with next(modes, None) or nullcontext():
        made.meta = facts(near, target(*given, **named))
    return made


def add_number(near: fx.Node, number: Any, like: Any) -> fx.Node:
    """Adds the op of a tensor of one number, with the dtype and device of the node `like`.

    near: as of `add_op`.
    """
    how = {"dtype": value(like).dtype, "device": value(like).device}
    return add_op(near, aten.full.default, [], number, **how)


def erase_unused(node: fx.Node) -> None:
    """Erases a node without readers, and the ops that only it read."""
    pending = {node: None}
    while pending:
        unused, _ = pending.popitem()
        if unused.op == "call_function" and not unused.users:
            inputs = unused.all_input_nodes
            unused.graph.erase_node(unused)
            pending |= dict.fromkeys(inputs)


def module_path(node: fx.Node) -> str:
    """Returns the path of the module that an op belongs to, '' if it belongs to none.

    An op of the backward belongs to the module whose forward it differentiates.
    """
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack")
    if not stack:
        return ""
    path, _ = list(stack.values())[-1]
    return re.sub(r"^[LG]\['\w+'\]\.?", "", str(path))
