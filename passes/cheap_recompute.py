"""Chooses saved tensors that the backward recomputes by cheap ops from what is saved anyway.

    forward     h ──── gelu ──── y          backward     h ──── gelu ──── y' ── ...
                │ saved          │ saved                 │ saved
                v                v                       v

A partitioner that minimizes time saves both h, which gelu's derivative reads, and y, the operand of
a matrix product in the backward. Saving h is enough: y' costs one pointwise kernel.

The ops between what is saved and a dropped tensor are its *chain*. A chain consists of pointwise
ops, views and gathers, because Inductor computes those in one kernel. It contains no matrix
product, no random op and no reduction. If a chain reads a reduction's result that is not saved,
such as the mean of a layer norm, that result is saved instead of the tensor, provided that it is
much smaller.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from roam.passes.geometry import is_view, nbytes, value
from roam.passes.graph_ops import is_pure

aten, prims = torch.ops.aten, torch.ops.prims

# ops without a tag for it that Inductor computes in a pointwise kernel
POINTWISE = (
    aten.embedding.default,
    aten.full.default,
    aten.full_like.default,
    aten.gather.default,
    aten.index.Tensor,
    aten.scalar_tensor.default,
    prims.convert_element_type.default,
    prims.iota.default,
)


@dataclass(frozen=True)
class Chain:
    """What the backward does to have a dropped tensor again.

    Attributes:
        more: what else must be saved: inputs of the graph, and results smaller than the tensor.
        traffic: bytes that the chain reads and writes.
        gained: bytes of the tensor, less those of `more` that the forward makes.
    """

    more: tuple[fx.Node, ...]
    traffic: int
    gained: int

    @property
    def price(self) -> float:
        """Bytes of traffic for each byte that is not saved."""
        return self.traffic / self.gained


@dataclass(frozen=True)
class CheapRecompute:
    """Drops saved tensors that have a chain, the largest possible number of bytes.

    Attributes:
        target_bytes: how many bytes of tensors made by the forward may be saved; chains with the
            lowest price are preferred if not all of them are needed. None drops all it can.
        smallest: the fewest bytes of a tensor that are worth a kernel.
        most_reads: how many times a tensor's bytes its chain may read. Inductor would compute a
            chain that reads more in several kernels, with tensors between them.
        least_gain: the least share of a tensor's bytes to gain, given what is saved instead.
    """

    target_bytes: int | None = None
    smallest: int = 16 * 1024
    most_reads: int = 4
    least_gain: float = 0.75

    def choose(
        self,
        saved: Sequence[fx.Node],
        recomputable: Collection[fx.Node],
        kept: Iterable[fx.Node],
        written: Iterable[fx.Node],
    ) -> list[fx.Node]:
        """Returns what to save instead of `saved`, in the order of the graph.

        Args:
            saved: the values that a partitioner saves for the backward, in the order of the graph.
            recomputable: the nodes that the backward may run again if they are cheap.
            kept: values that stay alive until the backward in any case, such as the results of the
                forward; what shares their memory is not dropped.
            written: inputs of the graph that hold something else in the backward; no chain reads
                them.
        """
        if not saved:
            return []
        search = _Search(self, saved, recomputable, kept, frozenset(written))
        search.drop(frozenset())
        if self.target_bytes is not None:
            restored: set[fx.Node] = set()
            room = self.target_bytes - search.saved_bytes()
            by_price = sorted(search.dropped.items(), key=lambda d: d[1].price, reverse=True)
            for base, chain in by_price:
                if chain.gained <= room:
                    restored.add(base)
                    room -= chain.gained
            search = dataclasses.replace(search)
            search.drop(restored)
        return sorted(search.saved, key=search.position.__getitem__)


@dataclass
class _Search:
    """The values that are saved, while tensors are dropped one after the other.

    Attributes:
        saved: the values.
        dropped: the chains of the tensors dropped so far, by what makes the tensor.
    """

    limits: CheapRecompute
    given: Sequence[fx.Node]
    recomputable: Collection[fx.Node]
    kept: Iterable[fx.Node]
    written: frozenset[fx.Node]
    position: Mapping[fx.Node, int] = field(init=False)
    saved: set[fx.Node] = field(init=False)
    dropped: dict[fx.Node, Chain] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.given[0].graph
        self.position = {node: i for i, node in enumerate(graph.nodes)}
        self.saved = set(self.given)

    def saved_bytes(self) -> int:
        """Returns the bytes of saved tensors that the forward makes."""
        bases = {_base(n) for n in self.saved}
        return sum(nbytes(b) or 0 for b in bases if b.op != "placeholder")

    def drop(self, restored: Collection[fx.Node]) -> None:
        """Drops what has a chain, except `restored`.

        Goes through the tensors in the order in which the forward makes them: a chain reads tensors
        made before, so that no chain is broken by a later drop.
        """
        views: dict[fx.Node, list[fx.Node]] = {}
        for node in self.given:
            views.setdefault(_base(node), []).append(node)
        stays = {_base(n) for n in self.kept} | set(restored)
        for base in sorted(views.keys() - stays, key=self.position.__getitem__):
            size = nbytes(base)
            if base.op == "placeholder" or size is None or size < self.limits.smallest:
                continue
            self.saved -= set(views[base])
            chain = self.chain(views[base], size)
            if chain is None:
                self.saved |= set(views[base])
            else:
                self.saved |= set(chain.more)
                self.dropped[base] = chain

    def chain(self, wanted: Sequence[fx.Node], size: int) -> Chain | None:
        """Returns the chain of views of a tensor of `size` bytes; None if there is none."""
        bases = {_base(n) for n in self.saved}
        more: dict[fx.Node, None] = {}
        reads: dict[fx.Node, int] = {}
        pending, seen = list(wanted), set(wanted)
        while pending:
            node = pending.pop()
            if not self.runs_again(node):
                return None
            for source in node.all_input_nodes:
                available = source in self.saved or source.op == "get_attr"
                runs = self.runs_again(source) and _base(source) not in self.dropped
                if available or source in more or not runs:
                    if not self.holds_still(source):
                        return None
                    if not available:
                        more[source] = None
                    least = min(nbytes(source) or 0, nbytes(node) or size)
                    reads[source] = max(reads.get(source, 0), least)
                elif source not in seen:
                    seen.add(source)
                    pending.append(source)
        new = {_base(n) for n in more} - bases
        gained = size - sum(nbytes(b) or 0 for b in new if b.op != "placeholder")
        read = sum(reads.values())
        if read > self.limits.most_reads * size or gained < self.limits.least_gain * size:
            return None
        return Chain(tuple(more), read + size, gained)

    def runs_again(self, node: fx.Node) -> bool:
        return node in self.recomputable and is_cheap(node)

    def holds_still(self, node: fx.Node) -> bool:
        """Returns whether a value is a tensor of a known size that nothing changes."""
        known = isinstance(value(node), torch.Tensor) and nbytes(node) is not None
        return known and _base(node) not in self.written


def is_cheap(node: fx.Node) -> bool:
    """Returns whether a node is computed in a pointwise kernel, or is a view."""
    if node.op != "call_function":
        return False
    if node.target is operator.getitem:
        return is_view(node.args[0])  # type: ignore[arg-type]
    if not is_pure(node):
        return False
    target: Any = node.target
    return torch.Tag.pointwise in target.tags or target in POINTWISE or is_view(node)


def _base(node: fx.Node) -> fx.Node:
    """Returns the node that makes the tensor of which a node's result is a view; else the node."""
    while node.op == "call_function" and node.all_input_nodes:
        source = node.all_input_nodes[0]
        taken = node.target is operator.getitem and is_view(source)
        if not taken and not is_view(node):
            break
        node = source
    return node
