"""What dynamo says of a graph that it captured: the names that the user knows things by."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch._guards import CompileContext


def graph_name(gm: fx.GraphModule) -> str:
    """The outermost module, if there is one, and dynamo's number of the graph."""
    stacks = (n.meta.get("nn_module_stack") for n in gm.graph.nodes)
    outer = next((next(iter(s.values()))[1] for s in stacks if s), "graph")
    outer = getattr(outer, "__name__", str(outer).rpartition(".")[2])
    return f"{outer} {CompileContext.current_compile_id()}"


def parameter_inputs(example_inputs: Sequence[Any]) -> frozenset[int]:
    """Which of the inputs are parameters."""
    return frozenset(i for i, x in enumerate(example_inputs) if isinstance(x, torch.nn.Parameter))


def source_names(gm: fx.GraphModule) -> tuple[str, ...]:
    """For every input the name that the user's model has for it, '' if it has none."""
    sources = (n.meta.get("grapharg") for n in gm.graph.find_nodes(op="placeholder"))
    paths = (str(getattr(getattr(s, "source", None), "name", "")) for s in sources)
    return tuple(
        ".".join(re.findall(r"_(?:modules|parameters|buffers)\['([^']*)'\]", p)) for p in paths
    )
