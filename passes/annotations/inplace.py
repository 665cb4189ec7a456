"""Marks which inputs a result may overwrite, if the op is the input's last reader.

An op may overwrite an input if it reads each element for the last time before it writes the
element at the same place. Pointwise ops do, and the CPU's softmax kernels over the last dim, which
read a whole row (its maximum, its sum) before they write it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from roam.passes import add_mm
from roam.passes.annotations import out_variants
from roam.passes.geometry import (
    fills_its_storage,
    same_layout,
    storage_key,
    tensor_inputs,
    tensors,
)
from roam.passes.rewrites import cross_entropy_backward

aten = torch.ops.aten
META = "roam_over"

POINTWISE: frozenset[Any] = frozenset(  # pointwise, though torch does not tag them so
    {
        aten.clone.default,
        aten._to_copy.default,
        aten.hardtanh_backward.default,
        aten.native_dropout.default,
        aten.masked_fill.Scalar,
        aten.masked_fill.Tensor,
        aten.relu.default,
    }
)
# Their out variants copy the first argument to the result before they read the others.
FIRST_ONLY: frozenset[Any] = frozenset(
    {add_mm.OP, aten.masked_fill.Scalar, aten.masked_fill.Tensor}
)
ROWWISE: dict[Any, int] = {  # op -> position of the argument `dim`
    aten._softmax.default: 1,
    aten._log_softmax.default: 1,
    aten._softmax_backward_data.default: 2,
    aten._log_softmax_backward_data.default: 2,
    cross_entropy_backward.OP: 7,
}


def _assumed(node: fx.Node, variant: out_variants.OutVariant, source: fx.Node) -> bool:
    return True


@dataclass(frozen=True)
class InPlace:
    """Sets `node.meta["roam_over"]` to the inputs that the first result may overwrite.

    Attributes:
        writes: whether the variant writes the op's result correctly over that input. The default
            assumes that it does.
    """

    writes: Callable[[fx.Node, out_variants.OutVariant, fx.Node], bool] = _assumed
    name: str = "inplace"

    def __call__(self, module: fx.GraphModule) -> int:
        found = 0
        for node in module.graph.nodes:
            node.meta.pop(META, None)
            if out_variants.META in node.meta and _reads_before_it_writes(node):
                variant = node.meta[out_variants.META]
                candidates = tuple(n for n in _overwritable(node) if self.writes(node, variant, n))
                if candidates:
                    node.meta[META] = candidates
                    found += 1
        return found


def _reads_before_it_writes(node: fx.Node) -> bool:
    if torch.Tag.pointwise in node.target.tags:  # type: ignore[union-attr]
        return True
    if node.target in POINTWISE or node.target is add_mm.OP:
        return True
    at = ROWWISE.get(node.target)
    if at is None:
        return False
    out = tensors(node)[0]
    return out.device.type == "cpu" and node.args[at] in (-1, out.dim() - 1)


def _overwritable(node: fx.Node) -> tuple[fx.Node, ...]:
    """Returns the inputs that have the result's layout and overlap no input of another layout."""
    result = tensors(node)[0]
    if result.is_complex():
        return ()  # complex division is vectorized only without overlap: the bits would differ
    inputs = list(tensor_inputs(node))
    fit = [n for n, t in inputs if same_layout(t, result) and fills_its_storage(t)]
    if node.target in FIRST_ONLY:
        fit = [n for n in fit if n is node.args[0] and _shares_nothing(n, node.args[1:])]
    return tuple(n for n in fit if _shared_alike(n, inputs))


def _shares_nothing(candidate: fx.Node, others: Sequence[Any]) -> bool:
    """Returns whether no other argument shares the candidate's memory."""
    memory = {storage_key(t) for n in others if isinstance(n, fx.Node) for t in tensors(n)}
    return storage_key(tensors(candidate)[0]) not in memory


def _shared_alike(candidate: fx.Node, inputs: list[tuple[fx.Node, torch.Tensor]]) -> bool:
    """Returns whether all inputs that share the candidate's memory have its layout."""
    mine = next(t for n, t in inputs if n is candidate)
    sharing = [t for _, t in inputs if storage_key(t) == storage_key(mine)]
    return all(same_layout(t, mine) for t in sharing)
