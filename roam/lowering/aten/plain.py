"""Makes callables that run a graph without a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

from roam.lowering.aten.boxed_code import boxed
from roam.lowering.protocol import Boxed


def plain(gm: fx.GraphModule) -> Boxed:
    """Returns a copy of the graph as a callable that takes a list of inputs and empties it.

    The callable runs the ops in program order, and every op allocates its results.
    """
    graph = fx.Graph()
    returned = graph.graph_copy(gm.graph, {})
    graph.output(returned)
    return boxed(graph, gm, "roam_plain")


def mark_boxed(run: Boxed) -> Boxed:
    """Returns a function that calls `run`, marked so that AOTAutograd passes the inputs in a list.

    `run` may empty this list.
    """

    def call(args: list[Any]) -> Sequence[Any]:
        return run(args)

    call._boxed_call = True  # type: ignore[attr-defined]
    return call
