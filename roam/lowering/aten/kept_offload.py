"""Adds transfers to one graph when it is compiled, and keeps the plan of the edited graph."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from torch import fx

from roam.capture.fake_copies import without_fakes
from roam.core.errors import UnplannableError
from roam.core.plan import Plan
from roam.inspect.moved import Moved
from roam.lowering.aten.budget_search import Trial
from roam.lowering.aten.offload import MovedOut, Mover
from roam.lowering.aten.step_watch import StepWatch
from roam.lowering.aten.tier_link import FileTier
from roam.passes.geometry import has_symbolic_inputs, renew_views
from roam.passes.pipeline import copied
from roam.planner import Settings, plan
from roam.runtime.file_tier import file_tier

log = logging.getLogger("roam")


@dataclass
class KeptOffload:
    """Adds transfers to one graph, which move tensors to the user's tier, and keeps the result.

    Attributes:
        tier: the tier.
        settings: how to plan.
        runs: whether the step will run, so that the tier needs room for the tensors that move.
        out: the graph with transfers, its plan included; None if nothing moves.
        watch: compares measured steps with the plan; None if nothing moves or no step runs.
    """

    tier: FileTier
    settings: Settings
    runs: bool
    out: MovedOut | None = None
    watch: StepWatch | None = None

    @property
    def moved(self) -> Moved | None:
        return None if self.out is None else self.out.told

    @property
    def plan(self) -> Plan | None:
        """The plan of the graph with transfers; None if nothing moves."""
        return None if self.out is None else self.out.plan

    def without_budget(self, joint: fx.GraphModule, trial: Trial) -> fx.GraphModule:
        """Returns the joint graph with transfers that lower its peak and stall no op.

        Returns the graph as it is if there are none, or if the graph cannot be planned.

        Raises:
            TierError: the folder cannot hold the tensors; TierFullError if the disk is full.
        """
        renew_views(joint.graph)
        try:
            with without_fakes():
                captured = trial(copied(joint))
                first = plan(captured.problem, self.settings)
                if (mover := self.mover(joint, trial)) is not None:
                    self.keep(mover.moved(joint, captured, first))
        except UnplannableError as error:  # the first run warns of it
            log.debug("nothing of a graph moves, since it has no plan: %s", error)
        return joint if self.out is None else self.out.joint

    def mover(self, joint: fx.GraphModule, trial: Trial) -> Mover | None:
        """Returns an object that adds transfers to graphs; None if `joint` has dynamic sizes.

        trial: partitions a graph and reads the Problem off the parts. May change the graph.
        """
        sized = has_symbolic_inputs(joint.graph)
        return None if sized else Mover(self.tier, trial, self.settings)

    def keep(self, out: MovedOut | None) -> None:
        """Stores the graph with the chosen transfers, or None if nothing moves, in `self.out`.

        If tensors move and steps will run, also reserves room in the tier, and sets `watch`.

        Raises:
            TierError: the folder cannot hold the tensors; TierFullError if the disk is full.
        """
        self.out = out
        if out is not None and self.runs:
            self.tier.reserve(out.nbytes)
            self.watch = StepWatch(file_tier(self.tier.folder), out.expected)
