"""The `torch.compile` entry point: `torch.compile(model, backend="roam")`.

Dynamo captures graphs of the user's model; each goes to a lowering, which lets AOTAutograd take it
apart into forward and backward, plans them together, and runs the plan: `lowering/inductor/` with
fused kernels, where Inductor can make them and the options ask for nothing else;
`step/driver.py` with ATen's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import currentframe
from types import ModuleType
from typing import Any

import torch
from torch import fx
from torch._dynamo.exc import FailOnRecompileLimitHit, ShortenTraceback, TorchDynamoException
from torch._dynamo.symbolic_convert import InstructionTranslator
from torch._dynamo.variables import ConstantVariable

from roam.core.errors import OptionError
from roam.options import Options
from roam.step.driver import Step, compile_graph


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
    inductor = inductor_for(chosen, example_inputs)
    if inductor is not None:
        compiled: Callable[..., Any] | None = inductor.compile_graph(gm, chosen, example_inputs)
        if compiled is not None:
            return compiled
    return compile_graph(Step.of(gm, chosen, example_inputs), gm, example_inputs)


def inductor_for(options: Options, example_inputs: Sequence[Any]) -> ModuleType | None:
    """The lowering to Inductor for a graph that goes there: as asked; unasked wherever it works."""
    if options.lowering == "aten":
        return None
    from roam.lowering.inductor import needs  # takes a second to import

    devices = {t.device for t in example_inputs if isinstance(t, torch.Tensor)}
    lacking = None if options.lowering else needs.missing(devices)
    if lacking is None:
        return needs.lowering()
    needs.say_missing(lacking)
    return None


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
