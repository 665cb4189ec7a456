"""Inspects the autograd graph of the running `backward()`: which edges end in a parameter.

The engine does not tell a running node about the nodes that are still to run. But the Python frame
of `_engine_run_backward` holds the tensors at which the backward started:

    loss.backward() ── frame: t_outputs = (loss,)
                                  │ next_functions
             AddBackward ─┬─ the compiled graph ── AccumulateGrad(p)      two edges: the gradient
                          └─ PowBackward ───────── AccumulateGrad(p)      of p is a sum of both
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch.autograd import graph as autograd_graph
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.utils.checkpoint import CheckpointFunction

NO_TASK = -1  # what `current_task()` returns outside of a backward

_ENGINE_CALL = autograd_graph._engine_run_backward.__code__
_CHECKPOINT_CALL = CheckpointFunction.forward.__code__

Roots = Sequence[torch.Tensor | GradientEdge]


@dataclass(frozen=True)
class Edges:
    """Ids of the parameters in which edges of the running backwards end.

    Attributes:
        summed: ids of parameters in which more than one edge of the innermost backward ends.
        around: ids of parameters in which an edge of an outer backward ends (a checkpoint with
            use_reentrant=True calls `backward()` inside a backward).
    """

    summed: frozenset[int]
    around: frozenset[int]


def current_task() -> int:
    """Returns the number of the engine's call (backward) that this thread runs in, or NO_TASK."""
    return torch._C._current_graph_task_id()


def retained() -> bool:
    """Returns whether the running backward retains its graph: another backward may follow."""
    return torch._C._autograd._get_current_graph_task_keep_graph()


def edges() -> Edges | None:
    """Returns the edges into parameters of the backward that runs now.

    Must be called while a node of that backward runs. Returns None if the backward was not called
    from Python.
    """
    node = torch._C._current_autograd_node()
    for here, *around in _calls():
        counted = _edges_from(here)
        if node in counted:
            summed = _parameters(n for n, k in counted.items() if k > 1)
            outer = (_parameters(_edges_from(roots)) for roots in around)
            return Edges(summed, frozenset().union(*outer))
    return None


def in_checkpoint() -> bool:
    """Returns whether a checkpoint with use_reentrant=True runs its function for the first time.

    The checkpoint will run the function again, with gradients, in the backward.
    """
    return any(frame.f_code is _CHECKPOINT_CALL for frame in _stack(sys._getframe()))


def _calls() -> Iterator[list[Roots]]:
    """Yields, for a thread, the roots (starting tensors) of its nested backwards, innermost first.

    The engine's own thread of a device has no Python frame of a backward, and may work for any
    other thread. Called there, this yields the roots for each thread.
    """
    own = _roots(sys._getframe())
    if own:
        yield own
        return
    for frame in sys._current_frames().values():
        if found := _roots(frame):
            yield found


def _roots(top: FrameType) -> list[Roots]:
    return [frame.f_locals["t_outputs"] for frame in _stack(top) if frame.f_code is _ENGINE_CALL]


def _stack(top: FrameType | None) -> Iterator[FrameType]:
    while top is not None:
        yield top
        top = top.f_back


def _edges_from(roots: Roots) -> dict[Node, int]:
    """Returns the autograd nodes reachable from the roots, each with its number of input edges."""
    found: dict[Any, int] = {}
    for root in roots:
        node = root.node if isinstance(root, GradientEdge) else get_gradient_edge(root).node
        found[node] = found.get(node, 0) + 1
    waiting = list(found)
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node in found:
                found[node] += 1
            elif node is not None:
                found[node] = 1
                waiting.append(node)
    return found


def _parameters(nodes: Iterable[Any]) -> frozenset[int]:
    accumulate = torch._C._functions.AccumulateGrad  # type: ignore[attr-defined]
    return frozenset(id(n.variable) for n in nodes if isinstance(n, accumulate))
