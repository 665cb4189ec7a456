"""Drops rows of a product that nothing reads, such as the logits of each sequence's last token.

    x ── mm ── slice of the rows ── loss              x ── slice ── mm ── loss
    dx ── mm ── gradient, padded with zeros    ->     dx ── padded with zeros ── mm ── gradient

A slice mixes the rows of a batch of sequences, so they could not be cut into blocks. The rows pass
through the ops in between, and the rows of the padding remain zero in ops that are linear in it.
So these ops run on the rows that are left. Sums over the rows need no others either: a gradient
of a weight is mm(dy[rows].T, x[rows]).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from roam.passes.geometry import value
from roam.passes.graph_ops import is_zeros
from roam.passes.rewrites.split.blocks import Writer, sort
from roam.passes.rewrites.split.group import Group, reach
from roam.passes.rewrites.split.row_rules import Cuts
from roam.passes.rewrites.split.seeds import is_large, spans_of
from roam.passes.rewrites.split.spans import Span, cuttable, rows, shape
from roam.passes.rewrites.split.sum_rules import summed
from roam.passes.rewrites.split.tangents import is_linear

aten = torch.ops.aten


@dataclass
class Narrowing:
    """Ops that need to run on the rows from `start` to `stop`, exclusive, only.

    Attributes:
        group: the ops. Their results are what is sliced, and what is to be padded.
        start: the first row that is read.
        stop: the row behind the last one that is read.
        slices: the ops that take these rows out of a result.
        pads: the ops that pad these rows with zeros.
    """

    group: Group
    start: int
    stop: int
    slices: list[fx.Node]
    pads: Mapping[fx.Node, Span]


def narrow(seed: fx.Node) -> bool:
    """Drops the rows of an op's result that nothing reads. Returns whether there are such rows."""
    found = next(filter(None, (_narrowing(seed, span) for span in spans_of(seed))), None)
    if found is not None:
        _write(found)
    return found is not None


def _narrowing(seed: fx.Node, span: Span) -> Narrowing | None:
    """Returns how rows can be dropped, if they are the given ones; None if all are needed."""
    graph = seed.graph
    total = rows(shape(seed), span)
    spans = reach({seed: span}, lambda n: True)
    taken: dict[fx.Node, tuple[Span, int, int]] = {}
    for node in graph.nodes:
        if node.target is aten.slice.Tensor and node.args[0] in spans:
            its = _taken(node, node.args[1:])
            if its is not None and its[0] == spans[node.args[0]]:
                taken[node] = its
    if len(ranges := {its[1:] for its in taken.values()}) != 1:
        return None
    ((start, stop),) = ranges
    if not 0 < stop - start < total:
        return None
    pads: dict[fx.Node, Span] = {}
    for node in graph.nodes:
        if node.target is aten.slice_scatter.default and is_zeros(node.args[0]):
            its = _taken(node, node.args[2:])
            if its and its[1:] == (start, stop) and shape(node)[its[0].first] == total:
                pads[node] = its[0]
    spans = reach({seed: span, **pads}, lambda n: True)
    zero = _zero(seed, spans, pads)
    sums = {u: cuts for n in zero for u in n.users if (cuts := _sum(u, n, spans, zero))}
    inside = {*zero, *sums, *taken}
    for node in reversed(spans):
        if inside >= node.users.keys():
            inside.add(node)
    padded = [n for n in spans if n in zero and not inside >= n.users.keys()]
    if seed not in inside or any(is_large(n, seed) for n in padded):
        return None
    members = {n: its for n, its in spans.items() if n in inside and n not in pads}
    sliced: list[Any] = [n.args[0] for n in taken]
    results = list(dict.fromkeys((*sliced, *(n for n in padded if n in members))))
    return Narrowing(Group(seed, members, sums, results), start, stop, [*taken], pads)


