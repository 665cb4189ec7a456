"""Finds ops whose result is much larger than the rows that they read: seeds of groups."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from torch import fx

from roam.passes.geometry import nbytes
from roam.passes.rewrites.split.row_rules import View
from roam.passes.rewrites.split.rule_table import rule
from roam.passes.rewrites.split.spans import Span, located, shape

aten = torch.ops.aten

SEEDS = (aten.mm.default, aten.addmm.default)
# A tensor is large if it has more bytes than the rows that the seed reads, and at least this part
# of the seed's bytes: it may have a shorter dtype.
LARGE = 1 / 4


def known_bytes(node: fx.Node) -> int:
    """Returns the bytes of what an op makes, views included; 0 if they are not known."""
    return nbytes(node) or 0


def seeds(graph: fx.Graph, smallest: int, amplifies: float) -> Iterator[fx.Node]:
    """Yields ops whose result is much larger than the rows they read, largest first.

    Args:
        graph: the graph.
        smallest: bytes of the smallest result that counts.
        amplifies: the least ratio of the bytes of the result to those of the rows.
    """
    found = [
        n
        for n in graph.nodes
        if n.target in SEEDS
        and all(isinstance(s, int) for s in shape(n))
        and known_bytes(n) >= smallest
    ]
    for node in sorted(found, key=known_bytes, reverse=True):
        if known_bytes(node) >= amplifies * known_bytes(rows_read(node)):
            yield node


def rows_read(seed: fx.Node) -> fx.Node:
    """Returns the operand whose rows become those of a seed: the first factor of a product."""
    read: Any = seed.args[-2]
    return read


def is_large(node: fx.Node, seed: fx.Node) -> bool:
    """Returns whether an op's result is as large as that of a seed; see LARGE."""
    return known_bytes(node) > known_bytes(rows_read(seed)) and known_bytes(
        node
    ) >= LARGE * known_bytes(seed)


def spans_of(seed: fx.Node) -> list[Span]:
    """Returns what the rows of a seed's result can be: all of them, or dimensions of a view.

    The first span is all of its rows, which can be cut anywhere. If the product of (batch * tokens,
    hidden) is viewed as (batch, tokens, classes), the others are the batch and the tokens.
    """
    read = rows_read(seed)
    views = [u for u in seed.users if isinstance(rule(u), View)]
    if isinstance(rule(read), View):
        views += read.all_input_nodes
    found = [Span(0, 1)]
    for sizes in map(shape, views):
        for dim, size in enumerate(sizes):
            span = located(shape(seed), prod(sizes[:dim]), size) if size != 1 else None
            if span is not None and span.end == 1:
                found.append(span)
    return list(dict.fromkeys(found))
