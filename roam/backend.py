"""The `torch.compile` entry point: `torch.compile(model, backend="roam")`.

Dynamo captures graphs of the user's model; each goes to the lowering that the options ask for,
which lets AOTAutograd take it apart into forward and backward, plans them together, and runs the
plan: `lowering/step.py` with ATen's own kernels, `lowering/inductor.py` with fused ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from inspect import currentframe
from typing import Any

import torch
from torch import fx
from torch._dynamo.exc import ShortenTraceback, TorchDynamoException

from roam.core.errors import OptionError
from roam.lowering.step import Step, compile_graph
from roam.options import Options


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
    if chosen.lowering == "inductor":
        from roam.lowering import inductor  # takes a second to import, and few ask for it

        return inductor.compile_graph(gm, chosen, example_inputs)
    return compile_graph(Step.of(gm, chosen, example_inputs), gm, example_inputs)


TRACING_ERRORS = (TorchDynamoException,)


def can_trace_backward() -> bool:
    return hasattr(torch._dynamo.config, "trace_autograd_ops")


def one_graph() -> AbstractContextManager[None]:
    """Within, dynamo captures `backward()` and `torch.autograd.grad` instead of breaking there."""
    return torch._dynamo.config.patch(trace_autograd_ops=True)
