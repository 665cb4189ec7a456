"""What a pass is, and how a tuple of them runs.

A pass is a frozen dataclass with a `name` and its options as fields. Called on a graph module it
rewrites or annotates the graph and says how many nodes it changed. Between two passes a callback
may look: to verify, print or compare.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from torch import fx

from roam.passes.geometry import renew_views

log = logging.getLogger("roam")


class Pass(Protocol):
    """One rewrite of a graph. Returns the number of nodes it changed."""

    @property
    def name(self) -> str: ...

    def __call__(self, module: fx.GraphModule) -> int: ...


Between = Callable[[str, int, fx.GraphModule], None]


def run(passes: Sequence[Pass], module: fx.GraphModule, between: Between | None = None) -> None:
    """Runs the passes in order. `between(name, changed, module)` sees the graph after each."""
    for each in passes:
        changed = each(module)
        renew_views(module.graph)
        module.graph.lint()
        if between is not None:
            between(each.name, changed, module)


def rewritten(passes: Sequence[Pass], module: fx.GraphModule) -> fx.GraphModule:
    """Returns a copy of the graph after the passes; the graph as it came if one of them fails."""
    trial = copied(module)
    try:
        run(passes, trial)
    except Exception:
        log.warning("a graph is planned as it came: rewriting it failed", exc_info=True)
        return module
    return trial


def copied(module: fx.GraphModule) -> fx.GraphModule:
    """Returns a module of the same attributes with a copy of the graph, metadata included."""
    graph = fx.Graph()
    returned = graph.graph_copy(module.graph, {})
    graph.output(returned).meta = dict(module.graph.output_node().meta)
    return fx.GraphModule(module, graph)
