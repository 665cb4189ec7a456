"""The `torch.compile` entry point: `torch.compile(model, backend="roam")`.

Dynamo captures graphs of the user's model. Each graph goes to a lowering (`lowering/`), which lets
AOTAutograd split it into forward and backward, and plans the two together. The step driver
(`step/driver.py`) runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import currentframe
from typing import Any

from torch import fx
from torch._dynamo.exc import ShortenTraceback

from roam.capture import traced_values
from roam.capture.graph_names import DynamoGraph
from roam.capture.handed_over import marking
from roam.core.errors import OptionError
from roam.lowering.protocol import Lowering
from roam.lowering.table import first_to_compile
from roam.options import Options
from roam.step.compiled_graph import CompiledGraph
from roam.step.graph_optimizers import needs_of
from roam.step.rank_agreement import agreed
from roam.step.reports import RunningReports


class CompileOptionError(ShortenTraceback, OptionError):
    """An OptionError that dynamo passes to the user unwrapped."""


def roam(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: dict[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """Compiles one graph that dynamo captured: dynamo calls this backend.

    Raises:
        OptionError: an option or mode is unknown or has a wrong value.
        GraphsDifferError: another rank of the process group compiles another graph.
        MissingRankError: another rank compiles nothing.
    """
    try:
        chosen = Options.parse(options, mode)
    except OptionError as error:
        raise CompileOptionError(str(error), first_useful_frame=currentframe()) from None
    graph = DynamoGraph.of(gm, example_inputs)
    chosen = agreed(chosen, graph, gm, example_inputs)
    reports = RunningReports(graph.compile_id)

    def compile_by(lowering: Lowering) -> Callable[..., Any]:
        kernels = lowering.kernels(graph, chosen, reports)
        return CompiledGraph.of(gm, example_inputs, graph.name, kernels, needs_of(chosen))

    compiled = first_to_compile(chosen, graph.name, example_inputs, compile_by)
    traced_values.free(gm)
    return marking(compiled, graph.name)
