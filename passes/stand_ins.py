"""Nodes of the backward that stand in for tensors of the forward, and views of them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from torch import fx

from roam.passes.geometry import storage_key, tensors, value

FORGOTTEN = ("recompute", "ac_graph_id", "has_backward_hook")  # of a stand-in: checkpoint()'s marks


@dataclass
class StandIns:
    """What readers use in place of tensors of the forward.

    Attributes:
        uses: which stand-in a reader uses. Maps (reader, storage key of the tensor) to the key of
            the stand-in; a reader is a node of the backward, or the key of another stand-in.
        made: by (key, node), what stands in for a node of the forward.
        before: by key, the node in front of which views of the stand-in are put.
    """

    uses: Mapping[tuple[Hashable, int], Hashable]
    made: dict[tuple[Hashable, fx.Node], fx.Node] = field(default_factory=dict)
    before: dict[Hashable, fx.Node] = field(default_factory=dict)

    def of(self, reader: Hashable, source: fx.Node) -> fx.Node:
        """Returns what a reader uses in place of a forward tensor: itself, or what stands in."""
        keys = [storage_key(t) for t in tensors(source)]
        key = next((self.uses[reader, k] for k in keys if (reader, k) in self.uses), None)
        return source if key is None else self._view(key, source)

    def turn_readers(self) -> None:
        """Gives each node of the backward that is a reader what stands in for its inputs."""
        for reader in dict.fromkeys(r for r, _ in self.uses if isinstance(r, fx.Node)):
            for source in reader.all_input_nodes:
                stand_in = self.of(reader, source)
                if stand_in is not source:
                    reader.replace_input_with(source, stand_in)

    def _view(self, key: Hashable, source: fx.Node) -> fx.Node:
        """Returns the node, a view of an op's result or that itself, as the stand-in has it."""
        if (key, source) in self.made:
            return self.made[key, source]
        own = {storage_key(t) for t in tensors(source)}
        given = {
            n: self._view(key, n) if own & {storage_key(t) for t in tensors(n)} else n
            for n in source.all_input_nodes
        }
        with source.graph.inserting_before(self.before[key]):
            view = source.graph.node_copy(source, lambda n: given[n])
        args, kwargs = fx.map_arg((view.args, view.kwargs), value)
        view.meta = dict(source.meta, val=view.target(*args, **kwargs))  # type: ignore[operator]
        in_phase(view, "is_backward")
        self.made[key, source] = view
        return view


def in_phase(node: fx.Node, phase: str) -> None:
    """Puts a new node into a phase, and drops the marks of checkpoint() that it was made with.

    phase: "is_forward" or "is_backward", as AOTAutograd tags nodes.
    """
    node.meta["partitioner_tag"] = phase
    for key in FORGOTTEN:
        node.meta.pop(key, None)
