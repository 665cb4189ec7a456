"""The step driver of offline plans: a graph is planned when its forward runs without data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch._dynamo.exc import ShortenTraceback
from torch.nn import Parameter

from roam.capture.fake_copies import without_fakes
from roam.core.errors import OfflineError
from roam.inspect.report import GraphRecord
from roam.lowering.protocol import OfflineKernels
from roam.optim.fold import Folds
from roam.step.graph_optimizers import Used
from roam.step.pending_forwards import left_whole

Original = Mapping[Tensor, Parameter]  # by their copies without data


class _OfflineError(ShortenTraceback, OfflineError):
    """An OfflineError that dynamo hands to the user as it is."""


@dataclass
class OfflineReports:
    """Collects the plans of a step that is planned and does not run."""

    records: list[GraphRecord] = field(default_factory=list)

    def planned(self, graph: GraphRecord, instead_of: GraphRecord | None = None) -> None:
        self.records.append(graph)

    def unplanned(self, graph: GraphRecord, error: Exception, text: str) -> None:
        """Raises OfflineError."""
        reason = f"{graph.name} cannot be planned: {graph.reason}"
        raise _OfflineError(reason, first_useful_frame=None) from error


@dataclass
class OfflineStep:
    """A captured graph whose inputs are copies of the user's model, without data.

    Attributes:
        plan: plans the graph, or whatever else is to be done with it instead of running it.
    """

    kernels: OfflineKernels
    original: Original
    plan: Callable[[Sequence[Any], Folds], object]

    def forward(self, args: list[Any]) -> Sequence[Any]:
        folds = self.folds(args)
        with without_fakes():
            self.plan(args, folds)
        return self.kernels.plain_forward(args)

    def folds(self, args: Sequence[Any]) -> Folds:
        """Returns what the step would fold whose parameters the copies stand for."""
        kernels = self.kernels
        if not kernels.may_fold or not kernels.trains or kernels.own_saved is None:
            return ()
        found = [self.original.get(a) if isinstance(a, Tensor) else None for a in args]
        free = [p if p is not None and not left_whole(p) else None for p in found]
        used = Used.of(free, kernels.gradient_values)
        return tuple(sorted(fold for each in used for fold in each.folds))

    def backward(self, args: list[Any]) -> Sequence[Any]:
        return self.kernels.plain_backward(args)
