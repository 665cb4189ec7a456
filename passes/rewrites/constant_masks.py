"""Replaces the mask of an attention by a flag, if the mask is the causal one or masks nothing.

    i ≤ j, [T, T] ── 0 or -inf, [T, T] ──┐
                            q, k, v ── attention           q, k, v ── attention(is_causal=True)

Libraries write the mask into the graph because, while they are traced, they cannot tell its values.
It has T² numbers, which the forward makes, every layer reads and the backward keeps. With the flag
the kernel skips masked scores, and gives the same bits. Whether a mask is the causal one is not
guessed from the ops that make it: the mask is computed, some rows at a time, if none of these ops
reads an input of the graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import _disable_current_modes

from roam.passes.dependencies import needed_for
from roam.passes.geometry import value
from roam.passes.graph_ops import frozen, is_pure

aten, prims = torch.ops.aten, torch.ops.prims

# by operator, the positions of the query, which the key follows, and of the flag
POSITIONS: dict[Any, tuple[int, int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu.default: (0, 4),
    aten._scaled_dot_product_flash_attention_for_cpu_backward.default: (1, 7),
}
AT_ONCE = 2**22  # limit on the elements of a mask that are computed at a time

# ops that keep the last two dims of their operand: rows of the result are rows of the operand
SAME_ROWS = (aten.expand.default, aten.clone.default, aten.alias.default, aten.detach.default)


class NotConstantError(Exception):
    """A value depends on inputs, or on an op that cannot be computed some rows at a time."""


@dataclass(frozen=True)
class ConstantMasks:
    """The rewrite. `at_once` limits the elements of a mask that are computed at a time."""

    at_once: int = AT_ONCE
    name: str = "constant_masks"

    def __call__(self, module: fx.GraphModule) -> int:
        masked = _masked(module.graph)
        if not masked:
            return 0
        alike = _first_alike(module.graph)
        distinct = {alike[mask]: None for mask in masked.values()}
        flags = {first: causal(first, self.at_once) for first in distinct}
        changed = sum(_without_mask(node, flags[alike[mask]]) for node, mask in masked.items())
        for mask in masked.values():
            _drop_unused(mask)
        if changed:
            module.recompile()
        return changed


def _masked(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Returns the masks of attentions that have one of static shape and no flag."""
    found: dict[fx.Node, fx.Node] = {}
    for target in POSITIONS:
        for node in graph.find_nodes(op="call_function", target=target):
            mask = node.kwargs.get("attn_mask")
            if isinstance(mask, fx.Node) and not _is_causal(node) and _is_static(mask):
                found[node] = mask
    return found


