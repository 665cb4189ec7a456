"""Makes dynamo capture a program with its `backward()`, and tells what it reads and changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
from torch._dynamo.symbolic_convert import InstructionTranslator
from torch._dynamo.variables import ConstantVariable

TRACING_ERRORS = (TorchDynamoException, FailOnRecompileLimitHit)


def can_trace_backward() -> bool:
    return hasattr(torch._dynamo.config, "trace_autograd_ops")


def is_read(thing: object) -> bool:
    """Returns whether the program that dynamo is capturing has read a list, dict or object."""
    return thing in InstructionTranslator.current_tx().output.side_effects


def is_changed(thing: object) -> bool:
    """Returns whether the program that dynamo is capturing changes a list, dict or object.

    Wherever the change stands in the program, it happens after the graph has run.
    """
    effects = InstructionTranslator.current_tx().output.side_effects
    return thing in effects and effects.is_modified(effects[thing])


@contextmanager
def one_graph() -> Iterator[None]:
    """A context in which dynamo captures `backward()` and `torch.autograd.grad` without a break.

    Dynamo (torch 2.13) shares one variable for None among all captures, and stores in it where a
    `.grad` that is None was read. A later graph that passes a None over a graph break would look it
    up there, so the stored place is removed at the end.
    """
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        try:
            yield
        finally:
            ConstantVariable.create(None).source = None
