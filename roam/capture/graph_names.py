"""Names of a captured graph and its inputs as the user knows them, from what dynamo recorded."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import fx
from torch._guards import CompileContext, CompileId

from roam.capture import handed_over

CALLS, CONVERTS = "torch._dynamo.eval_frame", "torch._dynamo.convert_frame"
MODULES = "torch.nn.modules.module"


@dataclass(frozen=True)
class DynamoGraph:
    """What is known of a graph that dynamo captured, before it is compiled.

    Attributes:
        name: of its outermost module, with dynamo's number of the graph.
        inputs: for every input the name that the user's model has for it, "" if it has none.
        parameters: the positions of the inputs that are parameters.
        compile_id: dynamo's, for its structured trace.
        others_follow: whether other graphs of the same model may run before its backward: it ends
            at a graph break, or is called by code that is not compiled.
        makers: by position, the names of the graphs that have made inputs of this one.
    """

    name: str
    inputs: tuple[str, ...] = ()
    parameters: frozenset[int] = frozenset()
    compile_id: CompileId | None = None
    others_follow: bool = False
    makers: Mapping[int, str] = field(default_factory=dict)

    @staticmethod
    def of(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> DynamoGraph:
        here = CompileContext.current_compile_id()
        reason = getattr(gm, "compile_subgraph_reason", None)
        follow = getattr(reason, "graph_break", False) or called_by_other_code()
        parameters = parameter_inputs(example_inputs)
        makers = handed_over.makers(example_inputs)
        return DynamoGraph(graph_name(gm), source_names(gm), parameters, here, follow, makers)


def called_by_other_code() -> bool:
    """Returns whether code that dynamo does not compile calls what it compiles now.

    the call of the compiled model ── torch._dynamo.eval_frame
      └ hooks of the module ── torch.nn.modules.module
          └ what is compiled        called by the model's own code if dynamo gave up around it
              └ dynamo ── torch._dynamo.convert_frame
    """
    names: list[str] = []
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        names.append(frame.f_globals.get("__name__", ""))
        frame = frame.f_back
    if CONVERTS not in names:
        return False  # dynamo has not captured it: it is whole
    around = names[len(names) - names[::-1].index(CONVERTS) :]
    callers = itertools.takewhile(lambda name: name != CALLS, around)
    return any(name != MODULES for name in callers)


def graph_name(gm: fx.GraphModule) -> str:
    """Returns the class of the outermost module, or "graph", and dynamo's number of the graph."""
    stacks = (n.meta.get("nn_module_stack") for n in gm.graph.nodes)
    outer = next((next(iter(s.values()))[1] for s in stacks if s), "graph")
    outer = getattr(outer, "__name__", str(outer).rpartition(".")[2])
    return f"{outer} {CompileContext.current_compile_id()}"


def parameter_inputs(example_inputs: Sequence[Any]) -> frozenset[int]:
    """Returns the positions of the inputs that are parameters."""
    return frozenset(i for i, x in enumerate(example_inputs) if isinstance(x, torch.nn.Parameter))


def source_names(gm: fx.GraphModule) -> tuple[str, ...]:
    """Returns the name of each input in the user's model, '' for an input without one."""
    sources = (n.meta.get("grapharg") for n in gm.graph.find_nodes(op="placeholder"))
    paths = (str(getattr(getattr(s, "source", None), "name", "")) for s in sources)
    return tuple(
        ".".join(re.findall(r"_(?:modules|parameters|buffers)\['([^']*)'\]", p)) for p in paths
    )
