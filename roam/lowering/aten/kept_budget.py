"""Keeps one graph within the user's budget, when it is compiled and whenever it is planned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from roam.capture.fake_copies import without_fakes
from roam.capture.free_memory import free_bytes
from roam.capture.fx_problem import Captured
from roam.capture.graph_names import DynamoGraph
from roam.capture.usual_costs import Costs
from roam.core.budget import Beside, Budget, Of
from roam.core.errors import BudgetError, UnplannableError
from roam.core.plan import Plan
from roam.core.problem import Problem
from roam.inspect.recomputed import Recomputed
from roam.lowering.aten.budget import Fitted, fit
from roam.lowering.aten.budget_search import Trial
from roam.lowering.aten.footprint import Footprint, Share, Unlimited
from roam.lowering.aten.offload import Mover
from roam.lowering.aten.partitioned_graph import Parts
from roam.lowering.budget_error import CompileBudgetError, above, no_plan
from roam.lowering.protocol import Driver
from roam.planner import Settings, plan


@dataclass
class KeptBudget:
    """The budget of a graph, and the edited graph that keeps it.

    Attributes:
        graph: what dynamo tells of the graph: its name, and whether other graphs follow.
        budget: the user's budget.
        driver: knows which gradients a run will fold, and what other graphs hold.
        settings: how to plan.
        fit: the edited graph and its plan; None before the graph is compiled, and if the graph has
            no backward.
        uncopied: the forward and the backward without copies, kept if the sizes are dynamic; None
            if the sizes are fixed.
    """

    graph: DynamoGraph
    budget: Budget
    driver: Driver
    settings: Settings
    fit: Fitted | None = None
    uncopied: Parts | None = None

    @property
    def recomputed(self) -> Recomputed | None:
        return None if self.fit is None else self.fit.recomputed

    @property
    def plan(self) -> Plan | None:
        """The plan of `fit`, made when the graph was compiled; None if there is none."""
        return None if self.fit is None else self.fit.plan

    def fitted(
        self,
        joint: fx.GraphModule,
        args: Sequence[Any],
        trial: Trial,
        costs: Costs | None,
        mover: Mover | None,
    ) -> fx.GraphModule:
        """Returns the joint graph with the transfers and copies that keep the budget. Sets `fit`.

        Args:
            joint: a graph of a forward and its backward.
            args: the inputs that the graph is compiled with.
            trial: partitions a graph and reads the Problem off the parts. May change the graph.
            costs: estimates the seconds of ops; None if no cost is wanted.
            mover: moves tensors to a tier; None if nothing may move.

        Raises:
            BudgetError: no plan found keeps the budget, or the graph cannot be planned.
        """
        name, follow = self.graph.name, self.graph.others_follow

        def beside(problem: Problem) -> Beside:
            return self.driver.beside(args, problem)

        try:
            with without_fakes():
                how = self.settings, costs, beside, follow, mover
                self.fit = fit(joint, name, self.budget, trial, *how)
        except UnplannableError as error:
            raise CompileBudgetError(no_plan(name, error)) from error
        return self.fit.joint

    def share(
        self,
        args: Sequence[Any],
        captured: Captured,
        found: Plan,
        outputs: int | None,
        problem_of: Callable[[Parts], Problem],
    ) -> Share:
        """Returns the bytes that a plan takes, and those that it and all beside it may take.

        The limit is computed from what is held now. Unless the budget is a total ("12GiB"), the
        limit found when the graph was compiled counts instead if it is at least as high.

        Args:
            args: the inputs of the forward.
            captured: the Problem that was planned.
            found: the plan.
            outputs: how many of the forward's results are the user's; None for all of them.
            problem_of: reads a Problem off a forward and a backward, with the sizes of `args`.

        Raises:
            BudgetError: the plan takes more than the budget leaves, or the persistent bytes alone
                do. For a share ("60%") nothing is raised here if other graphs follow, since the
                backward checks it again, or if the graph has no backward, since a share does not
                limit such a graph.
        """
        problem, budget, fitted = captured.problem, self.budget, self.fit
        if fitted is not None and fitted.plan is found:
            unlimited = fitted.unlimited
        elif self.uncopied is not None:
            without = problem_of(self.uncopied)
            unlimited = Unlimited.of(without, plan(without, self.settings))
        else:
            unlimited = Unlimited.of(problem, found)
        beside = self.driver.beside(args, problem)
        free = free_bytes(captured.device)
        limit = budget.transient(problem.persistent, unlimited.peak, free, beside)
        there = beside.now
        if fitted is not None and budget.of is not Of.TOTAL and fitted.limit >= limit:
            limit, there = fitted.limit, fitted.beside
        later = budget.of is Of.SHARE and (fitted is None or self.graph.others_follow)
        if found.peak > limit and not later:
            why = (
                "other sizes or other folds of gradients (mark sizes as static), or has no backward"
            )
            text = above(self.graph.name, found.peak, budget.text, limit, why)
            raise BudgetError(text, budget=limit, found=found.peak)
        most = None if budget.of is Of.TOTAL else limit + there
        return Share(Footprint.of(captured, found, outputs), unlimited, most)
