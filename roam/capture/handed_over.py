"""Tells which inputs of a graph another compiled graph has made.

    graph 1 ── its outputs, marked with its name ── code of the user ──► inputs of graph 2

A mark hangs on a tensor's memory and is freed with it, so views that the user's code makes of an
output have the mark, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


def marking(run: Callable[..., Any], graph: str) -> Callable[..., Any]:
    """Returns a callable that runs a compiled graph and marks its outputs with the graph's name."""

    def run_and_mark(*args: Any) -> Any:
        results = run(*args)
        for result in results if isinstance(results, (tuple, list)) else (results,):
            if _has_memory(result):
                result.untyped_storage().roam_made_by = graph
        return results

    return run_and_mark


def makers(inputs: Sequence[Any]) -> dict[int, str]:
    """Returns, by position among a graph's inputs, the name of the graph that made the input."""
    found = {i: made_by(value) for i, value in enumerate(inputs)}
    return {i: graph for i, graph in found.items() if graph}


def made_by(value: Any) -> str:
    """Returns the name of the graph that made a tensor; empty if none did."""
    return getattr(value.untyped_storage(), "roam_made_by", "") if _has_memory(value) else ""


def _has_memory(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout is torch.strided
