"""Exports plans to the formats of other tools, one format a file. `FORMATS` lists them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from roam.core.plan import Plan
from roam.core.problem import Problem
from roam.inspect.export.chrome import to_chrome
from roam.inspect.export.graphml import to_graphml
from roam.inspect.export.memory_viz import to_memory_viz
from roam.inspect.export.minimalloc import to_minimalloc


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        write: returns the file of one graph's plan.
        suffix: the ending of the file's name.
        opens_with: the tools that read it, for a message.
    """

    write: Callable[[Problem, Plan], bytes]
    suffix: str
    opens_with: str


FORMATS = {
    "memory_viz": Format(to_memory_viz, ".pickle", "pytorch.org/memory_viz"),
    "chrome": Format(to_chrome, ".trace.json", "ui.perfetto.dev, chrome://tracing"),
    "minimalloc": Format(to_minimalloc, ".csv", "MiniMalloc"),
    "graphml": Format(to_graphml, ".graphml", "networkx, yEd, Gephi"),
}
