"""Compiles a graph for Inductor's kernels within a byte budget, or raises BudgetError."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx
from torch._functorch import config as functorch_config
from torch._inductor.exc import InductorError

from roam.capture.op_costs import OpCosts
from roam.core.errors import UnplannableError
from roam.core.folds import Folds
from roam.inspect.record import GraphRecord
from roam.lowering.budget_error import CompileBudgetError, above, no_plan
from roam.lowering.inductor.budget import Fitted, fit
from roam.lowering.inductor.kernels import InductorKernels
from roam.lowering.inductor.notes import Note
from roam.lowering.inductor.offline import OfflineInductorKernels
from roam.lowering.inductor.order import OneGraph
from roam.lowering.inductor.trial import Trials
from roam.lowering.protocol import Driver


@dataclass
class BudgetKernels(InductorKernels):
    """Compiles and runs a captured graph whose plan is within a byte budget.

    Attributes:
        fit: the values that the forward saves so that the graph keeps the budget; None before they
            are chosen.
    """

    fit: Fitted | None = None

    def compile(
        self, gm: fx.GraphModule, example_inputs: Sequence[Any], driver: Driver
    ) -> Callable[..., Any]:
        """Chooses the values to save, and compiles the graph.

        Raises:
            BudgetError: no choice of saved values was found that keeps the budget, or the graph, as
                compiled, has no plan that keeps it.
            UnplannableError: sizes are dynamic, the graph has no plan, or Inductor cannot compile
                its backward. The caller then tries the next lowering, which keeps the budget in its
                own way.
            InductorError: Inductor cannot compile the forward. The caller tries the next lowering.
        """
        budget = self.options.budget
        assert budget is not None
        if any(map(_is_dynamic, example_inputs)):
            raise UnplannableError("a budget with sizes that are not fixed (dynamic=False)")

        def folds(compiled: InductorKernels) -> Folds:
            """Returns the gradients that the graph will fold.

            The driver asks these BudgetKernels which gradients there are, but they have no backward
            yet. So they borrow the backward of a trial while the driver asks.

            compiled: the kernels of the trial.
            """
            self.own_saved, self.backwards = compiled.own_saved, compiled.backwards
            try:
                return driver.expected_folds(example_inputs)
            finally:
                self.own_saved, self.backwards = None, None

        costs = self.costs or OpCosts(measure=True)
        seen = self.graph, self.options, self.may_fold, driver, folds, costs
        self.fit = fit(Trials(gm, example_inputs, *seen), budget, _device(example_inputs))
        self.options = replace(self.options, recompute=self.fit.recompute)
        self.saved = self.fit.saved
        # off, because reports on code from AOTAutograd's cache do not list the recomputed ops
        with functorch_config.patch({"enable_autograd_cache": False}):
            return super().compile(gm, example_inputs, driver)

    def take(self, note: Note | None, one: OneGraph) -> None:
        """Reports a complete plan. Keeps the plan of a forward whose backward is yet to be planned.

        Args:
            note: the plan, made now or found in cached code; None if planning failed.
            one: the graph that was compiled.

        Raises:
            BudgetError: there is no plan, or its peak is above the limit, for example because other
                gradients are folded than the choice expected.
        """
        assert self.fit is not None
        name, limit = self.graph.name, self.fit.limit
        if note is None:
            raise CompileBudgetError(no_plan(name))
        if note.plan.peak > limit:
            budget = self.fit.recomputed.budget
            raise CompileBudgetError(
                above(name, note.plan.peak, budget, limit, "other folds of gradients")
            )
        super().take(note, one)

    def record(self, note: Note, one: OneGraph) -> GraphRecord:
        assert self.fit is not None
        return replace(super().record(note, one), recomputed=self.fit.recomputed)

    def unplanned(self, error: Exception) -> None:
        raise CompileBudgetError(no_plan(self.graph.name, repr(error))) from error

    def refused(self, error: InductorError) -> None:
        raise CompileBudgetError(
            f"Inductor cannot compile the backward of {self.graph.name}: {error}"
        ) from error


@dataclass
class OfflineBudgetKernels(BudgetKernels, OfflineInductorKernels):
    """Plans a captured graph within a byte budget, and never runs it. Generates no code."""


def _is_dynamic(given: Any) -> bool:
    if isinstance(given, torch.Tensor):
        return any(isinstance(n, torch.SymInt) for n in given.shape)
    return isinstance(given, torch.SymInt)


def _device(inputs: Sequence[Any]) -> torch.device:
    """Returns the accelerator among the devices of the inputs; the CPU if there is none.

    Of several accelerators, returns the first by name ("cuda:0").
    """
    found = {x.device for x in inputs if isinstance(x, torch.Tensor)}
    others = sorted((d for d in found if d.type != "cpu"), key=str)
    return others[0] if others else torch.device("cpu")
