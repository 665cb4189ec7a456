"""Defines what a pass is, and runs several in order.

A pass is a frozen dataclass with a `name` and its options as fields. Calling it on a graph module
rewrites or annotates the graph and returns how many nodes it changed. A callback may look at the
graph after each pass: to verify, print or compare.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from torch import fx

from roam.passes.geometry import renew_views

log = logging.getLogger("roam")


class Pass(Protocol):
    """A rewrite or annotation of a graph. The call returns the number of nodes it changed."""

    @property
    def name(self) -> str: ...

    def __call__(self, module: fx.GraphModule) -> int: ...


Between = Callable[[str, int, fx.GraphModule], None]
Failed = Callable[[str, Exception], None]  # gets the name of a pass and its error


def run(passes: Sequence[Pass], module: fx.GraphModule, between: Between | None = None) -> None:
    """Runs the passes in order, and calls `between(name, changed, module)` after each."""
    for each in passes:
        changed = each(module)
        renew_views(module.graph)
        module.graph.lint()
        if between is not None:
            between(each.name, changed, module)


def rewritten(
    passes: Sequence[Pass], module: fx.GraphModule, failed: Failed | None = None
) -> fx.GraphModule:
    """Returns a copy of the graph after those of the passes that do not fail."""
    return working(passes, module, failed)[0]


def working(
    passes: Sequence[Pass], module: fx.GraphModule, failed: Failed | None = None
) -> tuple[fx.GraphModule, tuple[Pass, ...]]:
    """Runs passes on a copy of a graph, without those that fail, which are logged.

    Args:
        passes: the passes.
        module: the graph; it stays as it is.
        failed: called with each pass that fails, and its error.

    Returns:
        The copy, or the graph itself if its only pass failed; and the passes that did not fail.
    """
    trial = copied(module)
    try:
        run(passes, trial)
    except Exception as error:
        if len(passes) == 1:
            name = passes[0].name
            log.warning("a graph is rewritten without %s, which failed", name, exc_info=True)
            if failed is not None:
                failed(name, error)
            return module, ()
    else:
        return trial, tuple(passes)
    ran: tuple[Pass, ...] = ()
    for each in passes:
        module, one = working((each,), module, failed)
        ran += one
    return module, ran


def copied(module: fx.GraphModule) -> fx.GraphModule:
    """Returns a module of the same attributes with a copy of the graph, metadata included.

    It is of the same type: if that writes a graph's code only when it is run, so does the copy.
    """
    graph = fx.Graph()
    returned = graph.graph_copy(module.graph, {})
    graph.output(returned).meta = dict(module.graph.output_node().meta)
    # each module has a class of its own, below the one that says what it does
    kind = next(c for c in type(module).__mro__ if "GraphModuleImpl" not in c.__qualname__)
    copy: fx.GraphModule = kind(module, graph)
    return copy
