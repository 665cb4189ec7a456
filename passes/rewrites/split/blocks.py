"""Writes a group into its graph as blocks of rows.

x ── mm ── logits ── ... ── gradient of the logits ──┬── mm ── gradient of x
                                                     └── mm ── gradient of W

x[:128]    ── mm ── ... ──┬── mm ────────────────────────────────┐
                          └── mm ─────────────────┐             cat ── gradient of x
x[128:256] ── mm ── ... ──┬── mm ─────────────────│──────────────┘
                          └── add_mm (adds to it) ┴── gradient of W
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import fx

from roam.passes import add_mm
from roam.passes.dependencies import needed_for
from roam.passes.geometry import value
from roam.passes.graph_ops import add_op
from roam.passes.rewrites.split.group import Group
from roam.passes.rewrites.split.row_rules import Constant
from roam.passes.rewrites.split.rule_table import rule
from roam.passes.rewrites.split.spans import Span, cuttable, in_block, rows, shape
from roam.passes.rewrites.split.sum_rules import sum_call, terms
from roam.passes.rewrites.split.tangents import Tangent

aten = torch.ops.aten
META = "split"  # key of node.meta: the block that an op belongs to, as a Label
# the group of ops that run in blocks, and the number of the block. The group is its number in the
# graph, or the name of a gradient that is folded in blocks (passes/fold_rows.py)
Label = tuple[int | str, int]
IN_FORWARD = "split_in_forward"  # key of node.meta: the forward makes this, and saves it
_CHECKPOINT = ("recompute", "ac_graph_id")  # keys of node.meta that ask for recomputation
_ROUNDED = (torch.float16, torch.bfloat16)  # dtypes in which a sum of many terms loses digits


def write(group: Group, counts: Sequence[int], tangent: Tangent | None) -> None:
    """Puts blocks in place of a group.

    Args:
        group: the group.
        counts: the number of rows of each block.
        tangent: the tangent of the loss, if forward and backward of a block run together.
    """
    graph = group.seed.graph
    place = {n: i for i, n in enumerate(graph.nodes)}
    of_blocks = place[group.seed]
    numbers: list[int] = [n.meta[META][0] for n in graph.nodes if META in n.meta]
    with graph.inserting_before(graph.output_node()):
        writer = Writer(group, tangent, 1 + max(numbers, default=-1))
        # What the blocks wait for runs before them. Then each block is complete before the next
        # begins, and no op of the backward comes between them.
        for node in needed_for(map(writer.of, group.inputs)):
            place[node] = min(place.get(node, of_blocks), of_blocks)
        for k, (start, stop) in enumerate(pairwise([0, *accumulate(counts)])):
            writer.add_block(k, start, stop)
        whole = writer.results()
        for node in [n for n in graph.nodes if n not in place]:
            place[node] = of_blocks
        for node, result in whole.items():
            if tangent is not None and node in tangent.dependent:
                result.meta[IN_FORWARD] = True
                whole[node] = tangent.times(writer, node, result)
        late = max((place[n] for n in whole), default=of_blocks)
        for node in [n for n in graph.nodes if n not in place]:
            place[node] = late
    for node, result in whole.items():
        node.replace_all_uses_with(result)
    for node in reversed(graph.nodes):
        if node in group.members or node in group.sums:
            graph.erase_node(node)
    sort(graph, place)


class Writer:
    """Adds the blocks of a group to a graph.

    Args:
        group: the group.
        tangent: the tangent of the loss, if forward and backward of a block run together.
        number: the number of the group in its graph, if it is run in blocks. The backward of a
            group without a number stays in the backward.

    Attributes:
        rows: the number of rows of the block that is being added.
    """

    rows: int

    def __init__(self, group: Group, tangent: Tangent | None, number: int | None) -> None:
        self.group, self.graph, self.number = group, group.seed.graph, number
        self.label: Label | None = None
        self.parts: dict[fx.Node, list[fx.Node]] = {n: [] for n in group.results}
        self.sums: dict[fx.Node, fx.Node] = {}
        self.merged: dict[tuple[fx.Node, Span], fx.Node] = {}
        self.operands: dict[fx.Node, fx.Node] = {}
        ones = {} if tangent is None else tangent.at_one(self, group.inputs)
        self.instead: Mapping[fx.Node, fx.Node] = ones

    def add_block(
        self, k: int, start: int, stop: int, known: Mapping[fx.Node, fx.Node] | None = None
    ) -> None:
        """Adds the ops of block k.

        Args:
            k: the number of the block.
            start: the first of its rows.
            stop: the row behind its last one.
            known: blocks of operands that exist already.
        """
        self.rows = stop - start
        self.label = None if self.number is None else (self.number, k)
        made = dict(known or {})
        for node, span in self.group.members.items():
            its = rule(node)
            assert its is not None
            cuts = its.operands(node, span) or {}
            self.operands = {o: made.get(o) or self.rows_of(o, s, start) for o, s in cuts.items()}
            made[node] = self.add(node, *its.call(node, span, self))
            if node in self.parts:
                self.parts[node].append(made[node])
        for node in self.group.sums:
            self.add_sum(node, made, start)
        self.label = None

    def add_sum(self, node: fx.Node, made: Mapping[fx.Node, fx.Node], start: int) -> None:
        """Adds what an op gives for the rows of a block to what it gave for those before."""
        cuts = self.group.sums[node]
        blocks = {o: made.get(o) or self.rows_of(o, s, start) for o, s in cuts.items()}
        target, args, kwargs = sum_call(node, cuts, blocks)
        before = self.sums.get(node)
        if target is not aten.mm.default and value(node).dtype in _ROUNDED:
            kwargs["dtype"] = torch.float32
        if before is not None and target is aten.mm.default:
            self.sums[node] = self.add(node, add_mm.OP, (before, *args), {})
            return
        part = self.add(node, target, args, kwargs)
        if before is not None:
            part = self.add(node, aten.add.Tensor, (before, part), {})
        self.sums[node] = part

    def results(self) -> dict[fx.Node, fx.Node]:
        """Adds what joins the blocks. Returns the whole of each result, by the op it stands for."""
        found: dict[fx.Node, fx.Node] = {}
        for node, parts in self.parts.items():
            span = self.group.members[node]
            cut = [cuttable(shape(node), span, shape(p)[span.first] // span.per_row) for p in parts]
            parts = [self.view(p, sizes) for p, (sizes, _) in zip(parts, cut, strict=True)]
            whole = self.add(node, aten.cat.default, (parts, cut[0][1]), {})
            found[node] = self.view(whole, list(shape(node)))
        return found | {node: self.total(node) for node in self.sums}

    def total(self, node: fx.Node) -> fx.Node:
        """Adds what makes the result of an op of its sum over all blocks. Returns the result."""
        total, dtype, count = self.sums[node], value(node).dtype, terms(node)
        if count > 1:
            total = self.add(node, aten.div.Tensor, (total, count), {})
        if value(total).dtype != dtype:
            total = self.add(node, torch.ops.prims.convert_element_type.default, (total, dtype), {})
        return self.view(total, list(shape(node)))

    def of(self, node: fx.Node) -> fx.Node:
        return self.operands.get(node) or self.instead.get(node, node)

    def view(self, node: fx.Node, sizes: list[int]) -> fx.Node:
        source = self.of(node)
        if list(shape(source)) == sizes:
            return source
        return self.add(node, aten.reshape.default, (source, sizes), {})

    def rows_of(self, node: fx.Node, span: Span, start: int) -> fx.Node:
        """Adds an op that takes the rows of the block, from `start` on, out of an operand."""
        its = rule(node)
        if isinstance(its, Constant):
            return self.add(node, *its.call(node, span, self))
        if (node, span) not in self.merged:
            sizes, _ = cuttable(shape(node), span, rows(shape(node), span))
            label, self.label, self.operands = self.label, None, {}
            self.merged[node, span] = self.view(node, sizes)
            self.label = label
        source = self.merged[node, span]
        _, dim = cuttable(shape(node), span, self.rows)
        part = (dim, start * span.inner, (start + self.rows) * span.inner)
        block = self.add(node, aten.slice.Tensor, (source, *part), {})
        return self.view(block, in_block(shape(node), span, self.rows))

    def add(
        self, like: fx.Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> fx.Node:
        """Adds an op to the graph.

        Args:
            like: the op whose name, module and stack trace it gets.
            target: the operator.
            args: its arguments.
            kwargs: its keyword arguments.
        """
        made = add_op(like, target, *args, name=like.name, **kwargs)
        if self.number is not None:
            made.meta = {k: v for k, v in made.meta.items() if k not in _CHECKPOINT}
            of_seed = self.group.seed.meta.get("partitioner_tag", "is_forward")
            made.meta["partitioner_tag"] = of_seed
        if self.label is not None:
            made.meta[META] = self.label
        return made


def sort(graph: fx.Graph, place: Mapping[fx.Node, int]) -> None:
    """Puts the ops of a graph in an order in which each follows its operands.

    Args:
        graph: the graph.
        place: by op, a number. Of the ops that could run next, the one with the lowest number does.
            Ops of one number keep their order.
    """
    index = {n: i for i, n in enumerate(graph.nodes)}
    left = {n: len(n.all_input_nodes) for n in graph.nodes}
    ready = [(place[n], i, n) for n, i in index.items() if not left[n]]
    heapify(ready)
    output = graph.output_node()
    while ready:
        _, _, node = heappop(ready)
        if node is not output:
            output.prepend(node)
        for user in node.users:
            left[user] -= 1
            if not left[user]:
                heappush(ready, (place[user], index[user], user))
