"""Finds which ops of a graph wait for others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from torch import fx


def depends_on(
    graph: fx.Graph, sources: set[fx.Node], given: Collection[fx.Node] = ()
) -> set[fx.Node]:
    """Returns the ops that depend on some ops, these included, if `given` depend on nothing."""
    found = set(sources)
    for node in graph.nodes:
        if node not in given and not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def needed_for(
    nodes: Iterable[fx.Node], within: Callable[[fx.Node], bool] = lambda n: True
) -> set[fx.Node]:
    """Returns the ops that some ops depend on, these included.

    Args:
        nodes: the ops.
        within: whether an op counts. What only other ops lead to is not found either.
    """
    found: set[fx.Node] = set()
    waiting = [*filter(within, nodes)]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += filter(within, node.all_input_nodes)
    return found
