"""The step driver of offline plans: a graph is planned when its forward runs without data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch._dynamo.exc import ShortenTraceback
from torch._guards import CompileId
from torch.nn import Parameter

from roam.capture.fake_copies import is_built_for, without_fakes
from roam.capture.graph_names import DynamoGraph
from roam.capture.handed_over import made_by, marking
from roam.capture.usual_costs import Costs
from roam.core.budget import Beside
from roam.core.errors import OfflineError
from roam.core.folds import Folds
from roam.core.problem import Problem
from roam.core.sharded import Sharding, sharded
from roam.inspect.nesting import beside
from roam.inspect.record import GraphRecord
from roam.lowering.aten.kernels import AtenKernels
from roam.lowering.protocol import Lowering, OfflineKernels
from roam.lowering.table import first_to_compile
from roam.lowering.trace import tell
from roam.optim.folding import FoldingOptimizer
from roam.options import Options
from roam.planner import Settings, plan
from roam.step.graph_optimizers import Needs, Used, offline_needs_of
from roam.step.pending_forwards import left_whole

Original = Mapping[Tensor, Parameter]  # copy without data -> the parameter that it is a copy of


class _OfflineError(ShortenTraceback, OfflineError):
    """An OfflineError that dynamo passes to the user unwrapped."""


@dataclass
class OfflineReports:
    """Collects the plans of a step that is planned and does not run."""

    records: list[GraphRecord] = field(default_factory=list)
    compile_id: CompileId | None = None

    def planned(self, graph: GraphRecord, instead_of: GraphRecord | None = None) -> None:
        self.records.append(graph)
        tell(graph, self.compile_id)

    def unplanned(self, graph: GraphRecord, error: Exception, text: str) -> None:
        """Raises OfflineError: an offline step exists only to be planned."""
        reason = f"{graph.name} cannot be planned: {graph.reason}"
        raise _OfflineError(reason, first_useful_frame=None) from error


@dataclass
class OfflineStep:
    """A captured graph whose inputs are copies of the user's model, without data.

    Attributes:
        plan: called instead of running the graph: plans it, or captures its Problem.
        before: the records of the graphs whose forwards ran before this one's.
        needs: returns what a plan has to know of a fold.
    """

    kernels: OfflineKernels
    original: Original
    plan: Callable[[Sequence[Any], Folds], object]
    before: Sequence[GraphRecord] = ()
    needs: Needs = FoldingOptimizer.needs

    def forward(self, args: list[Any]) -> Sequence[Any]:
        folds = self.folds(args)
        with without_fakes():
            self.plan(args, folds)
        return self.kernels.plain_forward(args)

    def expected_folds(self, args: Sequence[Any]) -> Folds:
        return self.folds(args)

    def beside(self, args: Sequence[Any], problem: Problem, *, earlier: bool = False) -> Beside:
        found = beside(self.before, problem)
        # what they have made is an input of this graph: it counts once, as one of their outputs
        storages = {a.untyped_storage() for a in args if made_by(a)}
        handed = sum(s.nbytes() for s in storages)
        return replace(found, persistent=found.persistent - handed)

    def folds(self, args: Sequence[Any]) -> Folds:
        """Returns the folds that the step would make with the user's parameters, not the copies."""
        kernels = self.kernels
        if not kernels.may_fold or not kernels.trains or kernels.own_saved is None:
            return ()
        found = [self.original.get(a) if isinstance(a, Tensor) else None for a in args]
        free = [p if p is not None and not left_whole(p) else None for p in found]
        used = Used.of(free, kernels.gradient_values, self.needs)
        return tuple(sorted(fold for each in used for fold in each.folds))

    def backward(self, args: list[Any]) -> Sequence[Any]:
        return self.kernels.plain_backward(args)


def plan_graph(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    options: Options,
    original: Original,
    stands_for: torch.device | None,
    costs: Costs | None,
    records: list[GraphRecord],
) -> Callable[..., Any]:
    """Returns a callable for a graph that dynamo captured. Calling it plans the graph.

    Args:
        original: the parameters that the inputs are copies of.
        stands_for: the device that is planned for, if this torch was built without it.
        costs: tells how long ops take; None if that is unknown.
        records: the list to which the plan is added.
    """
    graph = DynamoGraph.of(gm, example_inputs)
    reports = OfflineReports(records, graph.compile_id)

    def step(kernels: OfflineKernels) -> OfflineStep:
        return OfflineStep(kernels, original, kernels.plan, records, offline_needs_of(options))

    def compile_by(lowering: Lowering) -> Callable[..., Any]:
        kernels = lowering.offline_kernels(graph, options, reports, stands_for, costs)
        return kernels.compile(gm, example_inputs, step(kernels))

    return marking(first_to_compile(options, graph.name, example_inputs, compile_by), graph.name)


def capture_graph(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    options: Options,
    original: Original,
    stands_for: torch.device | None,
    found: list[Problem],
) -> Callable[..., Any]:
    """Returns a callable as `plan_graph` does. Calling it adds the graph's Problem to `found`."""
    graph = DynamoGraph.of(gm, example_inputs)
    kernels = AtenKernels(graph, options, OfflineReports(), stands_for, searches=False)

    def look(args: Sequence[Any], folds: Folds) -> None:
        found.append(kernels.unplanned_problem(args, folds).problem)

    return kernels.compile(gm, example_inputs, OfflineStep(kernels, original, look))


def one_rank(record: GraphRecord, how: Sharding, seconds: float) -> GraphRecord:
    """Returns the record of a graph on one of the ranks that share its parameters.

    What runs again stays as it was chosen for a process that trains alone.

    Args:
        record: the graph's, planned for a process that trains alone.
        how: how the ranks share parameters.
        seconds: how much work planning may take, as `Settings.seconds`.
    """
    assert record.problem is not None, "an offline plan that fails raises"
    problem = sharded(record.problem, how)
    found = plan(problem, Settings(seconds))
    return replace(record, problem=problem, plan=found, step=None)


def usual_lowering(device: torch.device | str | None) -> str:
    """Returns the lowering that the backend chooses on a machine with all that Inductor needs.

    Args:
        device: where the step will run; None for the device that holds the model.
    """
    from roam.lowering.inductor.needs import DEVICES  # takes a second to import

    known = device is None or (torch.device(device).type in DEVICES and is_built_for(device))
    return "inductor" if known else "aten"
