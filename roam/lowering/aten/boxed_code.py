"""Generates functions that take their inputs in a list and empty it.

So the caller's list keeps no input alive, and the function frees each input after its last use.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.fx.graph import CodeGen

from roam.lowering.protocol import Boxed


class BoxedCode(CodeGen):
    """Generates functions that take a list of inputs and first of all empty it.

    Then the caller's list keeps no input alive, so the function can free each input after the
    input's last use.
    """

    def gen_fn_def(self, free_vars: list[str], maybe_return_annotation: str, **_: Any) -> str:
        names = [v.split(":")[0].split("=")[0].strip() for v in free_vars if v != "self"]
        lines = [f"def {self._func_name}(self, boxed){maybe_return_annotation}:"]
        if names:
            lines += [f"    {', '.join(names)}, = boxed", "    boxed.clear()"]
        return "\n".join(lines)


def boxed(graph: fx.Graph, root: torch.nn.Module, name: str) -> Boxed:
    """Returns the graph as a callable that takes a list of inputs and empties it.

    Args:
        graph: the graph to generate code for.
        root: the module that the graph's get_attr nodes refer to.
        name: the class name of the generated module.
    """
    graph.set_codegen(BoxedCode())
    module = fx.GraphModule(root, graph, class_name=name)
    return module.forward
