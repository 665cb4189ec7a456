"""Adds copies of forward ops to the backward of a joint graph, and turns readers to them.

    forward     x ── gelu ── y              backward     x ── gelu ── y' ── mm
                                                               copy, in front of its first reader

What is copied, and who reads which copy, is decided elsewhere (solvers/budget). This pass must run
after every pass that merges equal calls: a copy is equal to the op that it is a copy of.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import fx

from roam.passes.geometry import renewed, storage_key, tensors, value
from roam.passes.replays import replay_of

META = "roam_copy_of"  # on a copy's node: the name of the node that it is a copy of
FORGOTTEN = ("recompute", "ac_graph_id", "has_backward_hook")  # of a copy: the user's checkpoint()


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
    _made: dict[tuple[Hashable, fx.Node], fx.Node] = field(init=False, default_factory=dict)
    _before: dict[Hashable, fx.Node] = field(init=False, default_factory=dict)

    def __call__(self, module: fx.GraphModule) -> int:
        for copy in self.copies:
            self._before[copy.key] = copy.before
            with module.graph.inserting_before(copy.before):
                self._add(copy)
        readers = dict.fromkeys(r for r, _ in self.uses if isinstance(r, fx.Node))
        for reader in readers:
            for source in reader.all_input_nodes:
                stand_in = self._stand_in(reader, source)
                if stand_in is not source:
                    reader.replace_input_with(source, stand_in)
        module.recompile()
        return len(self.copies)

    def _add(self, copy: NodeCopy) -> None:
        node, graph = copy.node, copy.node.graph
        replay = replay_of(node)
        if replay is not None:
            given = {n: self._stand_in(copy.key, n) for n in replay.reads}
            first = copy.before.prev
            results = dict(zip(replay.outputs, replay.run(given), strict=True))
            while (first := first.next) is not copy.before:
                self._mark(first, node)
            for user in node.users:
                if user.target is operator.getitem and user.args[1] in results:
                    self._made[copy.key, user] = results[user.args[1]]  # type: ignore[index]
            return
        sources = {n: self._stand_in(copy.key, n) for n in node.all_input_nodes}
        again = graph.node_copy(node, lambda n: sources[n])
        again.meta = dict(node.meta, val=renewed(value(node)))
        self._mark(again, node)
        self._made[copy.key, node] = again

    def _mark(self, again: fx.Node, node: fx.Node) -> None:
        again.meta["partitioner_tag"] = "is_backward"
        again.meta[META] = node.name
        for key in FORGOTTEN:
            again.meta.pop(key, None)

    def _stand_in(self, reader: Hashable, source: fx.Node) -> fx.Node:
        """Returns what a reader uses in place of a forward tensor: itself, or that of a copy."""
        keys = [storage_key(t) for t in tensors(source)]
        key = next((self.uses[reader, k] for k in keys if (reader, k) in self.uses), None)
        return source if key is None else self._of_copy(key, source)

    def _of_copy(self, key: Hashable, source: fx.Node) -> fx.Node:
        """Returns the node, a view of an op's result or that itself, as the copy has it."""
        if (key, source) in self._made:
            return self._made[key, source]
        own = {storage_key(t) for t in tensors(source)}
        given = {
            n: self._of_copy(key, n) if own & {storage_key(t) for t in tensors(n)} else n
            for n in source.all_input_nodes
        }
        with source.graph.inserting_before(self._before[key]):
            view = source.graph.node_copy(source, lambda n: given[n])
        args, kwargs = fx.map_arg((view.args, view.kwargs), value)
        view.meta = dict(source.meta, val=view.target(*args, **kwargs))  # type: ignore[operator]
        self._mark(view, source)
        self._made[key, source] = view
        return view
