"""Tells which saved tensors the backward recomputes for next to nothing, with the same bits.

    forward     h ──── gelu ──── y          backward     h ──── gelu ──── y' ── ...
                │ saved                                  │ saved

To keep y smaller gains nothing: h is saved anyway, and y costs one pointwise kernel. If h is kept
smaller, y is made of what is restored of h, or is saved itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from roam.passes.cheap_recompute import is_cheap
from roam.passes.geometry import value
from roam.passes.rewrites.saved.tensors import SavedTensor, base_of, size_of

aten = torch.ops.aten
NORMS = (aten.native_layer_norm.default, aten._fused_rms_norm.default)  # of ATen's kernels
LITTLE = 4  # what else the forward saves for a chain is so many times smaller than its result
MOST_READS = 4  # a chain reads at most so many times the bytes of its result


@dataclass(frozen=True)
class Chain:
    """How the backward makes a tensor again.

    Attributes:
        ops: what runs again, in the order of the graph.
        sources: the saved tensors that it reads.
    """

    ops: tuple[fx.Node, ...]
    sources: tuple[fx.Node, ...]


@dataclass(frozen=True)
class ExactRecompute:
    """What is recomputed without being asked for.

    Attributes:
        smallest: the fewest bytes of a tensor that is recomputed for an op that cannot be fused
            with what makes it, such as a matrix product; None if no tensor is.
        smallest_norm: the same of a tensor that a norm's own kernel makes.
        fuses: whether pointwise ops of the backward recompute what they read in their own kernel.
    """

    smallest: int | None = None
    smallest_norm: int | None = None
    fuses: bool = False

    def chains(self, saved: Sequence[SavedTensor]) -> Mapping[fx.Node, Chain]:
        """Returns by node the chains of those of the saved tensors that are recomputed."""
        if not saved:
            return {}
        found: dict[fx.Node, Chain] = {}
        order = {n: i for i, n in enumerate(saved[0].node.graph.nodes)}
        for tensor in saved:
            if tensor.returned or tensor.is_checkpointed or not self.is_wanted(tensor):
                continue
            kept = {t.node for t in saved} - found.keys() - {tensor.node}
            chain = _chain(tensor, kept, order)
            if chain is not None and self.is_cheap_enough(chain, tensor):
                found[tensor.node] = chain
        return found

    def is_wanted(self, tensor: SavedTensor) -> bool:
        if self.smallest is not None and tensor.bytes >= self.smallest:
            return True
        return self.fuses and all(is_cheap(r.op) for r in tensor.readers)

    def is_cheap_enough(self, chain: Chain, tensor: SavedTensor) -> bool:
        has_norm = any(op.target in NORMS for op in chain.ops)
        least = self.smallest_norm
        return not has_norm or (least is not None and tensor.bytes >= least)


def _chain(tensor: SavedTensor, kept: set[fx.Node], order: Mapping[fx.Node, int]) -> Chain | None:
    """Returns the chain of a tensor, or None. `kept` are tensors that are saved."""
    ops: set[fx.Node] = set()
    sources: dict[fx.Node, None] = {}
    read: dict[fx.Node, int] = {}
    pending = [tensor.node]
    while pending:
        node = pending.pop()
        if node in ops:
            continue
        if node.op != "call_function" or (node is not tensor.node and base_of(node) in kept):
            found = value(node)
            if isinstance(found, torch.Tensor):
                read[base_of(node)] = min(size_of(found), tensor.bytes)
            if node.op == "call_function":
                sources[base_of(node)] = None
        elif _runs_again(node):
            ops.add(node)
            pending += node.all_input_nodes
        elif node is not tensor.node and LITTLE * _bytes(node) <= tensor.bytes:
            read[node] = _bytes(node)  # saved for the chain
        else:
            return None
    if sum(read.values()) > MOST_READS * tensor.bytes:
        return None
    return Chain(tuple(sorted(ops, key=order.__getitem__)), tuple(sources))


def _runs_again(node: fx.Node) -> bool:
    if is_cheap(node) or node.target in NORMS:
        return True
    source = node.args[0] if node.args else None
    return isinstance(source, fx.Node) and source.target in NORMS


def _bytes(node: fx.Node) -> int:
    found = value(node)
    return size_of(found) if isinstance(found, torch.Tensor) else 0
