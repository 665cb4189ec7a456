"""Keeps one graph within the user's budget, when it is compiled and whenever it is planned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from torch import fx

from roam.capture.fake_copies import without_fakes
from roam.capture.free_memory import free_bytes
from roam.capture.fx_problem import Captured
from roam.capture.graph_names import DynamoGraph
from roam.capture.usual_costs import Costs
from roam.core.budget import Beside, Budget, Following, Of
from roam.core.errors import BudgetError, UnplannableError
from roam.core.plan import Plan
from roam.core.problem import Problem
from roam.inspect.recomputed import Recomputed
from roam.lowering.aten.budget import Fitted, fit
from roam.lowering.aten.budget_search import SLACK, Trial
from roam.lowering.aten.footprint import Footprint, Share, Unlimited
from roam.lowering.aten.mix import WORTH
from roam.lowering.aten.offload import Mover
from roam.lowering.aten.partitioned_graph import Parts
from roam.lowering.budget_error import CompileBudgetError, above, no_plan
from roam.lowering.protocol import Driver
from roam.planner import Settings, plan

_with_news: WeakSet[KeptBudget] = WeakSet()  # those that have `seen` what asks for a new plan


@dataclass(eq=False)
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
        following: what the graphs that follow take, as seen in steps that ran by an earlier plan of
            this graph; None for the first plan, when nothing is known of them.
        seen: the same, as seen in the latest step that ran by this plan; None if a new plan would
            gain nothing.
        settled: whether steps show nothing to plan anew for: tensors move to a tier, or the graph
            has run again between a forward and its backward, and a new plan would change what it
            takes there.
    """

    graph: DynamoGraph
    budget: Budget
    driver: Driver
    settings: Settings
    fit: Fitted | None = None
    uncopied: Parts | None = None
    following: Following | None = None
    seen: Following | None = None
    settled: bool = False

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
            # gradients that are kept for the next backward count once steps have shown them
            return self.driver.beside(args, problem, earlier=self.following is not None)

        try:
            with without_fakes():
                how = self.settings, costs, beside, follow, mover, self.following
                self.fit = fit(joint, name, self.budget, trial, *how)
        except UnplannableError as error:
            raise CompileBudgetError(no_plan(name, error)) from error
        self.settled = mover is not None
        return self.fit.joint

    @property
    def may_learn(self) -> bool:
        """Whether steps may show what other graphs take, by which a new plan might gain."""
        may_change = not self.settled and self.uncopied is None and self.following is None
        return may_change and self.graph.others_follow and self.budget.of is Of.TOTAL

    def note(self, following: Following | None, spare: float) -> None:
        """Notes what the graphs that follow took in a step, in `seen`, if that asks for a new plan.

        It does if this graph runs ops again to save few bytes, and could have saved more.

        Args:
            following: what they took; None if this graph was one of them.
            spare: bytes that were left of the budget meanwhile.
        """
        fitted = self.fit
        self.settled = self.settled or following is None
        self.seen = None
        if self.may_learn and following is not None and fitted is not None:
            costly = fitted.recomputed.seconds > WORTH * fitted.recomputed.step
            if costly and spare > SLACK * fitted.limit:
                self.seen = following
                _with_news.add(self)

    def news(self) -> Following | None:
        """Returns what the graphs that follow took, if that asks for a new plan; None if not.

        The new plan changes what is beside the other graphs. So these need another step before they
        have news.
        """
        found = self.seen
        if found is not None:
            for each in _with_news:
                each.seen = None
            _with_news.clear()
        return found

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
