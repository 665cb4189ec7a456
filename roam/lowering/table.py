"""Chooses the lowering of a captured graph."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache
from importlib import import_module
from typing import Any

import torch

from roam.core.errors import UnplannedWarning
from roam.lowering.protocol import Lowering
from roam.options import LOWERINGS, Options

log = logging.getLogger("roam")


def lowering(name: str) -> Lowering:
    """Imports the lowering of this name, a key of LOWERINGS, and returns it."""
    found: Lowering = import_module(LOWERINGS[name]).LOWERING
    return found


def candidates(options: Options, devices: Collection[torch.device]) -> Iterator[Lowering]:
    """Yields the lowerings to try: those of LOWERINGS, from the one that the user named on.

    Begins with the first of LOWERINGS if the user named none. Skips a lowering that does not work
    on these devices, and logs a warning that says why. If a lowering cannot compile the graph, even
    the one that the user named, the caller tries the next one.
    """
    names = list(LOWERINGS)
    first = 0 if options.lowering is None else names.index(options.lowering)
    for name in names[first:]:
        found = lowering(name)
        lacking = found.lacks(devices, asked=options.lowering == name)
        if lacking is None:
            yield found
        else:
            say_missing(lacking)


@cache
def say_missing(what: str) -> None:
    """Logs a warning that Inductor's lowering cannot be used, once in a process for each `what`.

    `what` tells what it lacks, such as a compiler.
    """
    log.warning(
        "%s: graphs run ATen's own kernels instead of Inductor's (%s)",
        what,
        'options={"lowering": "aten"} asks for that',
    )


def first_to_compile(
    options: Options,
    name: str,
    example_inputs: Sequence[Any],
    compile_by: Callable[[Lowering], Callable[..., Any]],
) -> Callable[..., Any]:
    """Returns what `compile_by` makes of a graph with the first lowering that can compile it.

    Warns if a lowering refuses the graph, and tries the next one. Lets all other errors of
    `compile_by` pass, such as BudgetError.

    Args:
        options: the user's options, which may name a lowering.
        name: the name of the graph, for the warning.
        example_inputs: the graph's inputs. The lowering has to work on their devices.
        compile_by: compiles the graph; raises one of the lowering's `refusals` if it cannot.
    """
    devices = {t.device for t in example_inputs if isinstance(t, torch.Tensor)}
    for lowering in candidates(options, devices):
        try:
            return compile_by(lowering)
        except lowering.refusals as error:
            warn_refused(lowering, name, error)
    raise AssertionError("ATen's kernels refuse no graph")


def warn_refused(lowering: Lowering, name: str, error: Exception) -> None:
    """Warns that a lowering cannot compile a graph, and that the next lowering is tried."""
    reason = str(error).strip().partition("\n")[0]
    text = (
        f"{lowering.name} cannot compile {name}, which goes to the next lowering, ATen's kernels "
        f"at last: {reason}"
    )
    warnings.warn(text, UnplannedWarning, stacklevel=4)
