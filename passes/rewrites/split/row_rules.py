"""Tells how rows pass through each operator, and how the operator runs on a block of rows.

    rule       passes rows from operand to result      example
    ---------  --------------------------------------  ---------------------------------------
    Pointwise  dimension by dimension, broadcast       logits - amax
    View       if the new sizes keep the rows          (2, 32, 500) to (64, 500)
    Along      if the dims that it works along are     softmax, amax, gather and scatter in a row
               no rows
    Product    from the first factor's rows, the       x @ W
               second's columns, or the batch

Ops that add over the rows have no rule here: see `sum_rules`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import fx

from roam.passes.rewrites.split.spans import (
    Span,
    dim_in_block,
    in_block,
    is_tensor,
    shape,
    viewed,
)

aten = torch.ops.aten
prims = torch.ops.prims

Cuts = dict[fx.Node, Span]  # the operands that an op needs in blocks


class Block(Protocol):
    """A block of rows that is being written into a graph.

    Attributes:
        rows: the number of its rows.
    """

    rows: int

    def of(self, node: fx.Node) -> fx.Node:
        """Returns the block of an operand that is cut, or the operand itself."""
        ...

    def view(self, node: fx.Node, sizes: list[int]) -> fx.Node: ...


Call = tuple[Any, tuple[Any, ...], dict[str, Any]]  # operator, arguments, keyword arguments


class Rule(Protocol):
    """Tells how rows pass through one kind of operator, and how it runs on a block of them."""

    def result(self, node: fx.Node, operand: fx.Node, span: Span) -> Span | None:
        """Returns where the rows of an operand are in the result; None if they are mixed."""
        ...

    def operands(self, node: fx.Node, span: Span) -> Cuts | None:
        """Returns which operands give the rows of the result; None if that cannot be told."""
        ...

    def call(self, node: fx.Node, span: Span, block: Block) -> Call:
        """Returns the op on a block: its operator and arguments."""
        ...


def _arguments(node: fx.Node, block: Block, swap: Callable[[fx.Node], Any] | None = None) -> Call:
    args, kwargs = fx.map_arg((node.args, node.kwargs), swap or block.of)
    return node.target, args, dict(kwargs)


def _sizes(node: fx.Node) -> int:
    return len(shape(node))


class Pointwise:
    """Each element of the result depends on one element of each operand, after broadcasting."""

    def result(self, node: fx.Node, operand: fx.Node, span: Span) -> Span | None:
        found = span.moved(_sizes(node) - _sizes(operand))
        same = shape(operand)[span.first : span.end] == shape(node)[found.first : found.end]
        return found if same else None

    def operands(self, node: fx.Node, span: Span) -> Cuts | None:
        return broadcast(shape(node), span, [*filter(is_tensor, node.all_input_nodes)])

    def call(self, node: fx.Node, span: Span, block: Block) -> Call:
        behind = _sizes(node) - span.end
        cuts = self.operands(node, span) or {}

        def swap(operand: fx.Node) -> Any:
            if operand in cuts or not is_tensor(operand) or _sizes(operand) <= behind + 1:
                return block.of(operand)
            sizes = shape(operand)
            its = span.moved(_sizes(operand) - _sizes(node))
            merged = [*sizes[: max(its.first, 0)], 1, *sizes[its.end :]]
            return block.view(operand, merged)

        target, args, kwargs = _arguments(node, block, swap)
        if target is aten.expand.default:
            args = (args[0], in_block(shape(node), span, block.rows))
        return target, args, kwargs


def broadcast(sizes: tuple[int, ...], span: Span, operands: Sequence[fx.Node]) -> Cuts | None:
    """Returns which operands have the rows of a result of these sizes after broadcasting.

    Returns None if an operand is broadcast along a part of the rows.
    """
    cuts: Cuts = {}
    wanted = sizes[span.first : span.end]
    for operand in operands:
        its = span.moved(_sizes(operand) - len(sizes))
        there = shape(operand)[max(its.first, 0) : max(its.end, 0)]
        if all(size == 1 for size in there) and there != wanted:
            continue
        if its.first < 0 or there != wanted:
            return None
        cuts[operand] = its
    return cuts


class View:
    """The same elements in the same order, in other sizes."""

    def result(self, node: fx.Node, operand: fx.Node, span: Span) -> Span | None:
        return viewed(shape(operand), span, shape(node))

    def operands(self, node: fx.Node, span: Span) -> Cuts | None:
        operand: Any = node.args[0]
        its = viewed(shape(node), span, shape(operand))
        return None if its is None else {operand: its}

    def call(self, node: fx.Node, span: Span, block: Block) -> Call:
        operand: Any = node.args[0]
        sizes = in_block(shape(node), span, block.rows)
        return aten.reshape.default, (block.of(operand), sizes), {}


class Permute:
    def result(self, node: fx.Node, operand: fx.Node, span: Span) -> Span | None:
        order = self._order(node)
        first = order.index(span.first)
        there = order[first : first + len(span.dims)]
        return span.at(first) if there == [*span.dims] else None

    def operands(self, node: fx.Node, span: Span) -> Cuts | None:
        there = self._order(node)[span.first : span.end]
        its = span.at(there[0])
        return {node.args[0]: its} if there == [*its.dims] else None  # type: ignore[dict-item]

    def call(self, node: fx.Node, span: Span, block: Block) -> Call:
        operand: Any = node.args[0]
        cuts = self.operands(node, span) or {}
        its = cuts[operand]
        left = [d for d in self._order(node) if d == its.first or not its.holds(d)]
        inner = [d if d == its.first else dim_in_block(d, its) for d in left]
        return aten.permute.default, (block.of(operand), inner), {}

    @staticmethod
    def _order(node: fx.Node) -> list[int]:
        if node.target is aten.t.default:
            return [1, 0] if _sizes(node) == 2 else [0]
        dims: Any = node.args[1]
        return [d % _sizes(node) for d in dims]


@dataclass(frozen=True)
class Along:
    """Works along some dimensions, the same way in each row.

    Attributes:
        dim: position of the argument that names the dimensions.
        others: positions of further operands that are cut like the first one.
        keeps: whether the result has the dimensions that the op works along.
    """

    dim: int
    others: tuple[int, ...] = ()
    keeps: bool = True

    def result(self, node: fx.Node, operand: fx.Node, span: Span) -> Span | None:
        along = self.along(node)
        if operand not in [node.args[i] for i in (0, *self.others)]:
            return None
        if any(map(span.holds, along)):
            return None
        return span if self._keeps(node) else span.moved(-sum(d < span.first for d in along))

    def operands(self, node: fx.Node, span: Span) -> Cuts | None:
        along = self.along(node)
        its = span
        if not self._keeps(node):
            kept = [d for d in range(_sizes(node.args[0])) if d not in along]  # type: ignore[arg-type]
            there = kept[span.first : span.end]
            its = span.at(there[0])
            if there != [*its.dims]:
                return None
        if any(map(its.holds, along)):
            return None
        found: list[Any] = [node.args[i] for i in (0, *self.others)]
        same = {shape(n)[its.first : its.end] for n in found if is_tensor(n)}
        return {n: its for n in found if is_tensor(n)} if len(same) == 1 else None

    def call(self, node: fx.Node, span: Span, block: Block) -> Call:
        (its, *_) = (self.operands(node, span) or {}).values()
        target, args, kwargs = _arguments(node, block)
        number = _sizes(node.args[0])  # type: ignore[arg-type]
        args = tuple(
            _inner_dims(a, its, number) if i == self.dim else a for i, a in enumerate(args)
        )
        return target, args, kwargs

    def along(self, node: fx.Node) -> list[int]:
        """Returns the dimensions of the first operand that the op works along."""
        number = _sizes(node.args[0])  # type: ignore[arg-type]
        found: Any = node.args[self.dim] if len(node.args) > self.dim else None
        if found is None or found == []:
            return [*range(number)]
        return [d % number for d in ([found] if isinstance(found, int) else found)]

    def _keeps(self, node: fx.Node) -> bool:
        return self.keeps or _sizes(node) == _sizes(node.args[0])  # type: ignore[arg-type]


class SelectScatter:
    """Writes a tensor that lacks one dimension at an index of it: the backward of `select`."""

    def result(self, node: fx.Node, operand: fx.Node, span: Span) -> Span | None:
        dim = self._dim(node)
        its = span.moved(1) if operand is node.args[1] and span.first >= dim else span
        return None if its.holds(dim) else its

    def operands(self, node: fx.Node, span: Span) -> Cuts | None:
        dim = self._dim(node)
        whole, part, *_ = node.args
        if span.holds(dim):
            return None
        return {whole: span, part: span.moved(-1) if span.first > dim else span}  # type: ignore[dict-item]

    def call(self, node: fx.Node, span: Span, block: Block) -> Call:
        target, (whole, part, _, index), kwargs = _arguments(node, block)
        return target, (whole, part, dim_in_block(self._dim(node), span), index), kwargs

    @staticmethod
    def _dim(node: fx.Node) -> int:
        dim: Any = node.args[2]
        return dim % _sizes(node)


def _inner_dims(dims: Any, span: Span, number: int) -> Any:
    if isinstance(dims, int):
        return dim_in_block(dims % number, span)
    return [dim_in_block(d % number, span) for d in dims]


class Constant:
    """Makes a tensor of one value: a block of it has the block's sizes."""

    def result(self, node: fx.Node, operand: fx.Node, span: Span) -> Span | None:
        return None

    def operands(self, node: fx.Node, span: Span) -> Cuts | None:
        return {}

    def call(self, node: fx.Node, span: Span, block: Block) -> Call:
        sizes = in_block(shape(node), span, block.rows)
        return node.target, (sizes, *node.args[1:]), dict(node.kwargs)


