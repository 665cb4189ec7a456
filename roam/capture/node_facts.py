"""Answers questions about an fx node: whether it is an op, what it writes to, its module."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from roam.core.problem import Lane
from roam.passes.annotations import out_variants
from roam.passes.collectives import is_collective, is_wait
from roam.passes.geometry import storage_key, tensor_inputs, tensors, value
from roam.passes.rewrites.split import Label
from roam.passes.transfer_ops import BACK, LOAD_WAIT, OUT, READ_WAIT, TRANSFERS


def is_op(node: fx.Node) -> bool:
    """Returns whether a node allocates a result, writes to an argument, or has another effect.

    Views and computations of sizes are no ops.
    """
    if node.target is operator.getitem:
        return False
    parts = tensors(node)
    if not parts:
        return not _is_number(value(node))
    known = {storage_key(t) for _, t in tensor_inputs(node)}
    for source in node.all_input_nodes:
        known |= {storage_key(t) for t in tensors(source)}
    return bool(mutated(node)) or any(storage_key(t) not in known for t in parts)


aten = torch.ops.aten
ON_STORAGE = frozenset(  # ops that address or copy the whole storage of their argument
    {
        aten.as_strided.default,
        aten.as_strided_copy.default,
        aten.as_strided_scatter.default,
        aten.copy.default,
        aten.diagonal_scatter.default,
        aten.select_scatter.default,
        aten.slice_scatter.default,
        aten.resize.default,
        aten.set.source_Tensor,
    }
)


def looks_at_storage(node: fx.Node) -> bool:
    """Returns whether an op may read the storage around its arguments.

    Then its arguments cannot lie in a block, whose storage contains other tensors.
    """
    if not isinstance(node.target, torch._ops.OpOverload):
        return isinstance(node.target, torch._ops.HigherOrderOperator)
    if node.target.namespace not in ("aten", "prims", "roam"):
        return True  # a user's own op may read anything
    return node.target in ON_STORAGE and out_variants.META not in node.meta


def _is_number(found: Any) -> bool:
    return isinstance(found, (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool))


def mutated(node: fx.Node) -> list[torch.Tensor]:
    """Returns the arguments that an op writes to, by its schema.

    The wait for a read or for a collective fills what these have started on: no schema says so, as
    AOTAutograd splits only graphs without writes into forward and backward if they have
    checkpoint() in them.
    """
    if not isinstance(node.target, torch._ops.OpOverload):
        return []
    if node.target in (READ_WAIT, LOAD_WAIT) or is_wait(node):
        return [value(node.args[0])]  # type: ignore[arg-type]
    found: list[torch.Tensor] = []
    for i, argument in enumerate(node.target._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = node.kwargs.get(argument.name) if i >= len(node.args) else node.args[i]
            several = given if isinstance(given, (list, tuple)) else (given,)
            found += [value(n) for n in several if isinstance(n, fx.Node)]
    return found


def keeps_its_turn(node: fx.Node) -> bool:
    """Returns whether an op draws random numbers or has effects.

    Such ops must stay in program order among each other.
    """
    if not isinstance(node.target, torch._ops.OpOverload):
        return True
    no_result = not tensors(node) and not mutated(node)
    return no_result or torch.Tag.nondeterministic_seeded in node.target.tags


def runs_once(node: fx.Node) -> bool:
    """Returns whether an op must not be computed again.

    It draws random numbers, has effects, or communicates with ranks that compute nothing again.
    Attention is tagged as random whatever its dropout is; without dropout it draws nothing.
    """
    if node.target in TRANSFERS or is_collective(node):
        return True
    return keeps_its_turn(node) and _dropout(node) != 0


def lane(node: fx.Node) -> Lane:
    """Returns what carries an op out: collectives, transfers to a tier or back, or others."""
    if is_collective(node):
        return Lane.COMMUNICATION
    if node.target in OUT:
        return Lane.COPY_OUT
    return Lane.COPY_IN if node.target in BACK else Lane.COMPUTE


def _dropout(node: fx.Node) -> Any:
    """Returns the argument `dropout_p` of an op that has one, else None."""
    if isinstance(node.target, torch._ops.OpOverload):
        for i, argument in enumerate(node.target._schema.arguments):
            if argument.name == "dropout_p":
                given = node.args[i] if i < len(node.args) else argument.default_value
                return node.kwargs.get("dropout_p", given)
    return None


def block_suffix(label: Label | None) -> str:
    """Returns what the name of an op ends in if it belongs to a block: "#1" for the first one.

    From the second split group on, the number of the group comes first: "#2.1". Blocks of gradients
    begin with the name of the group: "#fold3.1".

    Args:
        label: the group, with numbers from 0, and the block, from 0; None if there is none.
    """
    if label is None:
        return ""
    group, block = label
    if isinstance(group, int):
        group = f"{group + 1}" if group else ""
    return f"#{group}.{block + 1}" if group else f"#{block + 1}"
