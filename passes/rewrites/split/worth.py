"""Estimates the peak of a step with a group in one piece and in blocks.

The joint graph does not say when its ops will run: the planner decides that later. So the estimate
compares the best that each way can do. It adds up these bytes:

    kept         tensors that the layers before save for the backward
    large        the largest tensor of the group, such as the logits
    sums         the group's sums over the rows, such as the gradient of the head's weight
    gradients    all gradients that the backward returns at its end

A group that runs forward and backward together has these peaks:

    in one piece, the sums made at once      kept + large + sums
    in one piece, the sums made at the end   kept + large, and at the end large + gradients
    in blocks                                kept + sums + one block, and at the end the gradients

A block's gradient is written over what it is computed from. A group whose blocks run only forward
or only backward has two large tensors at once: one that a kernel reads and one that it writes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import accumulate

from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from roam.passes.cheap_recompute import is_cheap
from roam.passes.geometry import storage_key, tensors
from roam.passes.rewrites.split.group import Group
from roam.passes.rewrites.split.seeds import known_bytes

AT_ONCE = 2  # large tensors: what a kernel reads and what it writes
_AGAIN = (CheckpointPolicy.MUST_RECOMPUTE, CheckpointPolicy.PREFER_RECOMPUTE)


@dataclass(frozen=True)
class Moment:
    """Bytes of tensors outside of a group, if the ops run in the order of the graph.

    Attributes:
        kept: bytes that are made before the group's first op and used after it.
        highest: the most bytes that are alive at any op of the graph.
        gradients: bytes of the gradients that are returned at the end; of the group's sums alone if
            an optimizer absorbs each gradient earlier.
    """

    kept: int
    highest: int
    gradients: int

    @staticmethod
    def of(
        group: Group, gradients: Collection[fx.Node], *, folds: bool, recomputes: bool
    ) -> Moment:
        """Measures the graph of a group.

        Args:
            group: the group, still in one piece.
            gradients: the ops that depend on the tangents.
            folds: whether each gradient is absorbed by an optimizer as soon as it is known.
            recomputes: whether results of pointwise ops are computed again rather than kept.
        """
        graph = group.seed.graph
        inside = group.members.keys() | group.sums.keys()
        order = {n: i for i, n in enumerate(graph.nodes)}
        # inputs are no transient memory, and the group is counted apart: nor do their views count
        elsewhere = {
            storage_key(t)
            for node in graph.nodes
            if node.op == "placeholder" or node in inside
            for t in tensors(node)
        }
        made: dict[int, int] = {}
        used: dict[int, int] = {}
        sizes: dict[int, int] = {}
        for node in graph.nodes:
            if node.op == "placeholder":
                continue
            for source in node.all_input_nodes:
                for t in tensors(source):
                    used[storage_key(t)] = order[node]
            again = node.meta.get("recompute") in _AGAIN or (recomputes and is_cheap(node))
            if node in inside or again:
                continue
            for t in tensors(node):
                key = storage_key(t)
                if key in elsewhere:
                    continue
                made.setdefault(key, order[node])
                sizes[key] = int(t.untyped_storage().nbytes())
        curve = [0] * (len(order) + 1)
        for key, first in made.items():
            last = used.get(key, first)
            curve[first] += sizes[key]
            curve[last] -= sizes[key]
        live = [*accumulate(curve)]
        returned = {n for n in graph.output_node().all_input_nodes if n in gradients}
        waiting = 0 if folds else sum(map(known_bytes, returned))
        return Moment(live[order[group.seed]], max(live), max(waiting, group.sum_bytes))

    def in_one_piece(self, group: Group, *, both: bool) -> int:
        """Returns the peak around a group as it is. Bytes.

        both: whether forward and backward of the group run together if it is split.
        """
        if not both:
            return self.kept + AT_ONCE * group.large_bytes
        at_once = self.kept + group.large_bytes + group.sum_bytes
        at_the_end = max(self.kept, self.gradients) + group.large_bytes
        return min(at_once, at_the_end)

    def in_blocks(self, group: Group, blocks: int, *, both: bool) -> int:
        """Returns the peak around a group in a number of blocks. Bytes."""
        block = -(-group.large_bytes // blocks)
        before = self.kept + group.sum_bytes
        return max(before + block, self.gradients) if both else before + AT_ONCE * block
