"""Graphs without a plan, run just as they came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

from roam.lowering.aten.emit import boxed
from roam.lowering.protocol import Boxed


def plain(gm: fx.GraphModule) -> Boxed:
    """Returns the graph as a callable: in program order, every op allocating for itself."""
    graph = fx.Graph()
    returned = graph.graph_copy(gm.graph, {})
    graph.output(returned)
    return boxed(graph, gm, "roam_plain")


def mark_boxed(run: Boxed) -> Boxed:
    """Returns a callable that AOTAutograd gives its inputs in a list, for it to empty."""

    def call(args: list[Any]) -> Sequence[Any]:
        return run(args)

    call._boxed_call = True  # type: ignore[attr-defined]
    return call
