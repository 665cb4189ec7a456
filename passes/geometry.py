"""Tells how the tensors of a graph lie in memory, by the fake values of its nodes.

Sizes may be symbolic. Comparing them adds no guard: sizes that are not known to be equal count as
different.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import statically_known_true


def value(node: fx.Node) -> Any:
    """Returns the fake value of a node: a tensor, a tuple of tensors, a number, or None."""
    return node.meta.get("val")


def tensors(node: fx.Node) -> list[torch.Tensor]:
    """Returns the fake tensors that a node returns, in order."""
    return _flat(value(node))


def _flat(found: Any) -> list[torch.Tensor]:
    if isinstance(found, (tuple, list)):
        return [t for part in found for t in _flat(part)]
    return [found] if isinstance(found, torch.Tensor) else []


def tensor_inputs(node: fx.Node) -> Iterator[tuple[fx.Node, torch.Tensor]]:
    """Yields the inputs of a node that return one tensor, also those inside list arguments."""
    for source in node.all_input_nodes:
        found = value(source)
        if isinstance(found, torch.Tensor):
            yield source, found


def nbytes(node: fx.Node) -> int | None:
    """Returns the bytes of the tensors, or views, that a node returns; None if symbolic."""
    found = sum(t.numel() * t.element_size() for t in tensors(node))
    return found if isinstance(found, int) else None


def storage_key(tensor: torch.Tensor) -> int:
    """Returns a key that is equal for tensors that share their memory."""
    if tensor.layout is not torch.strided:
        return id(tensor)  # has no storage; a sparse tensor shares no memory that could be planned
    return int(tensor.untyped_storage()._cdata)


def is_equal(a: Any, b: Any) -> bool:
    """Returns whether two sizes, symbolic or not, are known to be equal."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    return bool(statically_known_true(a == b))


def same_shape(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dim() == b.dim() and all(is_equal(x, y) for x, y in zip(a.shape, b.shape, strict=True))


def same_layout(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Returns whether dtype, shape, strides and offset are equal: each element at the same place.

    The conjugate and negative bits have to agree too: such a view reads the same bytes as other
    numbers.
    """
    if a.dtype != b.dtype or a.device != b.device or not same_shape(a, b):
        return False
    if a.is_conj() != b.is_conj() or a.is_neg() != b.is_neg():
        return False
    strides = zip(a.stride(), b.stride(), strict=True)
    same_strides = all(is_equal(x, y) for x, y in strides)
    return same_strides and is_equal(a.storage_offset(), b.storage_offset())


def fills_its_storage(tensor: torch.Tensor) -> bool:
    """Returns whether every byte of the storage belongs to exactly one element of the tensor."""
    nbytes = tensor.numel() * tensor.element_size()
    return is_equal(tensor.untyped_storage().nbytes(), nbytes) and is_dense(tensor)


def is_dense(tensor: torch.Tensor) -> bool:
    """Returns whether the elements fill their memory, each place once, in whatever order."""
    if not _is_static(tensor):
        return tensor.is_contiguous()
    return all(stride == extent for stride, extent in _extents(tensor))


def has_distinct_elements(tensor: torch.Tensor) -> bool:
    """Returns whether no two elements lie at one place. There may be gaps between elements.

    Returns False for some unusual strides of which this is true too.
    """
    if not _is_static(tensor):
        return tensor.is_contiguous()
    return all(stride >= extent for stride, extent in _extents(tensor))


def has_symbolic_inputs(graph: fx.Graph) -> bool:
    """Returns whether a graph takes a number that only a run knows, such as a size."""
    return any(isinstance(value(n), torch.SymInt) for n in graph.find_nodes(op="placeholder"))


def _is_static(tensor: torch.Tensor) -> bool:
    return all(isinstance(n, int) for n in (*tensor.shape, *tensor.stride()))


def _extents(tensor: torch.Tensor) -> Iterator[tuple[int, int]]:
    """Yields the stride of each dimension, and the elements from first to last of those inside it.

    Goes from the smallest stride to the largest. Leaves out dimensions of size 1.
    """
    extent = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            yield stride, extent
            extent = stride * size


def renew_views(graph: fx.Graph) -> None:
    """Makes the fake value of each view share the storage of its source's fake value.

    After a pass has replaced a tensor by another, the views of the old one still point to it.
    """
    for node in graph.nodes:
        if node.target is operator.getitem and value(node.args[0]) is not None:
            node.meta["val"] = value(node.args[0])[node.args[1]]
        if node.op != "call_function" or not is_view(node):
            continue
        sources = {storage_key(t) for _, t in tensor_inputs(node)}
        if any(storage_key(t) not in sources for t in tensors(node)):
            args, kwargs = fx.map_arg((node.args, node.kwargs), value)
            node.meta["val"] = node.target(*args, **kwargs)


def renew_recomputed(forward: fx.Graph, backward: fx.Graph) -> None:
    """Gives the results of ops that the backward recomputes (checkpointing) their own storage.

    The partitioner copies such ops from the forward together with their fake values.
    """
    for graph in (forward, backward):
        _value_from_items(graph)
    made = {storage_key(t) for node in forward.nodes for t in tensors(node)}
    for node in backward.nodes:
        if node.op != "call_function" or node.target is operator.getitem or is_view(node):
            continue
        fresh = made - {storage_key(t) for _, t in tensor_inputs(node)}
        if any(storage_key(t) in fresh for t in tensors(node)):
            node.meta["val"] = renewed(value(node))
    renew_views(backward)


def _value_from_items(graph: fx.Graph) -> None:
    """Gives nodes without a fake value the tuple of the values of their `getitem` users.

    The partitioner's ops that save random state have no fake value.
    """
    for node in graph.nodes:
        items = {u.args[1]: value(u) for u in node.users if u.target is operator.getitem}
        if node.op == "call_function" and "val" not in node.meta and items:
            node.meta["val"] = tuple(items.get(i) for i in range(max(items) + 1))


def renewed(found: Any) -> Any:
    """Returns the same fake tensors with new storages."""
    if isinstance(found, (tuple, list)):
        return tuple(map(renewed, found))
    if isinstance(found, torch.Tensor):
        return found.new_empty_strided(found.shape, found.stride())
    return found


def is_view(node: fx.Node) -> bool:
    """Returns whether a node's results are views of its operands."""
    if node.target is torch.ops.aten._unsafe_view.default:
        return True  # a view, though its schema does not say so
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(
        r.alias_info is not None and not r.alias_info.is_write for r in schema.returns
    )
