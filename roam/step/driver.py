"""The step driver: forward and backward of one captured graph, as the user's program runs them.

    forward     which gradients may the backward fold? ── plan ── run ── leave tickets
    backward    find the tickets ── objections? ── run as planned, or without a plan

A ticket records which gradients the backward of a forward may fold into an optimizer. One driver
serves every lowering (`roam.lowering.protocol`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from roam.core.budget import Beside
from roam.core.folds import Folds
from roam.core.problem import Problem
from roam.inspect.report import count_detour
from roam.lowering.beside import beside_now
from roam.lowering.protocol import Kernels
from roam.optim.folding import FoldingOptimizer
from roam.step.foldable_gradients import Tickets, Uses
from roam.step.graph_optimizers import Needs, Used
from roam.step.pending_forwards import note_first_pass
from roam.step.running_backward import retained

log = logging.getLogger("roam")


@dataclass
class Step:
    """A captured graph, run as forward and backward. Looks up its optimizers each time it runs.

    Attributes:
        name: of the graph.
        kernels: what runs it.
        uses: the optimizers of its parameters.
        needs: returns what a plan has to know of a fold.
    """

    name: str
    kernels: Kernels
    needs: Needs = FoldingOptimizer.needs
    uses: Uses = field(init=False)

    def __post_init__(self) -> None:
        self.uses = Uses(self.needs)

    def forward(self, args: list[Any]) -> Sequence[Any]:
        tickets = self.tickets(args) if self.kernels.may_fold else None
        planned = self.kernels.plan(args, () if tickets is None else tickets.folds)
        results = self.kernels.forward(planned, args)
        if tickets is not None:
            tickets.planned = planned
            tickets.leave_on(results, self.kernels.own_saved)
        return results

    def expected_folds(self, args: Sequence[Any]) -> Folds:
        """Returns the folds that a forward with these inputs would leave to its backward."""
        if not self.kernels.may_fold:
            return ()
        used = Used.of(args, self.kernels.gradient_values, self.needs)
        found = Tickets.of(used, args, findable=self.kernels.own_saved is not None)
        return () if found is None else found.folds

    def beside(self, args: Sequence[Any], problem: Problem, *, earlier: bool = False) -> Beside:
        """Returns what other graphs of the step take while a forward with these inputs runs."""
        return beside_now(self.name, args, problem, earlier=earlier)

    def tickets(self, args: Sequence[Any]) -> Tickets | None:
        """Returns tickets: what this forward's backward may fold; None if it can fold nothing."""
        if not self.kernels.trains:
            note_first_pass(args)
            return None
        used = self.uses.of(args, self.kernels.gradient_values)
        return Tickets.of(used, args, findable=self.kernels.own_saved is not None)

    def backward(self, args: list[Any]) -> Sequence[Any]:
        """Runs the backward by its forward's plan, or without a plan if something forbids that."""
        tickets = Tickets.found_on(args) if self.kernels.may_fold else None
        objection = None if tickets is None else tickets.objection()
        planned = self.kernels.found(args) if tickets is None else tickets.planned
        if planned is None:
            return self.kernels.plain_backward(args)
        folding = tickets if self.kernels.folds(planned) else None
        refusal = self.kernels.refusal(planned, args, retained=retained())
        reason = refusal or (None if folding is None else objection)
        if reason is None:
            return self.kernels.backward(planned, args, folding)
        results = self.kernels.plain_backward(args, reason)
        if count_detour(reason) == 1:
            log.warning("%s: %s; %s", self.name, reason, self.kernels.without_plan)
        return results
