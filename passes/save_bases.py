"""Saves one tensor where the backward reads several views of it.

    forward     y ── detach ── v            backward     y ── detach ── v' ── ...
                │ saved        │ saved                   │ saved
                v              v                         v

Two saved tensors of one memory cost no bytes. But a plan may write over saved memory, and at run
time another reference to it makes the backward copy it first, which no plan counts.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import fx

from roam.passes.geometry import is_view, renew_views, storage_key, tensors, value


@dataclass(frozen=True)
class SaveBases:
    name: str = "save_bases"

    def __call__(self, module: fx.GraphModule) -> int:
        changed = 0
        while found := self._once(module.graph):  # of a view of a view, one view is left
            renew_views(module.graph)
            changed += found
        if changed:
            module.recompile()
        return changed

    def _once(self, graph: fx.Graph) -> int:
        saved: dict[int, list[fx.Node]] = defaultdict(list)
        for node in graph.nodes:
            if node.meta.get("partitioner_tag") == "is_forward" and any(map(_late, node.users)):
                for key in {storage_key(t) for t in tensors(node)}:
                    saved[key].append(node)
        views = [v for nodes in saved.values() if len(nodes) > 1 for v in nodes if _may_move(v)]
        for view in views:
            _view_late(view)
        return len(views)


def _late(node: fx.Node) -> bool:
    return node.meta.get("partitioner_tag") == "is_backward"


def _may_move(node: fx.Node) -> bool:
    """Returns whether a node is a view of one op's result, and of nothing of the user's."""
    if node.op != "call_function" or not is_view(node) or node.meta.get("recompute") is not None:
        return False
    sources = node.all_input_nodes
    return (
        len(sources) == 1
        and isinstance(value(sources[0]), torch.Tensor)
        and sources[0].op == "call_function"
    )


def _view_late(view: fx.Node) -> None:
    """Copies a view of the forward for its readers in the backward."""
    readers = [u for u in view.users if _late(u)]
    position = {n: i for i, n in enumerate(view.graph.nodes)}
    with view.graph.inserting_before(min(readers, key=position.__getitem__)):
        late = view.graph.node_copy(view)
    late.meta = dict(view.meta, partitioner_tag="is_backward")
    for reader in readers:
        reader.replace_input_with(view, late)
