"""Chooses the lowering of a captured graph."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterator
from functools import cache
from importlib import import_module

import torch

from roam.core.errors import UnplannedWarning
from roam.lowering.protocol import Lowering
from roam.options import LOWERINGS, Options

log = logging.getLogger("roam")


def lowering(name: str) -> Lowering:
    found: Lowering = import_module(LOWERINGS[name]).LOWERING
    return found


def candidates(options: Options, devices: Collection[torch.device]) -> Iterator[Lowering]:
    """Yields the lowerings to try, in the order of LOWERINGS.

    Begins with the lowering that the user named; without a name, with the first lowering. Leaves
    out lowerings that do not work on these devices, and logs why. If a lowering cannot compile
    the graph, the caller tries the next lowering.
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
    """Logs what a lowering lacks. Logs each text only once in a process."""
    log.warning(
        "%s: graphs run ATen's own kernels instead of Inductor's (%s)",
        what,
        'options={"lowering": "aten"} asks for that',
    )


def warn_refused(lowering: Lowering, name: str, error: Exception) -> None:
    """Warns that a lowering cannot compile a graph, and that the next lowering will."""
    reason = str(error).strip().partition("\n")[0]
    text = (
        f"{lowering.name} cannot compile {name}, which goes to the next lowering, ATen's kernels "
        f"at last: {reason}"
    )
    warnings.warn(text, UnplannedWarning, stacklevel=3)
