"""Runs ops with a large middle, such as linear and cross entropy, one block of rows at a time.

`group` finds the ops, `row_rules` and `sum_rules` tell how rows pass through them, `tangents`
lets forward and backward of a block run together, and `blocks` writes the blocks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx

from roam.passes.geometry import value
from roam.passes.rewrites.split.blocks import META, write
from roam.passes.rewrites.split.group import (
    LARGE,
    Group,
    UnsplittableError,
    depends_on,
    grow,
    is_scalar,
    nbytes,
    seeds,
)
from roam.passes.rewrites.split.row_rules import is_pure
from roam.passes.rewrites.split.spans import Span
from roam.passes.rewrites.split.tangents import Tangent, is_linear, is_tangent

log = logging.getLogger("roam")


@dataclass(frozen=True)
class Split:
    """Splits every group of a joint graph that is worth it into blocks of rows.

    The results are those of the whole group up to the order of sums over the rows.

    Attributes:
        smallest: bytes of the smallest tensor that is split.
        amplifies: the least ratio of the bytes of a group's first large tensor to those of the rows
            that it is made from: how many times more the vocabulary has than the hidden state.
        fewest_rows: the fewest rows of a block. Matrix products of few rows are slow.
        beside: a block's largest tensor needs no fewer bytes than this part of the sums over the
            rows, which exist beside it: smaller blocks would hardly lower the peak.
        of_whole: nor than this part of the whole tensor, for each block is compiled.
    """

    name: str = "split"
    smallest: int = 16 << 20
    amplifies: float = 5.0
    fewest_rows: int = 128
    beside: float = 1 / 8
    of_whole: float = 1 / 32

    def __call__(self, module: fx.GraphModule) -> int:
        graph = module.graph
        done = 0
        tried: set[str] = set()
        while True:
            found = next(self._candidates(graph, tried), None)
            if found is None:
                return done
            group, tangent = found
            write(group, self.counts(group), tangent)
            done += 1

    def counts(self, group: Group) -> list[int]:
        """Returns the number of rows of each block."""
        least = max(self.smallest, self.beside * group.sum_bytes, self.of_whole * group.large_bytes)
        blocks = 1
        while group.large_bytes > least * blocks and group.rows >= 2 * blocks * self.fewest_rows:
            blocks *= 2
        step = -(-group.rows // blocks)
        whole, rest = divmod(group.rows, step)
        return [step] * whole + [rest] * (rest > 0)

    def _candidates(
        self, graph: fx.Graph, tried: set[str]
    ) -> Iterator[tuple[Group, Tangent | None]]:
        for seed, span in seeds(graph, self.smallest, self.amplifies):
            if META in seed.meta or seed.name in tried:
                continue
            tried.add(seed.name)
            try:
                group, tangent = grouped(graph, seed, span)
            except UnsplittableError as why:
                log.debug("%s is not split: %s", seed.name, why)
                continue
            if len(self.counts(group)) > 1 and group.sum_bytes < group.large_bytes:
                yield group, tangent


def grouped(graph: fx.Graph, seed: fx.Node, span: Span) -> tuple[Group, Tangent | None]:
    """Returns the group around a seed, and the tangent if its blocks run forward and backward.

    Raises:
        UnsplittableError: the ops around the seed cannot be split.
    """
    tangents = {n for n in graph.nodes if is_tangent(n)}
    dependent = depends_on(graph, tangents)
    if seed in dependent:
        return grow(seed, span, dependent.__contains__), None
    group = grow(seed, span, lambda n: True)
    if dependent.isdisjoint((*group.members, *group.sums)):
        return group, None
    return group, _tangent(graph, group, tangents)


def _tangent(graph: fx.Graph, group: Group, tangents: set[fx.Node]) -> Tangent:
    """Returns the scalar tangent in which the gradients are linear. Raises UnsplittableError."""
    inside = {*group.members, *group.sums}
    reached = [t for t in tangents if not depends_on(graph, {t}).isdisjoint(inside)]
    if len(reached) != 1 or not is_scalar(reached[0]):
        raise UnsplittableError("the group needs gradients that come after the forward")
    tangent = Tangent(reached[0], frozenset(depends_on(graph, {reached[0]})))
    between = tangent.between(group.inputs) - {tangent.node}
    for node in between:
        if nbytes(node) * LARGE > nbytes(group.seed) or not is_pure(node):
            raise UnsplittableError(
                f"{node.name} ({node.target}) cannot run for the tangent 1 as well"
            )
    for node in (inside & tangent.dependent) | between:
        if value(node).dtype is torch.float16:
            raise UnsplittableError(f"{node.name} is float16, whose gradients need a scaled loss")
        if not is_linear(node, tangent.dependent):
            raise UnsplittableError(f"{node.name} ({node.target}) is not linear in the tangent")
    return tangent
