"""Adds copies of forward ops to the backward of a joint graph, and turns readers to them.

    forward     x ── gelu ── y              backward     x ── gelu ── y' ── mm
                                                               copy, in front of its first reader

What is copied, and who reads which copy, is decided elsewhere (solvers/budget). This pass must run
after every pass that merges equal calls: a copy is equal to the op that it is a copy of.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from roam.passes.geometry import renewed, value
from roam.passes.replays import replay_of
from roam.passes.stand_ins import StandIns, in_phase

META = "roam_copy_of"  # on a copy's node: the name of the node that it is a copy of


@dataclass(frozen=True)
class NodeCopy:
    """One copy.

    Attributes:
        key: names it.
        node: the op that runs again.
        before: the op of the backward in front of which it stands.
    """

    key: Hashable
    node: fx.Node
    before: fx.Node


@dataclass
class RecomputeCopies:
    """Adds copies in the order of `copies`.

    Attributes:
        copies: the copies, each after the copies that it reads.
        uses: which copy a reader uses in place of a forward tensor. Maps (reader, storage key of
            the tensor) to the key of the copy; a reader is a node of the backward, or the key of
            another copy.
    """

    copies: Sequence[NodeCopy]
    uses: Mapping[tuple[Hashable, int], Hashable]
    name: str = "recompute_copies"

    def __call__(self, module: fx.GraphModule) -> int:
        found = StandIns(self.uses)
        for copy in self.copies:
            found.before[copy.key] = copy.before
            with module.graph.inserting_before(copy.before):
                _add(copy, found)
        found.turn_readers()
        module.recompile()
        return len(self.copies)


def _add(copy: NodeCopy, found: StandIns) -> None:
    node, graph = copy.node, copy.node.graph
    replay = replay_of(node)
    if replay is not None:
        given = {n: found.of(copy.key, n) for n in replay.reads}
        first = copy.before.prev
        results = dict(zip(replay.outputs, replay.run(given), strict=True))
        while (first := first.next) is not copy.before:
            _mark(first, node)
        for user in node.users:
            if user.target is operator.getitem and user.args[1] in results:
                found.made[copy.key, user] = results[user.args[1]]  # type: ignore[index]
        return
    sources = {n: found.of(copy.key, n) for n in node.all_input_nodes}
    again = graph.node_copy(node, lambda n: sources[n])
    again.meta = dict(node.meta, val=renewed(value(node)))
    _mark(again, node)
    found.made[copy.key, node] = again


def _mark(again: fx.Node, node: fx.Node) -> None:
    in_phase(again, "is_backward")
    again.meta[META] = node.name
