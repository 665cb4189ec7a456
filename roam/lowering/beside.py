"""Finds the bytes that other graphs hold when a graph begins to run: all graphs share one budget.

Only graphs of the aten lowering with a budget mark what they hold (`roam.runtime.held_memory`), so
only these graphs count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from roam.core.budget import Beside
from roam.core.problem import Problem
from roam.runtime.held_memory import Held, Run, persistent


def beside_now(graph: str, args: Sequence[Any], problem: Problem, *, earlier: bool) -> Beside:
    """Returns the bytes that other graphs of the running step take as a graph begins to run.

    These are what they hold now, what they would hold without a budget, and their persistent bytes.
    Args:
        graph: the name of the graph that begins to run.
        args: the inputs of this graph.
        problem: the Problem of this graph.
        earlier: whether outputs and gradients that are left from earlier steps count.
    """
    run = Run(graph, persistent=persistent(args, problem.persistent))
    return Held.beside(run, earlier=earlier).to_budget(run, args)
