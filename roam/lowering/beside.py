"""What is held beside a graph that begins to run, for a budget that several graphs share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from roam.core.budget import Beside
from roam.core.problem import Problem
from roam.runtime.held_memory import Held, Run, persistent


def beside_now(graph: str, args: Sequence[Any], problem: Problem) -> Beside:
    """Returns what other graphs of the running step take now.

    Args:
        graph: the name of the graph that begins to run.
        args: its inputs.
        problem: its Problem.
    """
    run = Run(graph, persistent=persistent(args, problem.persistent))
    return Held.beside(run, earlier=False).to_budget(run, args)