@dataclass(frozen=True)
class Product:
    """A matrix product, of two matrices or of two batches of matrices.

    Attributes:
        first: position of the first factor. An operand before it is added to the product.
    """

    first: int = 0

    def result(self, node: fx.Node, operand: fx.Node, span: Span) -> Span | None:
        a, b = node.args[self.first : self.first + 2]
        last = _sizes(node) - 1
        for factor, dims in ((a, range(last)), (b, (*range(last - 1), last))):
            if operand is factor and all(d in dims for d in span.dims):
                return span if self.operands(node, span) is not None else None
        return None

    def operands(self, node: fx.Node, span: Span) -> Cuts | None:
        if len(span.dims) != 1:
            return None
        a, b = node.args[self.first : self.first + 2]
        if a is b:
            return None
        last, dim = _sizes(node) - 1, span.first
        cut: list[Any] = []
        cut += [a] if dim < last else []
        cut += [b] if dim == last or dim < last - 1 else []
        cuts: Cuts = dict.fromkeys(cut, span)
        added: list[Any] = [*node.args[: self.first]]
        others = broadcast(shape(node), span, added)
        return None if others is None else cuts | others

    def call(self, node: fx.Node, span: Span, block: Block) -> Call:
        return _arguments(node, block)


class Lookup:
    """Takes rows out of a table: `embedding`, or `index` with one tensor of indices."""

    def result(self, node: fx.Node, operand: fx.Node, span: Span) -> Span | None:
        indices = self._indices(node)
        return span if operand is indices and indices is not node.args[0] else None

    def operands(self, node: fx.Node, span: Span) -> Cuts | None:
        indices = self._indices(node)
        inside = indices is not None and span.end <= _sizes(indices)
        return {indices: span} if indices is not None and inside else None

    def call(self, node: fx.Node, span: Span, block: Block) -> Call:
        return _arguments(node, block)

    @staticmethod
    def _indices(node: fx.Node) -> fx.Node | None:
        given: Any = node.args[1]
        if node.target is aten.embedding.default:
            return given
        plain = isinstance(given, (list, tuple)) and len(given) == 1 and is_tensor(given[0])
        return given[0] if plain else None


class LossGradient:
    """The gradient of nll_loss in log-probabilities (rows, classes), for labels (rows,)."""

    def result(self, node: fx.Node, operand: fx.Node, span: Span) -> Span | None:
        cuts = self.operands(node, span) or {}
        return cuts.get(operand)

    def operands(self, node: fx.Node, span: Span) -> Cuts | None:
        above: Any = node.args[0]
        cut: list[Any] = [*node.args[1:3], *([above] if _sizes(above) else [])]
        return dict.fromkeys(cut, span) if span == Span(0, 1) and _sizes(node) == 2 else None

    def call(self, node: fx.Node, span: Span, block: Block) -> Call:
        return _arguments(node, block)
