"""Moves tensors of one graph to a tier when the graph is compiled, and knows the plan of that."""

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
    """Moves tensors of one graph to the user's tier, and keeps the result.

    Attributes:
        tier: where to.
        settings: how to plan.
        runs: whether the step will run, so that there must be room for it in the tier.
        out: the graph with transfers; None if nothing moves.
        watch: compares its steps with what was planned; None if there are no transfers that run.
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
        """The plan of the graph with transfers."""
        return None if self.out is None else self.out.plan

    def without_budget(self, joint: fx.GraphModule, trial: Trial) -> fx.GraphModule:
        """Returns the joint graph with what moves; the graph itself if it cannot be planned."""
        renew_views(joint.graph)
        try:
            with without_fakes():
                captured = trial(copied(joint))
                first = plan(captured.problem, self.settings)
                if (mover := self.mover(joint, trial)) is not None:
                    self.keep(mover.moved(joint, captured, first))
        except UnplannableError as error:  # its first run will say so
            log.debug("nothing of a graph moves, since it has no plan: %s", error)
        return joint if self.out is None else self.out.joint

    def mover(self, joint: fx.GraphModule, trial: Trial) -> Mover | None:
        """Returns what moves tensors of a graph; None for a graph with dynamic sizes.

        trial: partitions a graph and reads the Problem off its parts.
        """
        sized = has_symbolic_inputs(joint.graph)
        return None if sized else Mover(self.tier, trial, self.settings)

    def keep(self, out: MovedOut | None) -> None:
        """Keeps the graph with transfers that was chosen; None if nothing moves.

        Raises:
            TierFullError: the tier has no room for it.
        """
        self.out = out
        if out is not None and self.runs:
            self.tier.reserve(out.nbytes)
            self.watch = StepWatch(file_tier(self.tier.folder), out.expected)
