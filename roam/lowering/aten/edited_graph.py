"""Edits the joint graph of a captured graph before it is partitioned, so that it takes less memory.

The joint graph is forward and backward in one. An edit adds copies of ops, so that the backward
recomputes what the forward need not save, or transfers of saved tensors to a folder and back.

the user gave         edits of the joint graph                                   chosen by
a tier                tensors move to the tier and back                          KeptOffload
a budget              ops are recomputed, and tensors move to a tier if there
                      is one, until the budget is kept                           KeptBudget
neither               ops are recomputed that cost next to no time, or that      FreeRecompute
                      PyTorch's aot_eager would recompute
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from roam.capture.fx_problem import Captured
from roam.capture.op_costs import Cost, OpCosts
from roam.capture.scratch_probe import Scratch
from roam.capture.symbolic_sizes import Numbers
from roam.core.budget import Following
from roam.core.folds import Folds
from roam.core.plan import Plan
from roam.core.problem import Problem
from roam.inspect.moved import Moved
from roam.inspect.recomputed import Recomputed
from roam.lowering.aten.aot_eager import AotEager
from roam.lowering.aten.budget_graph import BudgetGraph, reordered
from roam.lowering.aten.free_recompute import FreeRecompute
from roam.lowering.aten.kept_budget import KeptBudget
from roam.lowering.aten.kept_offload import KeptOffload
from roam.lowering.aten.partitioned_graph import PartitionedGraph, Parts
from roam.lowering.aten.step_watch import Measured, StepWatch
from roam.lowering.aten.tier_link import FileTier
from roam.lowering.protocol import Driver
from roam.planner import Step, plan


@dataclass(frozen=True)
class Read:
    """The Problem and the costs of a graph's first run, read while the graph was compiled.

    If the first run is as expected (`EditedGraph.early_read`), that run reads nothing anew.

    Attributes:
        folds: the gradients that the first run was expected to fold.
        parts: forward and backward, without ops that fold gradients; None without a backward.
        roots: the graphs that were read: forward and backward with the ops that fold gradients.
        captured: the Problem of `roots`.
        measured: by node, its scratch space.
        costs: by node, its cost; empty if no costs were wanted.
    """

    folds: Folds
    parts: Parts | None
    roots: list[fx.GraphModule]
    captured: Captured
    measured: dict[fx.Node, Scratch]
    costs: dict[fx.Node, Cost]

    def is_of(self, folds: Folds, numbers: Numbers) -> bool:
        """Returns whether a run has the folds of this object, and no symbolic sizes."""
        return self.folds == folds and not numbers.symbols


@dataclass
class EditedGraph(PartitionedGraph):
    """A captured graph, and the edits that were chosen for it.

    Attributes:
        driver: knows which gradients a run will fold; None until the graph is compiled.
        runs: whether the step will run; if not, it is only planned.
        example_inputs: the inputs that the graph is compiled with; empty afterwards.
        kept: chooses the edits that keep the user's budget; None without a budget.
        offload: chooses transfers to the user's tier (a folder); None without a tier.
        searches: whether ops to recompute may be chosen without a budget. False for a graph whose
            Problem is read but never planned.
        free: chooses ops to recompute without a budget; None if none are to be chosen.
        early: what was read off the graph that `free` chose, for the first run. None if there is
            no `free`, if it could not choose, and from the first run on, used or not.
        joint: the joint graph of a step that is planned offline without a budget or tier; else
            None.
        seen: the speed of the graph and the tier, measured in steps that ran by an earlier plan;
            None for the first plan.
        following: what the graphs that follow in a step took by an earlier plan of this one; None
            for the first plan, and if a new one would gain nothing.
    """

    driver: Driver | None = None
    runs: bool = True
    example_inputs: Sequence[Any] = ()
    kept: KeptBudget | None = None
    offload: KeptOffload | None = None
    searches: bool = True
    free: FreeRecompute | None = None
    early: Read | None = None
    joint: fx.GraphModule | None = None
    seen: Measured | None = None
    following: Following | None = None

    def prepare_edits(self, driver: Driver, example_inputs: Sequence[Any]) -> None:
        """Decides by the options which kinds of edits are made, before the graph is compiled.

        Also decides in which tier the optimizers' states lie. If they lie in one and the step will
        run, has the costs of ops measured.

        Args:
            driver: knows which gradients a run will fold, and what other graphs hold.
            example_inputs: the inputs that the graph is compiled with.

        Raises:
            TierError: the user's tier cannot be used.
            TransferError: the disk of the tier fails while its rates are measured.
        """
        self.driver, self.example_inputs = driver, example_inputs
        self.runs = self.costs is None and self.stands_for is None
        if (folder := self.options.states) is not None:
            self.states = FileTier.of(folder)
            if self.runs:
                self.costs = OpCosts(measure=True)  # tells how early to fetch each state
        if (budget := self.options.budget) is not None:
            self.kept = KeptBudget(
                self.graph, budget, driver, self.settings, following=self.following
            )
        if (asked := self.options.activations) is not None:
            tier = FileTier.of(asked, self.seen)
            if self.states is not None and self.states.folder != tier.folder:
                tier = replace(tier, states=False)
                self.states = replace(self.states, activations=False)
            self.offload = KeptOffload(tier, self.settings, self.runs)
        smallest = self.options.smallest_recomputed
        if self.searches and smallest is not None and not (self.kept or self.offload):
            self.free = FreeRecompute(self.graph, self.settings, smallest)

    @property
    def watch(self) -> StepWatch | None:
        """Compares measured steps with the plan; None if nothing moves or no step will run."""
        return None if self.offload is None else self.offload.watch

    def forget_inputs(self) -> None:
        """Drops the example inputs, so that this object keeps no parameters alive."""
        self.example_inputs = ()

    def edited(
        self,
        joint: fx.GraphModule,
        take: Callable[[fx.GraphModule], None],
        other: AotEager | None = None,
    ) -> fx.GraphModule:
        """Chooses transfers and copies of ops, and returns the graph with them.

        Returns the graph as it is if none are worth it.

        Args:
            joint: a graph of a forward and its backward.
            take: partitions a graph, and stores its forward and backward in this object.
            other: partitions as aot_eager would; None if aot_eager cannot run the graph.

        Raises:
            BudgetError: no plan found keeps the budget, or the graph cannot be planned.
            TierError: the tier has no room.
        """
        if self.kept is None and self.offload is None:
            return joint if self.free is None else self._cheapened(joint, self.free, take, other)
        if self.costs is None and self.stands_for is None:
            self.costs = OpCosts(measure=True)

        def trial(joint: fx.GraphModule) -> Captured:
            return self._tried(joint, take).captured

        if self.kept is not None:
            mover = None if self.offload is None else self.offload.mover(joint, trial)
            found = self.kept.fitted(joint, self.example_inputs, trial, self.costs, mover)
            if self.offload is not None and self.kept.fit is not None:
                self.offload.keep(self.kept.fit.moved)
        else:
            assert self.offload is not None
            found = self.offload.without_budget(joint, trial)
        self.own_saved = None
        return found

    def _cheapened(
        self,
        joint: fx.GraphModule,
        free: FreeRecompute,
        take: Callable[[fx.GraphModule], None],
        other: AotEager | None,
    ) -> fx.GraphModule:
        """Returns the graph with the copies that are chosen without a budget (`FreeRecompute`).

        Sets `early` to what was read off this graph; to None if choosing failed.

        Args:
            joint: a graph of a forward and its backward.
            free: chooses the copies.
            take: partitions a graph, and stores its forward and backward in this object.
            other: partitions as aot_eager would; None if aot_eager cannot run the graph.
        """
        reads: list[Read] = []

        def trial(joint: fx.GraphModule) -> Captured:
            reads.append(self._tried(joint, take, priced=self.states is not None))
            return reads[-1].captured

        chosen, name = free.cheapened(joint, trial, other)
        self.own_saved = None
        self.early = next((r for r in reads if r.captured.problem.fingerprint == name), None)
        return chosen

    def _tried(
        self, joint: fx.GraphModule, take: Callable[[fx.GraphModule], None], *, priced: bool = True
    ) -> Read:
        """Partitions a joint graph, adds the folds of its first run, and reads the Problem off it.

        Args:
            joint: a graph of a forward and its backward.
            take: partitions a graph, and stores its forward and backward in this object.
            priced: whether to find the costs of ops, too.
        """
        take(joint)
        assert self.driver is not None, "edits are prepared first"
        folds = self.driver.expected_folds(self.example_inputs)
        roots, forward, backward = self.graphs(folds), self.forward_graph, self.backward_graph
        parts = None if forward is None or backward is None else (forward, backward)
        return Read(folds, parts, roots, *self.read(roots, Numbers(), priced=priced))

    def early_read(self, folds: Folds, numbers: Numbers) -> Read | None:
        """Returns the `Read` made while compiling if it holds for this run, else None.

        It does not hold if the run has other folds or symbolic sizes, if other code keeps tangents
        alive (`held`), if costs were read and are not wanted, or if they are wanted and were not
        read. The first call sets `early` to None, so later calls return None.
        """
        early, self.early = self.early, None
        if early is None or self.held or not early.is_of(folds, numbers):
            return None
        return early if bool(early.costs) == (self.costs is not None) else None

    def plan_of(self, problem: Problem) -> Plan:
        """Returns a plan of a Problem: the one made when the edits were chosen, or a new one.

        The former is returned if it is of an equal Problem, that is, for the same sizes and folds.
        """
        chooser = self.kept or self.offload or self.free
        known = None if chooser is None else chooser.plan
        if known is not None and known.fingerprint == problem.fingerprint:
            return known
        return plan(problem, self.settings)

    @property
    def recomputed(self) -> Recomputed | None:
        chooser = self.kept or self.free
        return None if chooser is None else chooser.recomputed

    @property
    def moved(self) -> Moved | None:
        return None if self.offload is None else self.offload.moved

    def again(self, captured: Captured, found: Plan) -> Step | None:
        """Returns the planned step and the ops that may run again, for a later search for copies.

        The program order of the step returned is the order of the plan `found`. Returns None unless
        the step is planned offline without a budget or tier: only such a plan can be asked later
        what a budget would cost.
        """
        if self.joint is None:
            return None
        graph = BudgetGraph(self.joint, reordered(captured, found.order), self.costs, found.peak)
        return graph.step
