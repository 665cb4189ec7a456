"""Decomposes composite operators around large tensors, so that the ops there can be split.

    logits ── _log_softmax ──┬── nll_loss_forward ── loss
                             └── nll_loss_backward ── ...

    logits ── _log_softmax ──┬── gather ── neg ── where ── sum ── div ── loss
                             └── nll_loss_backward ── ...

A graph for Inductor has no such operators left. A graph for ATen's kernels has: an operator's own
kernel is faster than those of its parts. So an operator is decomposed only if that lets a group be
split.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

from torch import fx

from roam.passes.geometry import value
from roam.passes.graph_ops import facts
from roam.passes.pipeline import copied
from roam.passes.rewrites.split.blocks import META
from roam.passes.rewrites.split.group import UnsplittableError
from roam.passes.rewrites.split.rewrite import Split
from roam.passes.rewrites.split.seeds import seeds

# Returns the parts of an op as a graph, None if it has none. The graph's nodes have fake values,
# and its placeholders stand for `node.all_input_nodes`.
Parts = Callable[[fx.Node], fx.Graph | None]


@dataclass(frozen=True)
class SplitComposites:
    """Splits groups, and decomposes the operators that keep others from being split.

    If a group cannot be split either way, its operators stay whole. Returns the number of groups.

    Attributes:
        split: the pass that splits groups.
        parts: returns the parts of an op.
    """

    split: Split
    parts: Parts
    name: str = "split"

    def __call__(self, module: fx.GraphModule) -> int:
        done = self.split(module)
        while (graph := self.decomposed(module)) is not None:
            module.graph = graph
            done += self.split(module)  # what is worth it next depends on what has been split
        return done

    def decomposed(self, module: fx.GraphModule) -> fx.Graph | None:
        """Returns a graph in which one group more can be split; None if there is no such group."""
        for seed in seeds(module.graph, self.split.smallest, self.split.amplifies):
            obstacle = None if META in seed.meta else self.obstacle(seed)
            if obstacle is None or self.parts(obstacle) is None:
                continue
            trial = copied(module)
            same = next(n for n in trial.graph.nodes if n.name == seed.name)
            if self.clear(same):
                return trial.graph
        return None

    def clear(self, seed: fx.Node) -> bool:
        """Decomposes what keeps the group around a seed from being split.

        Returns whether the group can be split then.
        """
        while True:
            try:
                self.split.blocks(seed)
            except UnsplittableError as why:
                parts = None if why.node is None else self.parts(why.node)
                if why.node is None or parts is None:
                    return False
                inline(why.node, parts)
            else:
                return True

    def obstacle(self, seed: fx.Node) -> fx.Node | None:
        """Returns an op whose rules keep the group around a seed whole; None if there is none."""
        try:
            self.split.blocks(seed)
        except UnsplittableError as why:
            return why.node
        return None


def inline(node: fx.Node, parts: fx.Graph) -> None:
    """Replaces an op by its parts, and each `getitem` of its results by a part's result.

    Args:
        node: the op, which is erased.
        parts: its parts, with a placeholder for each of `node.all_input_nodes`.
    """
    new = dict(zip(parts.find_nodes(op="placeholder"), node.all_input_nodes, strict=True))
    with node.graph.inserting_before(node):
        for part in (n for n in parts.nodes if n.op == "call_function"):
            new[part] = node.graph.node_copy(part, new.__getitem__)
            new[part].meta = facts(node, value(part))
    (results,) = parts.output_node().args
    if isinstance(results, fx.Node):
        node.replace_all_uses_with(new[results])
    else:
        for user in list(node.users):
            assert user.target is operator.getitem
            user.replace_all_uses_with(new[results[user.args[1]]])  # type: ignore[index]
            node.graph.erase_node(user)
    node.graph.erase_node(node)
