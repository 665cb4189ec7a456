"""Runs ops with a large middle, such as linear and cross entropy, one block of rows at a time.

`narrow` drops rows that nothing reads. `group` finds the ops, `spans`, `row_rules` and `sum_rules`
tell how rows pass through them, `tangents` lets forward and backward of a block run together, and
`blocks` writes the blocks.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import fx

from roam.passes.dependencies import depends_on
from roam.passes.geometry import value
from roam.passes.graph_ops import is_pure
from roam.passes.rewrites.split.blocks import META, write
from roam.passes.rewrites.split.group import (
    Group,
    UnsplittableError,
    grow,
    is_scalar,
    reach,
)
from roam.passes.rewrites.split.narrow import narrow
from roam.passes.rewrites.split.seeds import LARGE, is_large, known_bytes, seeds, spans_of
from roam.passes.rewrites.split.spans import Span
from roam.passes.rewrites.split.tangents import Tangent, is_linear, is_tangent
from roam.passes.rewrites.split.worth import Moment

log = logging.getLogger("roam")


@dataclass(frozen=True)
class Split:
    """Splits every group of a joint graph that is worth it into blocks of rows.

    The results are those of the whole group up to the order of sums over the rows.

    Attributes:
        smallest: bytes of the smallest tensor that is split.
        amplifies: the least ratio of the bytes of a group's first large tensor to those of the rows
            that it is made from: how many times more the vocabulary has than the hidden state.
        fewest_rows: the fewest rows of a block, the last one apart. Matrix products of few rows
            are slow.
        folds: whether an optimizer absorbs each gradient in the backward.
        recomputes: whether the backward computes results of pointwise ops again.
        near: a group is split if the estimated peak around it is at least this part of what is
            alive elsewhere in the step.
        most_rounded: the most blocks of a group whose products are added up in a 16-bit dtype,
            which rounds after each block: four roundings of growing sums are 1.4 times one, sixteen
            are 2.3 times one.
        close: the number of blocks is the smallest with an estimated peak that is at most this many
            times the one with the most blocks.
    """

    name: str = "split"
    smallest: int = 16 << 20
    amplifies: float = 5.0
    fewest_rows: int = 128
    folds: bool = False
    recomputes: bool = False
    near: float = 0.8
    most_rounded: int = 4
    close: float = 1.02

    def __call__(self, module: fx.GraphModule) -> int:
        graph = module.graph
        done = sum([narrow(seed) for seed in [*seeds(graph, self.smallest, self.amplifies)]])
        tried: set[str] = set()
        while (found := self._next(graph, tried)) is not None:
            write(*found)
            done += 1
        return done

    def counts(self, group: Group, moment: Moment, *, both: bool) -> list[int]:
        """Returns the number of rows of each block; one block if splitting is not worth it.

        Args:
            group: the group.
            moment: the bytes around it.
            both: whether forward and backward of a block run together.
        """
        peaks = {1: moment.in_one_piece(group, both=both)}
        fewest = -(-self.fewest_rows // group.per_row)
        most = self.most_rounded if group.rounds else group.rows
        blocks = 2
        while blocks <= most and -(-group.rows // blocks) >= fewest:
            peaks[blocks] = moment.in_blocks(group, blocks, both=both)
            blocks *= 2
        lowest = min(peaks.values())
        blocks = min(k for k, peak in peaks.items() if peak <= self.close * lowest)
        if peaks[1] < self.near * moment.highest:
            blocks = 1
        step = -(-group.rows // blocks)
        whole, rest = divmod(group.rows, step)
        return [step] * whole + [rest] * (rest > 0)

    def blocks(self, seed: fx.Node) -> tuple[Group, list[int], Tangent | None]:
        """Returns the group around a seed in the most blocks.

        Rows that cannot be cut anywhere are cut along one of the dimensions that they stand for.

        Returns:
            The group, the number of rows of each block, and the tangent if there is one.

        Raises:
            UnsplittableError: the ops around the seed cannot be split, or it is not worth it.
        """
        tangents = {n for n in seed.graph.nodes if is_tangent(n)}
        gradients = depends_on(seed.graph, tangents)
        found: list[tuple[Group, list[int], Tangent | None]] = []
        whys: list[UnsplittableError] = []
        for span in spans_of(seed):
            try:
                group, tangent = grouped(seed, span, tangents, gradients)
            except UnsplittableError as why:
                whys.append(why)
                continue
            moment = Moment.of(group, gradients, folds=self.folds, recomputes=self.recomputes)
            found.append((group, self.counts(group, moment, both=tangent is not None), tangent))
            if not whys:
                break
        if not found:
            raise whys[0]
        best = max(found, key=lambda each: len(each[1]))  # the first one of equals
        if len(best[1]) == 1:
            raise UnsplittableError("that would not lower the peak")
        return best

    def _next(
        self, graph: fx.Graph, tried: set[str]
    ) -> tuple[Group, list[int], Tangent | None] | None:
        """Returns a group to split, as `blocks` does; None if there is no further one.

        Args:
            graph: the graph.
            tried: names of seeds that were looked at. Adds to them.
        """
        for seed in seeds(graph, self.smallest, self.amplifies):
            if META in seed.meta or seed.name in tried:
                continue
            tried.add(seed.name)
            try:
                return self.blocks(seed)
            except UnsplittableError as why:
                log.debug("%s is not split: %s", seed.name, why)
        return None


def grouped(
    seed: fx.Node, span: Span, tangents: set[fx.Node], gradients: set[fx.Node]
) -> tuple[Group, Tangent | None]:
    """Returns the group around a seed, and the tangent if its blocks run forward and backward.

    Args:
        seed: the op that makes the first large tensor.
        span: the rows of its result.
        tangents: the tangents of the graph.
        gradients: the ops that depend on them.

    Raises:
        UnsplittableError: the ops around the seed cannot be split.
    """
    if seed in gradients:
        return grow(seed, span, gradients.__contains__), None
    try:
        group = grow(seed, span, lambda n: True)
    except UnsplittableError:
        factor = _factor(seed, span, tangents, gradients)
        if factor is None:
            raise
        group = grow(seed, span, lambda n: True, given={factor})
        return group, _tangent(group, tangents, factor)
    if gradients.isdisjoint((*group.members, *group.sums)):
        return group, None
    return group, _tangent(group, tangents)


def _factor(
    seed: fx.Node, span: Span, tangents: set[fx.Node], gradients: set[fx.Node]
) -> fx.Node | None:
    """Returns the scalar through which the tangents and a function of all rows enter the backward.

    For the loss exp(mean(...)) it is the tangent times that exponential, by which all gradients are
    multiplied. The last such scalar is returned, and None if there is none.
    """
    graph = seed.graph
    reached = gradients & reach({seed: span}, lambda n: True).keys()
    large = {n for n in reached if is_large(n, seed)}
    for node in reversed(graph.nodes):
        if node in gradients and is_scalar(node) and depends_on(graph, {node}) >= large:
            return node if large.isdisjoint(depends_on(graph, tangents, {node})) else None
    return None


def _tangent(group: Group, tangents: set[fx.Node], factor: fx.Node | None = None) -> Tangent:
    """Returns the scalar in which a group's gradients are linear: the tangent, or the factor.

    Raises:
        UnsplittableError: there is none.
    """
    graph, inside = group.seed.graph, {*group.members, *group.sums}
    given = set() if factor is None else {factor}
    reached = [t for t in tangents if not depends_on(graph, {t}, given).isdisjoint(inside)]
    reached += given
    if len(reached) != 1 or not is_scalar(reached[0]):
        raise UnsplittableError("the group needs gradients that come after the forward")
    tangent = Tangent(reached[0], frozenset(depends_on(graph, {reached[0]})))
    between = tangent.between(group.inputs) - {tangent.node}
    for node in between:
        if known_bytes(node) > LARGE * known_bytes(group.seed) or not is_pure(node):
            raise UnsplittableError(f"{node.name} ({node.target}) cannot run twice")
    for node in (inside & tangent.dependent) | between:
        if value(node).dtype is torch.float16:
            raise UnsplittableError(f"{node.name} is float16, whose gradients need a scaled loss")
        if not is_linear(node, tangent.dependent):
            raise UnsplittableError(
                f"{node.name} ({node.target}) is not linear in the tangent", node
            )
    return tangent
