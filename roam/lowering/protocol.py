"""The protocol between the step driver and a lowering.

    backend ── Lowering.kernels(graph) ── Kernels
                                            │ compile(gm, inputs, driver)
    AOTAutograd calls                       v
        forward   ── driver.forward ── plan(args, folds) ── forward(planned, args)
        backward  ── driver.backward ── refusal(planned, args) ── backward(planned, args, absorb)

The driver knows autograd, pending forwards and optimizers; the kernels know graphs and plans.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, fx

from roam.capture.graph_names import DynamoGraph
from roam.core.folds import Folds
from roam.inspect.record import GraphRecord
from roam.options import Options

if TYPE_CHECKING:
    from roam.capture.op_costs import OpCosts

# takes gradients in, each with the input that it is the gradient of
Absorb = Callable[[Sequence[tuple[int, Tensor]]], None]
Boxed = Callable[[list[Any]], Sequence[Any]]  # takes its inputs in a list, and empties it


class Reports(Protocol):
    """Records whether a graph was planned."""

    def planned(self, graph: GraphRecord, instead_of: GraphRecord | None = None) -> None:
        """Records a plan. instead_of: an older record, whose plan no step will run again."""
        ...

    def unplanned(self, graph: GraphRecord, error: Exception, text: str) -> None:
        """Records and warns that a graph runs without a plan. Offline it raises OfflineError."""
        ...


class Driver(Protocol):
    """Runs a compiled graph when the user's program calls it, and when autograd does."""

    def forward(self, args: list[Any]) -> Sequence[Any]: ...

    def backward(self, args: list[Any]) -> Sequence[Any]: ...


class Kernels(Protocol):
    """One captured graph in the kernels of a lowering.

    Attributes:
        gradient_values: the fake value of each gradient, by the input that it is the gradient of;
            empty if the graph has no backward.
        own_saved: position of an output of the forward that only its backward gets; None if there
            is none, or no backward.
        without_plan: for the log, what happens to a backward that may not run as planned.
    """

    own_saved: int | None
    without_plan: str

    @property
    def may_fold(self) -> bool:
        """Whether gradients may be folded in the backward."""
        ...

    @property
    def gradient_values(self) -> Mapping[int, Any]: ...

    @property
    def trains(self) -> bool:
        """Whether the graph that runs next has a backward."""
        ...

    def compile(
        self, gm: fx.GraphModule, example_inputs: Sequence[Any], driver: Driver
    ) -> Callable[..., Any]:
        """Compiles the graph. The result, when called, runs forward and backward by the driver."""
        ...

    def plan(self, args: Sequence[Any], folds: Folds) -> Any:
        """Returns the plan for these inputs and folds of the backward, None if planning fails."""
        ...

    def forward(self, planned: Any, args: list[Any]) -> Sequence[Any]: ...

    def found(self, args: Sequence[Any]) -> Any:
        """Returns the plan without folds by which this backward's forward ran, None if unknown."""
        ...

    def folds(self, planned: Any) -> bool:
        """Whether the backward of a plan folds gradients."""
        ...

    def refusal(self, planned: Any, args: list[Any], *, retained: bool) -> str | None:
        """Returns why a backward must not run as planned; None if it may.

        Args:
            args: the inputs of the backward.
            retained: autograd keeps the graph, so that another backward may follow.
        """
        ...

    def backward(self, planned: Any, args: list[Any], absorb: Absorb | None) -> Sequence[Any]:
        """Runs a backward as planned. absorb: takes the folded gradients, if there are any."""
        ...

    def plain_backward(self, args: list[Any]) -> Sequence[Any]:
        """Runs the backward so that it returns every gradient and needs nothing of a plan."""
        ...


class OfflineKernels(Kernels, Protocol):
    """Kernels whose `plan` plans forward and backward, on tensors without data."""

    def plain_forward(self, args: list[Any]) -> Sequence[Any]:
        """Runs the forward as it was captured."""
        ...


class Lowering(Protocol):
    """Makes kernels of captured graphs.

    Attributes:
        name: the value of the option "lowering".
        refusals: what `Kernels.compile` raises if the lowering cannot compile a graph.
    """

    name: str
    refusals: tuple[type[Exception], ...]

    def lacks(self, devices: Collection[torch.device], *, asked: bool) -> str | None:
        """Returns what the lowering lacks to work on these devices; None if it works.

        Args:
            asked: the user named the lowering: only what makes it impossible counts.
        """
        ...

    def kernels(self, graph: DynamoGraph, options: Options, reports: Reports) -> Kernels: ...

    def offline_kernels(
        self,
        graph: DynamoGraph,
        options: Options,
        reports: Reports,
        stands_for: torch.device | None,
        costs: OpCosts | None,
    ) -> OfflineKernels:
        """Returns kernels that plan and generate no code.

        Args:
            stands_for: the device that is planned for, if this torch was built without it.
            costs: tells those of ops, if they can be told.
        """
        ...