def _first_alike(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Returns for each node the first that computes the same: each layer may make its own mask."""
    first: dict[Any, fx.Node] = {}
    found: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        key: Any = node
        if is_pure(node):
            key = (node.target, frozen(node.args, found), frozen(node.kwargs, found))
        found[node] = first.setdefault(key, node)
    return found


def causal(mask: fx.Node, at_once: int = AT_ONCE) -> bool | None:
    """Returns True for the causal mask, False for one that masks nothing, None for any other.

    Args:
        mask: [..., T, S], is added to the scores.
        at_once: limit on the elements that are computed at a time.
    """
    may_be = {True, False}
    try:
        with _disable_current_modes(), torch.no_grad():
            for start, rows in Rows(mask, at_once).blocks():
                size, columns = rows.shape[-2:]
                ours = torch.arange(start, start + size).unsqueeze(-1)
                sees = torch.arange(columns) <= ours
                expected = torch.where(sees, 0.0, -torch.inf).to(rows.dtype)
                may_be -= {True} if bool((rows != expected).any()) else set()
                may_be -= {False} if bool((rows != 0).any()) else set()
                if not may_be:
                    return None
    except NotConstantError:
        return None
    return False not in may_be  # a mask of one element may be both: nothing is masked


class Rows:
    """Computes a constant of a graph, some rows of the last dim but one at a time.

    Args:
        mask: the constant, [..., T, S].
        at_once: limit on the elements that are computed at a time.
    """

    def __init__(self, mask: fx.Node, at_once: int = AT_ONCE) -> None:
        self.mask, self.at_once, self.known = mask, at_once, dict[fx.Node, Tensor]()
        self.rows = value(mask).shape[-2]

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yields (number of a first row, rows) until all rows were yielded."""
        shape = value(self.mask).shape
        step = max(1, self.at_once // max(1, shape[-1]))
        for start in range(0, self.rows, step):
            stop = min(start + step, self.rows)
            rows = self.part(self.mask, start, stop)
            yield start, rows.expand(*rows.shape[:-2], stop - start, shape[-1])

    def part(self, node: fx.Node, start: int, stop: int) -> Tensor:
        """Returns the rows start to stop of a value that is broadcast to the mask's shape.

        A value with one row is the same for all rows of the mask, and is returned whole.
        """
        if value(node).numel() <= self.at_once // 4:
            found = self.whole(node)
            has_rows = found.dim() > 1 and found.shape[-2] == self.rows
            return found[..., start:stop, :] if has_rows else found
        target: Any = node.target
        if target in SAME_ROWS or self._adds_a_dim(node):
            (source,) = node.all_input_nodes
            return self.part(source, start, stop)
        if target is aten.full.default and value(node).dim() > 1:
            fill: Any = node.args[1]
            return torch.full((stop - start, 1), fill, dtype=value(node).dtype)
        if not is_pure(node) or not _is_pointwise(target):
            raise NotConstantError(node.name)
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self.part(n, start, stop))
        result: Tensor = target(*args, **kwargs)
        return result

    def whole(self, node: fx.Node) -> Tensor:
        """Returns a small value."""
        if node not in self.known:
            if not is_pure(node) or value(node).numel() > self.at_once // 4:
                raise NotConstantError(node.name)
            args, kwargs = fx.map_arg((node.args, node.kwargs), self.whole)
            self.known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return self.known[node]

    def _adds_a_dim(self, node: fx.Node) -> bool:
        """Returns whether a value has the rows of its operand, and one dim more in front."""
        if node.target is not aten.unsqueeze.default:
            return False
        dim = node.args[1]
        return isinstance(dim, int) and dim % value(node).dim() < value(node).dim() - 2


def _is_pointwise(target: Any) -> bool:
    return torch.Tag.pointwise in target.tags or target is prims.convert_element_type.default


def _is_causal(node: fx.Node) -> bool:
    _, flag = POSITIONS[node.target]
    given = node.args[flag] if len(node.args) > flag else node.kwargs.get("is_causal")
    return bool(given)


def _is_static(mask: fx.Node) -> bool:
    found = value(mask)
    known = isinstance(found, Tensor) and found.dim() > 1 and found.is_floating_point()
    return known and all(isinstance(n, int) for n in found.shape)


def _without_mask(node: fx.Node, causal: bool | None) -> bool:
    """Takes the mask from an attention. Returns whether it did."""
    query, flag = POSITIONS[node.target]
    operands: Any = node.args[query : query + 2]
    tokens, seen = (value(n).shape[-2] for n in operands)
    if causal is None or (causal and tokens != seen):
        return False
    kwargs = {k: v for k, v in node.kwargs.items() if k != "attn_mask"}
    if len(node.args) > flag:
        node.update_arg(flag, causal)
    else:
        kwargs["is_causal"] = causal
    node.kwargs = kwargs
    return True


def _drop_unused(mask: fx.Node) -> None:
    """Erases a mask that nothing reads any more, and what only it reads."""
    constant = needed_for([mask])
    for node in [n for n in reversed(mask.graph.nodes) if n in constant]:
        if node.op == "call_function" and not node.users:
            node.graph.erase_node(node)
