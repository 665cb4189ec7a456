"""The error of a graph that cannot keep its budget, whatever the lowering."""

from __future__ import annotations

from typing import Any

from torch._dynamo.exc import ShortenTraceback

from roam.core.budget import Beside
from roam.core.errors import BudgetError
from roam.core.machine import Bytes
from roam.core.problem import Kind, Problem
from roam.core.sizes import show_size


class CompileBudgetError(ShortenTraceback, BudgetError):
    """A BudgetError that dynamo passes to the user unwrapped."""

    def __init__(self, message: str, **figures: Any) -> None:
        ShortenTraceback.__init__(self, message, first_useful_frame=None)
        BudgetError.__init__(self, message, **figures)

    @staticmethod
    def of(error: BudgetError) -> CompileBudgetError:
        """Returns the same error for dynamo to pass on."""
        figures = {"budget": error.budget, "found": error.found, "least": error.least}
        return CompileBudgetError(str(error), **figures)


def no_plan(graph: str, why: object = "") -> str:
    """Returns what is said of a graph of whose memory nothing is known. why: the reason."""
    return f"{graph} has no plan, so it may not keep its budget{f': {why}' if why else ''}"


def above(graph: str, peak: Bytes, budget: str, limit: Bytes, why: str) -> str:
    """Returns what is said of a plan that takes more than a budget leaves.

    Args:
        graph: the name of the graph.
        peak: bytes of the plan.
        budget: as the user wrote it.
        limit: the bytes that it leaves.
        why: what the graph was compiled for, or lacks.
    """
    return (
        f"{graph} takes {show_size(peak)}, and its budget of {budget} leaves {show_size(limit)}: "
        f"it was compiled for {why}"
    )


def ways_out(problem: Problem, others: Beside | None = None, *, offloads: bool = False) -> str:
    """Returns a sentence that says what would lower the memory of a step.

    Args:
        problem: of a graph of the step.
        others: what other graphs take beside it; None if nobody knows.
        offloads: whether tensors may move to a tier already.
    """
    gradients = sum(b.transient for b in problem.buffers if b.kind is Kind.GRADIENT)
    outputs = sum(b.transient for b in problem.buffers if b.kind is Kind.OUTPUT)
    ways = []
    if others is not None and others.now:
        ways.append(
            "one graph in place of several (fullgraph=True finds the breaks); a share such as "
            "'60%', which leaves later graphs theirs"
        )
    if gradients > sum(b.transient for b in problem.buffers if b.kept) // 20:
        ways.append(
            f"folding the gradients with an optimizer of roam.optim ({show_size(gradients)} of "
            "them are kept)"
        )
    if outputs:
        ways.append(f"returning less than {show_size(outputs)} beside the loss")
    if not offloads:
        ways.append("the option offload, which moves tensors to a disk")
    ways += ["the option split=True", "a smaller micro-batch"]
    return f"What would lower it: {'; '.join(ways)}."
