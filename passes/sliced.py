"""Computes a slice of a result without the rest, from slices of what it is computed from.

    dW = mm(g, x)                        dW[a:b] = mm(g[a:b], x)
    both = index_put(dW, ids, v)         both[a:b] = index_put(dW[a:b], ids - a, those v with
                                                               a <= ids < b)

`operands` returns, for an op and a dimension of its result, the dimension along which each operand
is sliced. If only this op reads an operand, and its op can be sliced too, the operand's slice is
computed in the same way. Any other operand is computed whole, and the op reads a view of a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from roam.passes import add_mm
from roam.passes.geometry import value
from roam.passes.graph_ops import add_number, add_op, is_pure
from roam.passes.scatters import MASKED, SCATTERS, scatter

aten, prims = torch.ops.aten, torch.ops.prims

Along = int | None  # the dimension along which an operand is sliced; None: it is used whole
Operands = dict[fx.Node, Along] | None  # None: no slice can be computed alone
CASTS = (prims.convert_element_type.default, aten._to_copy.default)
RESHAPES = (aten.view.default, aten._unsafe_view.default, aten.reshape.default)
EMBEDDING = aten.embedding_dense_backward.default


def operands(node: fx.Node, dim: int) -> Operands:
    """Returns how the operands of an op are sliced if its result is sliced along `dim`.

    Returns None if the op cannot compute a slice alone, or nothing is known of it.
    """
    find = _RULES.get(node.target)
    if find is None and isinstance(node.target, torch._ops.OpOverload):
        pointwise = torch.Tag.pointwise in node.target.tags or node.target in CASTS
        find = _of_pointwise if pointwise and is_pure(node) else None
    return None if find is None else find(node, dim)


@dataclass(frozen=True)
class Sliced:
    """A result of which slices are computed one after another.

    Attributes:
        node: the op that makes it.
        dim: the dimension along which it is sliced.
        along: by operand, the dimension along which it is sliced; None: it is used whole.
        parts: the operands that are computed in slices, too.
    """

    node: fx.Node
    dim: int
    along: dict[fx.Node, Along]
    parts: dict[fx.Node, Sliced]

    @staticmethod
    def of(node: fx.Node, dim: int) -> Sliced | None:
        """Returns how slices of a result are computed; None if its op can only compute it whole."""
        along = operands(node, dim)
        if along is None:
            return None
        parts: dict[fx.Node, Sliced] = {}
        for operand, own in along.items():
            part = Sliced.of(operand, own) if own is not None and len(operand.users) == 1 else None
            if part is not None:
                parts[operand] = part
        return Sliced(node, dim, along, parts)

    @property
    def sources(self) -> list[fx.Node]:
        """The operands that exist whole."""
        return [operand for operand in self.along if operand not in self.parts]

    @property
    def added(self) -> fx.Node | None:
        """The rows that a scatter adds: each slice makes a tensor as large; None for other ops."""
        if self.node.target is EMBEDDING:
            return self.node.args[0]  # type: ignore[return-value]
        found = scatter(self.node)
        return None if found is None else found.added

    def all_parts(self) -> Iterator[Sliced]:
        """Yields this result and all that is computed in slices for it."""
        yield self
        for part in self.parts.values():
            yield from part.all_parts()

    def write(self, start: int, stop: int) -> fx.Node:
        """Adds the ops that compute the slice [start, stop), and returns the last one."""

        def given(operand: fx.Node) -> fx.Node:
            if operand in self.parts:
                return self.parts[operand].write(start, stop)
            own = self.along.get(operand)
            if own is None:
                return operand
            return add_op(self.node, aten.slice.Tensor, operand, own, start, stop)

        how = _WRITERS.get(self.node.target, _written_alike)
        return how(self.node, self.dim, (start, stop), given)


# ---- how operands are sliced ----


def _of_mm(node: fx.Node, dim: int) -> Operands:
    a, b = node.args
    return _apart((a, 0 if dim == 0 else None), (b, 1 if dim == 1 else None))


def _of_add_mm(node: fx.Node, dim: int) -> Operands:
    acc, a, b = node.args
    return _apart((acc, dim), (a, 0 if dim == 0 else None), (b, 1 if dim == 1 else None))


def _of_bmm(node: fx.Node, dim: int) -> Operands:
    a, b = node.args
    return _apart((a, (0, 1, None)[dim]), (b, (0, None, 2)[dim]))


def _apart(*along: tuple[Any, Along]) -> Operands:
    """Returns operands that are sliced differently; None if one is given twice."""
    found = dict(along)
    return found if len(found) == len(along) else None


def _of_permute(node: fx.Node, dim: int) -> Operands:
    source, dims = node.args
    return {source: dims[dim] % len(dims)}  # type: ignore[arg-type, dict-item, index, operator]


def _of_t(node: fx.Node, dim: int) -> Operands:
    (source,) = node.args
    return {source: 1 - dim}  # type: ignore[dict-item]


def _of_reshape(node: fx.Node, dim: int) -> Operands:
    source: Any = node.args[0]
    before, after = value(source).shape, value(node).shape
    same = dim == 0 and len(before) > 0 and before[0] == after[0]
    return {source: 0} if same else None


def _of_scatter(node: fx.Node, dim: int) -> Operands:
    """Slices `acc` only: any of the rows to add may belong to any row of `acc`."""
    found = scatter(node)
    if dim != 0 or found is None or len(found.indices) != 1 or found.indices[0] is None:
        return None
    ids, added = value(found.indices[0]), value(found.added)
    if ids.dtype not in (torch.int32, torch.int64):
        return None
    if added.shape != (*ids.shape, *value(found.acc).shape[1:]):
        return None  # rows that are broadcast
    return {**dict.fromkeys(node.all_input_nodes), found.acc: 0}


def _of_embedding(node: fx.Node, dim: int) -> Operands:
    """Slices no operand: any row of the operand may belong to any row of the gradient."""
    by_frequency = len(node.args) > 4 and node.args[4]
    gradient = value(node)
    # other devices add up 16-bit rows in float32, which a scatter does not
    rounds = gradient.dtype.itemsize < 4 and gradient.device.type != "cpu"
    return None if dim != 0 or by_frequency or rounds else dict.fromkeys(node.all_input_nodes)


def _of_full(node: fx.Node, dim: int) -> Operands:
    return {}


def _of_pointwise(node: fx.Node, dim: int) -> Operands:
    result: Tensor = value(node)
    found: dict[fx.Node, Along] = {}
    for operand in node.all_input_nodes:
        given = value(operand)
        if not isinstance(given, Tensor):
            return None
        own = dim - (result.dim() - given.dim())
        found[operand] = own if own >= 0 and given.shape[own] != 1 else None
    return found


_RULES: dict[Any, Callable[[fx.Node, int], Operands]] = {
    aten.mm.default: _of_mm,
    add_mm.OP: _of_add_mm,
    aten.bmm.default: _of_bmm,
    aten.permute.default: _of_permute,
    aten.t.default: _of_t,
    aten.full.default: _of_full,
    EMBEDDING: _of_embedding,
    **dict.fromkeys(RESHAPES, _of_reshape),
    **dict.fromkeys(SCATTERS, _of_scatter),
}


# ---- how the op of a slice is written ----

Given = Callable[[fx.Node], fx.Node]  # returns the slice of an operand, or the operand itself
Block = tuple[int, int]  # the slice [start, stop)


def _written_alike(node: fx.Node, dim: int, block: Block, given: Given) -> fx.Node:
    args: Any
    kwargs: Any
    args, kwargs = fx.map_arg((node.args, node.kwargs), given)
    return add_op(node, node.target, *args, **kwargs)


def _write_full(node: fx.Node, dim: int, block: Block, given: Given) -> fx.Node:
    kwargs: Any = node.kwargs
    return add_op(node, node.target, _sizes(node, dim, block), *node.args[1:], **kwargs)


def _write_reshape(node: fx.Node, dim: int, block: Block, given: Given) -> fx.Node:
    source: Any = node.args[0]
    return add_op(node, node.target, given(source), _sizes(node, dim, block))


def _write_scatter(node: fx.Node, dim: int, block: Block, given: Given) -> fx.Node:
    found = scatter(node)
    assert found is not None
    [ids] = found.indices
    assert ids is not None
    op = aten._unsafe_index_put.default if node.target is MASKED else node.target
    return _add_rows(node, given(found.acc), ids, found.added, block, op, found.flags)


def _write_embedding(node: fx.Node, dim: int, block: Block, given: Given) -> fx.Node:
    rows: Any = node.args[0]
    ids: Any = node.args[1]
    how = {"dtype": value(node).dtype, "device": value(node).device}
    zeros = add_op(node, aten.full.default, _sizes(node, dim, block), 0, **how)
    padding: Any = node.args[3]
    flags = add_op(node, aten.ne.Scalar, ids, padding) if padding >= 0 else None
    return _add_rows(node, zeros, ids, rows, block, aten.index_put.default, flags)


def _add_rows(
    near: fx.Node,
    acc: fx.Node,
    ids: fx.Node,
    rows: fx.Node,
    block: Block,
    op: Any,
    flags: fx.Node | None = None,
) -> fx.Node:
    """Adds rows to those rows of a block that `ids` name; adds zeros for ids of other blocks.

    near: the op that makes the whole result.
    flags: which rows are added; None for all.
    """
    start, stop = block
    total = value(near).shape[0]
    from_end = add_op(near, aten.lt.Scalar, ids, 0)
    at = add_op(near, aten.sub.Tensor, ids, start)
    at = add_op(near, aten.where.self, from_end, add_op(near, aten.add.Tensor, at, total), at)
    above = add_op(near, aten.ge.Scalar, at, 0)
    inside = add_op(near, aten.lt.Scalar, at, stop - start)
    inside = add_op(near, aten.logical_and.default, inside, above)
    at = add_op(near, aten.where.self, inside, at, add_number(near, 0, ids))
    inside = _for_each(inside, rows)
    if flags is not None:
        inside = add_op(near, aten.logical_and.default, inside, _for_each(flags, rows))
    added = add_op(near, aten.where.self, inside, rows, add_number(near, 0, rows))
    return add_op(near, op, acc, [at], added, True)


def _for_each(flags: fx.Node, rows: fx.Node) -> fx.Node:
    """Gives flags, one for each row, trailing dimensions of size 1 until they fit `rows`."""
    for _ in range(value(rows).dim() - value(flags).dim()):
        flags = add_op(flags, aten.unsqueeze.default, flags, -1)
    return flags


def _sizes(node: fx.Node, dim: int, block: Block) -> list[int]:
    sizes = list(value(node).shape)
    sizes[dim] = block[1] - block[0]
    return sizes


_WRITERS: dict[Any, Callable[[fx.Node, int, Block, Given], fx.Node]] = {
    aten.full.default: _write_full,
    EMBEDDING: _write_embedding,
    **dict.fromkeys(RESHAPES, _write_reshape),
    **dict.fromkeys(SCATTERS, _write_scatter),
}
