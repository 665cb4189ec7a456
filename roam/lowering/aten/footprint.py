"""Reads off a plan how many bytes it takes while it runs, and which tensors it leaves alive."""

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
    """The transient bytes that a graph takes without a budget.

    Attributes:
        peak: bytes at the worst moment.
        left: bytes that the forward leaves alive for the backward.
        unplanned: the peak of the backward if it runs without the plan and folds no gradient.
    """

    peak: Bytes
    left: Bytes
    unplanned: Bytes

    @staticmethod
    def of(problem: Problem, plan: Plan) -> Unlimited:
        """Reads the bytes off the plan of a Problem without copies."""
        left = left_by_forward(problem, plan)
        return Unlimited(plan.peak, left, _unplanned(problem, left))


@dataclass(frozen=True)
class Footprint:
    """The bytes that a plan takes, and where its saved tensors, outputs and gradients are passed.

    Positions are indices among the results or inputs of the forward's or the backward's graph.

    Attributes:
        persistent: bytes of parameters, states and inputs.
        forward, backward: the peak of each phase, in transient bytes.
        unplanned: the peak of the backward if it runs without the plan, in transient bytes: other
            code keeps the saved tensors alive, and no gradient is folded.
        saved: positions, among the forward's results, of the tensors saved for the backward.
        outputs: positions, among the forward's results, of the tensors that the user gets.
        gradients: positions, among the backward's results, of the gradients. `saved`, `outputs` and
            `gradients` list only tensors that the graph allocates.
        given: positions, among the backward's inputs, of the tensors that the forward made.
        tangents: positions, among the backward's inputs, of the gradients of the forward's outputs.
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
        """Reads the footprint off a plan.

        Args:
            captured: the Problem that was planned, and its graphs.
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
    """The bytes that a plan takes, and the bytes that it may take.

    Attributes:
        footprint: the bytes that the plan takes.
        unlimited: the bytes that the graph takes without a budget.
        most: transient bytes that the plan and everything beside it may take together. None if the
            budget is a total ("12GiB"): then the persistent bytes count too, those of other graphs
            included, and the limit is computed at each run.
    """

    footprint: Footprint
    unlimited: Unlimited
    most: Bytes | None


def _made(captured: Captured, graph: fx.Graph) -> Iterator[int]:
    """Yields the positions of the results of a graph that lie in memory allocated by the graph.

    Leaves out results that are inputs or views of them.
    """
    results = graph.output_node().args[0]
    for i, node in enumerate(results):  # type: ignore[arg-type]
        found = value(node) if isinstance(node, fx.Node) else None
        if isinstance(found, torch.Tensor):
            buffer = captured.problem.buffers[captured.buffer(found)]
            if buffer.home is not Home.USER:
                yield i


def _given(captured: Captured, phase: int) -> Iterator[int]:
    """Yields the positions of the backward's inputs that ops of a phase make.

    Ops of phase 0 make the saved tensors. The first op of phase 1, which is no op of the graph,
    makes the tangents: the gradients of the forward's outputs.
    """
    problem = captured.problem
    inputs = () if captured.backward is None else captured.backward.find_nodes(op="placeholder")
    for i, node in enumerate(inputs):
        found = value(node)
        maker = problem.maker[captured.buffer(found)] if isinstance(found, torch.Tensor) else None
        if maker is not None and problem.ops[maker].phase == phase:
            yield i


def _unplanned(problem: Problem, left: Bytes) -> Bytes:
    """Returns the peak of a backward in program order, in bytes, if every op allocates its results.

    No gradient is folded, so each stays alive to the end of the backward. Saved tensors do, too.

    left: bytes of the saved tensors and of all else that the forward leaves.
    """
    half = turn(problem)
    early = [b for op in problem.ops[:half] for b in op.creates]
    curve = live_curve(problem, range(len(problem.ops)), {}, early)[half:]
    folded = [0] * len(curve)  # by time: bytes of gradients that folds would have freed by then
    for b, buffer in enumerate(problem.buffers):
        if buffer.kind is Kind.GRADIENT and not buffer.kept and problem.users[b]:
            for t in range(problem.users[b][-1] + 1 - half, len(curve)):
                folded[t] += buffer.transient
    most = max((live + more for live, more in zip(curve, folded, strict=True)), default=0)
    return left + most
