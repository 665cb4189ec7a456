"""The protocol between the step driver, which runs compiled graphs, and a lowering.

    backend ── Lowering.kernels(graph) ── Kernels
                                            │ compile(gm, inputs, driver)
    AOTAutograd calls                       v
        forward   ── driver.forward ── plan(args, folds) ── forward(planned, args)
        backward  ── driver.backward ── refusal(planned, args) ── backward(planned, args, run)

The driver knows autograd, optimizers and pending forwards (whose backward has not run); the kernels
know graphs and plans. `folds` lists the gradients that the backward folds (absorbs into the
optimizer's state). `planned` is the lowering's own plan object; None if planning failed, and then
the graph runs without a plan. If `refusal` gives a reason, `plain_backward` runs instead.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import fx

from roam.capture.graph_names import DynamoGraph
from roam.core.budget import Beside
from roam.core.folds import Folds
from roam.core.problem import Problem
from roam.inspect.record import GraphRecord
from roam.options import Options
from roam.passes.gradient_release import RunFolds

if TYPE_CHECKING:
    from roam.capture.usual_costs import Costs
    from roam.optim.formula import BoundFormula

Boxed = Callable[[list[Any]], Sequence[Any]]  # code that takes and empties a list of inputs


class Reports(Protocol):
    """Records, for each graph, its plan or the reason why it has none."""

    def planned(self, graph: GraphRecord, instead_of: GraphRecord | None = None) -> None:
        """Records that a graph was planned.

        Args:
            graph: the record with the plan.
            instead_of: an older record to remove, whose plan no step will run again; None if there
                is none.
        """
        ...

    def unplanned(self, graph: GraphRecord, error: Exception, text: str) -> None:
        """Records that a graph runs without a plan, and warns.

        Args:
            graph: the record of the graph, with the reason why it has no plan.
            error: why planning failed.
            text: the text of the warning.

        Raises:
            OfflineError: the step is only planned and never runs, so it needs a plan.
        """
        ...


class Driver(Protocol):
    """Runs a compiled graph: the forward for the user's program, the backward for autograd.

    `forward` and `backward` take a list of inputs, which they may empty, and return the results.
    """

    def forward(self, args: list[Any]) -> Sequence[Any]: ...

    def backward(self, args: list[Any]) -> Sequence[Any]: ...

    def expected_folds(self, args: Sequence[Any]) -> Folds:
        """Returns the folds that a forward with these inputs would leave to its backward."""
        ...

    def beside(self, args: Sequence[Any], problem: Problem, *, earlier: bool = False) -> Beside:
        """Returns the bytes that other graphs of the step take, as this graph's forward begins.

        Args:
            args: the inputs of the forward.
            problem: the Problem of this graph.
            earlier: whether outputs and gradients that are left from earlier steps count.
        """
        ...


class Folding(RunFolds, Protocol):
    """The folds of one run of a graph: gradients that are absorbed into the optimizers' states.

    They are carried out by calls of the optimizers, or by the graph's own kernels (`formulas`).
    """

    def formulas(self) -> Mapping[int, BoundFormula] | None:
        """Returns the formulas by which the graph can fold gradients by its own kernels.

        They are listed by the index of the parameter among the graph's inputs. Returns None if one
        of the folds can only be carried out by a call of its optimizer.
        """
        ...

    def count_folds(self) -> None:
        """Counts all folds of the run in the optimizers, after the graph's own kernels did them."""
        ...


