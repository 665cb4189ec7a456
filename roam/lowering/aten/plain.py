"""Graphs without a plan: rewritten by passes, or run just as they came."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from torch import fx

from roam.lowering.aten.emit import Boxed, boxed
from roam.passes.pipeline import Pass, run

log = logging.getLogger("roam")


def copied(gm: fx.GraphModule) -> fx.GraphModule:
    graph = fx.Graph()
    returned = graph.graph_copy(gm.graph, {})
    graph.output(returned).meta = dict(gm.graph.output_node().meta)
    return fx.GraphModule(gm, graph)


def rewritten(passes: Sequence[Pass], gm: fx.GraphModule) -> fx.GraphModule:
    """The graph after the passes; as it came, should one of them fail."""
    trial = copied(gm)
    try:
        run(passes, trial)
    except Exception:
        log.warning("a graph is planned as it came: rewriting it failed", exc_info=True)
        return gm
    return trial


def plain(gm: fx.GraphModule) -> Boxed:
    """The graph as it came, run in program order with every op allocating for itself."""
    graph = fx.Graph()
    returned = graph.graph_copy(gm.graph, {})
    graph.output(returned)
    return boxed(graph, gm, "roam_plain")


def mark_boxed(run: Boxed) -> Boxed:
    def call(args: list[Any]) -> Sequence[Any]:
        return run(args)

    call._boxed_call = True  # type: ignore[attr-defined]
    return call
