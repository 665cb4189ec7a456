"""What a plan takes of the device while it runs, and which of its results stay there afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx

from roam.capture.fx_problem import Captured
from roam.core.lifetime import live_curve
from roam.core.machine import Bytes
from roam.core.plan import Plan
from roam.core.problem import Home, Kind, Problem
from roam.inspect.nesting import left_by_forward, turn
from roam.passes.geometry import value


@dataclass(frozen=True)
class Unlimited:
    """What a graph takes without a budget.

    Attributes:
        peak: transient bytes at its worst moment.
        left: transient bytes that it leaves from its forward to its backward.
        unplanned: transient bytes of its backward if that runs without a plan (`Footprint`).
    """

    peak: Bytes
    left: Bytes
    unplanned: Bytes

    @staticmethod
    def of(problem: Problem, plan: Plan) -> Unlimited:
        """Reads them off a plan without copies."""
        left = left_by_forward(problem, plan)
        return Unlimited(plan.peak, left, _unplanned(problem, left))


@dataclass(frozen=True)
class Footprint:
    """What a plan takes, and where its results are.

    Attributes:
        persistent: bytes of parameters, states and inputs.
        forward, backward: transient bytes at the worst moment of each.
        unplanned: transient bytes of a backward that runs without the plan, whose saved tensors
            something else keeps, and that folds no gradient.
        saved, outputs: positions among the forward's results of tensors that the graph makes, for
            its backward and for the user.
        gradients: positions of such tensors among the backward's results.
        given: positions among the backward's inputs of what its forward made.
        tangents: positions there of the gradients of its outputs.
    """

    persistent: Bytes
    forward: Bytes
    backward: Bytes
    unplanned: Bytes
    saved: tuple[int, ...]
    outputs: tuple[int, ...]
    gradients: tuple[int, ...]
    given: tuple[int, ...]
    tangents: tuple[int, ...]

    @staticmethod
    def of(captured: Captured, plan: Plan, outputs: int | None) -> Footprint:
        """Reads it off a plan.

        Args:
            captured: what was planned.
            plan: the plan.
            outputs: how many of the forward's results are the user's; None for all of them.
        """
        problem = captured.problem
        curve, half = plan.committed(problem), turn(problem)
        made = [*_made(captured, captured.forward)]
        users = [i for i in made if outputs is None or i < outputs]
        late = [] if captured.backward is None else _made(captured, captured.backward)
        return Footprint(
            problem.persistent,
            max(curve[:half], default=0),
            max(curve[half:], default=0),
            _unplanned(problem, left_by_forward(problem, plan)),
            tuple(i for i in made if i not in users),
            tuple(users),
            tuple(late),
            tuple(_given(captured, 0)),
            tuple(_given(captured, 1)),
        )


@dataclass(frozen=True)
class Share:
    """What a plan takes, and what it may take.

    Attributes:
        footprint: what it takes.
        unlimited: what the graph takes without a budget.
        most: bytes that it and everything beside it may take; None for a total, which also depends
            on what is persistent beside it.
    """

    footprint: Footprint
    unlimited: Unlimited
    most: Bytes | None


def _made(captured: Captured, graph: fx.Graph) -> Iterator[int]:
    """Yields the positions of a graph's results that are tensors of its own."""
    results = graph.output_node().args[0]
    for i, node in enumerate(results):  # type: ignore[arg-type]
        found = value(node) if isinstance(node, fx.Node) else None
        if isinstance(found, torch.Tensor):
            buffer = captured.problem.buffers[captured.buffer(found)]
            if buffer.home is not Home.USER:
                yield i


def _given(captured: Captured, phase: int) -> Iterator[int]:
    """Yields the positions of the backward's inputs that ops of this phase make."""
    problem = captured.problem
    inputs = () if captured.backward is None else captured.backward.find_nodes(op="placeholder")
    for i, node in enumerate(inputs):
        found = value(node)
        maker = problem.maker[captured.buffer(found)] if isinstance(found, torch.Tensor) else None
        if maker is not None and problem.ops[maker].phase == phase:
            yield i


def _unplanned(problem: Problem, left: Bytes) -> Bytes:
    """Returns the peak of a backward in program order, where every op allocates its results.

    left: bytes that its forward leaves, and that stay.
    """
    half = turn(problem)
    early = [b for op in problem.ops[:half] for b in op.creates]
    curve = live_curve(problem, range(len(problem.ops)), {}, early)[half:]
    folded = [0] * len(curve)  # gradients behind their folds: without folds they stay
    for b, buffer in enumerate(problem.buffers):
        if buffer.kind is Kind.GRADIENT and not buffer.kept and problem.users[b]:
            for t in range(problem.users[b][-1] + 1 - half, len(curve)):
                folded[t] += buffer.transient
    most = max((live + more for live, more in zip(curve, folded, strict=True)), default=0)
    return left + most