class Kernels(Protocol):
    """One captured graph, compiled and run by a lowering.

    Attributes:
        gradient_values: by index of a graph input, its gradient as a fake tensor; empty if the
            graph computes no gradients.
        own_saved: position, among the forward's outputs, of a tensor saved for the backward that
            shares no memory with the user's tensors; None if there is none, or no backward.
        without_plan: the end of the warning about a backward that did not run as planned. Tells
            what happened instead, such as "this backward ran unplanned".
    """

    own_saved: int | None
    without_plan: str

    @property
    def may_be_replaced(self) -> bool:
        """Whether runs of this graph may lead to compiling it anew, with other kernels.

        If so, `successor` has to be called before each run.
        """
        ...

    @property
    def may_fold(self) -> bool:
        """Whether the backward may fold gradients (absorb them into the optimizer's state)."""
        ...

    @property
    def gradient_values(self) -> Mapping[int, Any]: ...

    @property
    def trains(self) -> bool:
        """Whether the compiled graph has a backward."""
        ...

    def compile(
        self, gm: fx.GraphModule, example_inputs: Sequence[Any], driver: Driver
    ) -> Callable[..., Any]:
        """Compiles the graph.

        Returns a callable that runs the graph's forward and backward through `driver`.

        Raises:
            BudgetError: the graph cannot keep the user's budget.
            Exception: one of `Lowering.refusals`: the lowering cannot compile the graph.
        """
        ...

    def plan(self, args: Sequence[Any], folds: Folds) -> Any:
        """Returns the plan for a forward with these inputs; None if planning failed.

        Makes the plan if there is none yet for these inputs and folds.

        Args:
            args: the inputs of the forward.
            folds: the gradients that its backward folds (absorbs into the optimizer's state).

        Raises:
            BudgetError: there is no plan within the user's budget.
        """
        ...

    def forward(self, planned: Any, args: list[Any]) -> Sequence[Any]:
        """Runs a forward as planned; without a plan if `planned` is None.

        Raises:
            BudgetError: together with what other graphs hold now, it would break the budget.
        """
        ...

    def found(self, args: Sequence[Any]) -> Any:
        """Returns the plan of the forward that saved the tensors in `args`, a backward's inputs.

        Looks only at plans that fold no gradients. Returns None if no plan is for these inputs.
        """
        ...

    def folds(self, planned: Any) -> bool:
        """Returns whether the backward of a plan folds gradients."""
        ...

    def refusal(self, planned: Any, args: list[Any], *, retained: bool) -> str | None:
        """Returns the reason why a backward must not run as planned; None if it may.

        Args:
            planned: the plan by which the forward ran.
            args: the inputs of the backward.
            retained: whether autograd keeps the graph, so that another backward may follow.
        """
        ...

    def backward(self, planned: Any, args: list[Any], run: Folding | None) -> Sequence[Any]:
        """Runs a backward as planned.

        Args:
            planned: the plan by which the forward ran.
            args: the inputs of the backward.
            run: gets the gradients that the plan folds; None if it folds none.

        Raises:
            BudgetError: together with what other graphs hold now, it would break the budget.
        """
        ...

    def successor(self) -> Kernels | None:
        """Returns kernels with which to compile the graph anew; None to go on with these.

        The graph is compiled anew if measured steps show that the plan relies on wrong durations of
        ops or transfers. The new kernels plan with the durations measured.
        """
        ...

    def plain_backward(self, args: list[Any], reason: str = "") -> Sequence[Any]:
        """Runs the backward without a plan. Returns every gradient and folds none.

        Args:
            args: the inputs of the backward.
            reason: why it may not run as planned.

        Raises:
            BudgetError: without its plan, it would break the user's budget.
        """
        ...


class OfflineKernels(Kernels, Protocol):
    """Kernels for offline plans: `plan` plans forward and backward, on tensors without data."""

    def plain_forward(self, args: list[Any]) -> Sequence[Any]:
        """Runs the forward as it was captured, without a plan."""
        ...


class Lowering(Protocol):
    """A way to compile and run captured graphs: a factory of `Kernels`.

    Attributes:
        name: the value of the option "lowering" that asks for it.
        refusals: the exceptions that `Kernels.compile` raises if the lowering cannot compile a
            graph; empty if it compiles every graph.
    """

    name: str
    refusals: tuple[type[Exception], ...]

    def lacks(self, devices: Collection[torch.device], *, asked: bool) -> str | None:
        """Returns what the lowering lacks to work on these devices; None if it works.

        Args:
            devices: the devices of the graph.
            asked: whether the user named this lowering. If so, a lack that only makes it a bad
                default, such as a missing compiler, does not count.
        """
        ...

    def kernels(self, graph: DynamoGraph, options: Options, reports: Reports) -> Kernels: ...

    def offline_kernels(
        self,
        graph: DynamoGraph,
        options: Options,
        reports: Reports,
        stands_for: torch.device | None,
        costs: Costs | None,
    ) -> OfflineKernels:
        """Returns kernels that plan a graph and generate no code.

        Args:
            graph: the captured graph.
            options: the options of roam.
            reports: records plans and failures.
            stands_for: the device that is planned for, if this torch was built without that device;
                else None.
            costs: finds the seconds that ops take; None if that is unknown.
        """
        ...
