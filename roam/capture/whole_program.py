"""What dynamo captures of a program that calls `backward()` itself, and what it does outside."""

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
