"""The `torch.compile` entry point: `torch.compile(model, backend="roam")`.

Dynamo captures graphs of the user's model. Each goes to a lowering (`lowering/`), which lets
AOTAutograd take it apart into forward and backward and plans them together; the step driver
(`step/driver.py`) runs them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import currentframe
from typing import Any

import torch
from torch import fx
from torch._dynamo.exc import FailOnRecompileLimitHit, ShortenTraceback, TorchDynamoException
from torch._dynamo.symbolic_convert import InstructionTranslator
from torch._dynamo.variables import ConstantVariable

from roam.capture.graph_names import DynamoGraph
from roam.core.errors import OptionError, UnplannedWarning
from roam.lowering.table import candidates
from roam.options import Options
from roam.step.driver import Step
from roam.step.reports import RunningReports


class CompileOptionError(ShortenTraceback, OptionError):
    """An OptionError that dynamo hands to the user as it is, not wrapped in one of its own."""


def roam(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: dict[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """The backend: compiles one graph that dynamo captured. Raises OptionError."""
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
            warn_refused(graph.name, error)
    raise AssertionError("ATen's kernels refuse no graph")


def warn_refused(name: str, error: Exception) -> None:
    """Warns that the lowering cannot compile a graph, so that the next one gets it."""
    reason = str(error).strip().partition("\n")[0]
    text = f"Inductor cannot compile {name}, which runs ATen's kernels: {reason}"
    warnings.warn(text, UnplannedWarning, stacklevel=3)


TRACING_ERRORS = (TorchDynamoException, FailOnRecompileLimitHit)


def can_trace_backward() -> bool:
    return hasattr(torch._dynamo.config, "trace_autograd_ops")


def is_read(thing: object) -> bool:
    """Whether the program that dynamo is capturing has looked at a list, dict or object."""
    return thing in InstructionTranslator.current_tx().output.side_effects


def is_changed(thing: object) -> bool:
    """Whether the program that dynamo is capturing changes a list, dict or object.

    That happens after the graph has run, wherever in the program it stands.
    """
    effects = InstructionTranslator.current_tx().output.side_effects
    return thing in effects and effects.is_modified(effects[thing])


@contextmanager
def one_graph() -> Iterator[None]:
    """Within, dynamo captures `backward()` and `torch.autograd.grad` instead of breaking there.

    Dynamo (torch 2.13) has one None for all that it captures, and where a `.grad` is read that was
    set to None, notes there where that came from. A later graph that hands a None over at a break
    would look for it at that place: so the note is taken away again.
    """
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        try:
            yield
        finally:
            ConstantVariable.create(None).source = None
