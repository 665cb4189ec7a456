"""The `torch.compile` entry point: `torch.compile(model, backend="roam")`.

Dynamo captures graphs of the user's model. Each goes to a lowering (`lowering/`), which lets
AOTAutograd take it apart into forward and backward and plans them together; the step driver
(`step/driver.py`) runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import currentframe
from typing import Any

import torch
from torch import fx
from torch._dynamo.exc import ShortenTraceback

from roam.capture.graph_names import DynamoGraph
from roam.core.errors import OptionError
from roam.lowering.table import candidates, warn_refused
from roam.options import Options
from roam.step.driver import Step
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
    """Compiles one graph that dynamo captured: dynamo calls this backend. Raises OptionError."""
    try:
        chosen = Options.parse(options, mode)
    except OptionError as error:
        raise CompileOptionError(str(error), first_useful_frame=currentframe()) from None
    graph = DynamoGraph.of(gm, example_inputs)
    devices = {t.device for t in example_inputs if isinstance(t, torch.Tensor)}
    reports = RunningReports(graph.compile_id)
    for lowering in candidates(chosen, devices):
        kernels = lowering.kernels(graph, chosen, reports)
        try:
            return kernels.compile(gm, example_inputs, Step(graph.name, kernels))
        except lowering.refusals as error:
            warn_refused(lowering, graph.name, error)
    raise AssertionError("ATen's kernels refuse no graph")
