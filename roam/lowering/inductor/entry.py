"""The `inductor` lowering: Inductor fuses and generates the kernels, roam decides their order and
where lies what the forward saves.

    dynamo's graph ── compile_fx ──┬── forward ─────────── scheduler ── order ── code
                                   └── backward ── folds ── scheduler ── order ── code
                                                            fuses       Problem, Plan

Partitioning, fusion, in-place reuse and the caches are Inductor's. Saved tensors lie in blocks
where a caching allocator would otherwise reserve more, and the peak stays the live peak (on the CPU
gaps between them may cost a thousandth of it where the order saves as much): from the second step
on, for the forward is compiled before its backward is known. Everything else is an
allocation of its own; and so are saved tensors where shapes are dynamic, with several devices in
one graph, with cpp_wrapper, and where two backwards of one forward were planned with different
blocks.

Private names of Inductor are used in the files `inductor*.py` of this folder and nowhere else. They
were tested with the versions in TESTED. With another version roam says so once, folds no gradients
inside the backward, and runs Inductor's own order wherever planning one fails. What Inductor cannot
compile runs ATen's kernels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import fx
from torch._inductor.exc import InductorError

from roam.capture.graph_names import graph_name
from roam.core.errors import UnplannedWarning
from roam.lowering.inductor.folds import FoldingCompilation
from roam.lowering.inductor.order import Compilation
from roam.options import Options

TESTED = ("2.11", "2.12", "2.13", "2.14", "2.15")
REFUSALS = (InductorError,)  # what is raised where Inductor cannot compile a graph


def compile_graph(
    gm: fx.GraphModule, options: Options, example_inputs: Sequence[Any]
) -> Callable[..., Any] | None:
    """Has Inductor compile one graph that dynamo captured, in planned orders.

    None where Inductor cannot, which is said.
    """
    kind = FoldingCompilation if folds(options) else Compilation
    try:
        return kind.of(gm, options, example_inputs).run(gm, example_inputs)
    except REFUSALS as error:
        say_refused(graph_name(gm), error)
        return None


def say_refused(name: str, error: Exception) -> None:
    reason = str(error).strip().partition("\n")[0]
    text = f"Inductor cannot compile {name}, which runs ATen's kernels: {reason}"
    warnings.warn(text, UnplannedWarning, stacklevel=3)


def folds(options: Options) -> bool:
    """Whether backwards fold gradients."""
    known = is_tested(".".join(torch.__version__.split(".")[:2]))
    return known and options.optimizer is not None


@cache
def is_tested(version: str) -> bool:
    """Whether this is a version whose private names are known; says so once if it is not."""
    if version not in TESTED:
        known = ", ".join(TESTED)
        text = f"the inductor lowering is tested with torch {known}, not {version}"
        warnings.warn(text, UnplannedWarning, stacklevel=3)
    return version in TESTED
