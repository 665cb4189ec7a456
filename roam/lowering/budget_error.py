"""Defines the error for a graph that cannot keep its budget, and its texts, for all lowerings."""

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
        """Returns an error with the same text and figures, which reaches the user unwrapped."""
        figures = {"budget": error.budget, "found": error.found, "least": error.least}
        return CompileBudgetError(str(error), **figures)


def no_plan(graph: str, why: object = "") -> str:
    """Returns the text of an error: a graph with a budget has no plan.

    `why` is the reason; "" if it is unknown.
    """
    return f"{graph} has no plan, so it may not keep its budget{f': {why}' if why else ''}"


def above(graph: str, peak: Bytes, budget: str, limit: Bytes, why: str) -> str:
    """Returns the text of an error: a plan takes more than the budget leaves.

    Args:
        graph: the name of the graph.
        peak: the peak of the plan, in bytes.
        budget: the budget as the user wrote it.
        limit: the transient bytes that the budget leaves to the graph.
        why: what the graph was compiled for instead; ends the sentence "it was compiled for ...".
    """
    return (
        f"{graph} takes {show_size(peak)}, and its budget of {budget} leaves {show_size(limit)}: "
        f"it was compiled for {why}"
    )


def ways_out(problem: Problem, others: Beside | None = None, *, offloads: bool = False) -> str:
    """Returns a sentence for errors that lists what would lower the memory of a step.

    Args:
        problem: the Problem of a graph of the step, whose gradients and outputs are looked at.
        others: the bytes that other graphs take; None if unknown.
        offloads: whether the options already let tensors move to a tier. If not, the sentence
            names the option that does.
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