def _zero(
    seed: fx.Node, spans: Mapping[fx.Node, Span], pads: Mapping[fx.Node, Span]
) -> set[fx.Node]:
    """Returns ops whose results are zero in all rows that are dropped.

    Begins with the ops that pad with zeros, and goes on through ops that are linear in those. Stops
    at the first small results: the layers before a product keep all rows.
    """
    zero = set(pads)
    for node in spans:  # in graph order
        if not zero.isdisjoint(node.all_input_nodes) and is_linear(node, zero):
            zero.add(node)
    kept: set[fx.Node] = set()
    for node in reversed([*spans]):
        if node in zero and (is_large(node, seed) or not kept.isdisjoint(node.users)):
            kept.add(node)
    behind = {n for n in zero if any(is_large(o, seed) and o in kept for o in n.all_input_nodes)}
    return kept | behind


def _taken(node: fx.Node, given: tuple[Any, ...]) -> tuple[Span, int, int] | None:
    """Returns which rows a slice takes or writes: the dimension, the first, and the one behind.

    Args:
        node: the op.
        given: its arguments that say so, from the dimension on. Some may be absent.

    Returns:
        None if the rows are not contiguous, or not known.
    """
    sizes = shape(node.args[0])  # type: ignore[arg-type]
    defaults: tuple[Any, ...] = (0, None, None, 1)
    dim, start, stop, step = given + defaults[len(given) :]
    known = all(isinstance(n, int | None) for n in (start, stop, step, sizes[dim]))
    if not known or step != 1:
        return None
    start, stop, _ = slice(start, stop).indices(sizes[dim])
    dim %= len(sizes)
    return Span(dim, dim + 1), start, stop


def _sum(
    user: fx.Node, node: fx.Node, spans: Mapping[fx.Node, Span], zero: set[fx.Node]
) -> Cuts | None:
    """Returns how an op adds over the rows of an op that is zero in those that are dropped."""
    cuts = None if user in spans else summed(user, node, spans[node])
    if cuts is None or not is_linear(user, zero):
        return None
    return cuts if all(spans.get(o, its) == its for o, its in cuts.items()) else None


def _write(found: Narrowing) -> None:
    group = found.group
    graph = group.seed.graph
    place = {n: i for i, n in enumerate(graph.nodes)}
    with graph.inserting_before(graph.output_node()):
        writer = Writer(group, None, None)
        sources: dict[fx.Node, Any] = {n: n.args[1] for n in found.pads}
        writer.add_block(0, found.start, found.stop, sources)
        instead = {n: writer.total(n) for n in group.sums}
        instead |= {n: writer.parts[n.args[0]][0] for n in found.slices}  # type: ignore[index]
        for node in group.results:
            if not {*group.members, *group.sums, *found.slices} >= node.users.keys():
                instead[node] = _padded(writer, node, found)
    for node, new in instead.items():
        node.replace_all_uses_with(new)
    old = {*group.members, *instead, *found.pads}
    old |= {o for n in old for o in n.all_input_nodes if is_zeros(o)}
    for node in reversed(graph.nodes):
        if node in old and not node.users:  # a small padded tensor may have other users
            graph.erase_node(node)
        place.setdefault(node, place[group.seed])
    sort(graph, place)


def _padded(writer: Writer, node: fx.Node, found: Narrowing) -> fx.Node:
    """Adds ops that pad the rows of a result with zeros."""
    span = found.group.members[node]
    sizes, _ = cuttable(shape(node), span, found.stop - found.start)
    part = writer.view(writer.parts[node][0], sizes)
    sizes, dim = cuttable(shape(node), span, rows(shape(node), span))
    how = {"dtype": value(node).dtype, "device": value(node).device}
    zeros = writer.add(node, aten.full.default, (sizes, 0), how)
    where = (dim, found.start * span.inner, found.stop * span.inner)
    whole = writer.add(node, aten.slice_scatter.default, (zeros, part, *where), {})
    return writer.view(whole, list(shape(node)))
