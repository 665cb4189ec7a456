"""Moves tensors of one graph to a tier when the graph is compiled, and knows the plan of that."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from torch import fx

from roam.capture.fake_copies import without_fakes
from roam.capture.fx_problem import Captured
from roam.core.errors import UnplannableError
from roam.core.machine import Bytes
from roam.core.plan import Plan
from roam.inspect.moved import Moved
from roam.lowering.aten.budget_search import Trial
from roam.lowering.aten.offload import MovedOut, move_out
from roam.lowering.aten.tier_link import FileTier
from roam.passes.geometry import has_symbolic_inputs, renew_views
from roam.passes.pipeline import copied
from roam.planner import Settings, plan

log = logging.getLogger("roam")


@dataclass
class KeptOffload:
    """Moves tensors of one graph to the user's tier, and keeps the result.

    Attributes:
        tier: where to.
        settings: how to plan.
        runs: whether the step will run, so that there must be room for it in the tier.
        shared: whether the states of optimizers lie there, too.
        out: the graph with transfers; None if nothing moves.
    """

    tier: FileTier
    settings: Settings
    runs: bool
    shared: bool = False
    out: MovedOut | None = None

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
                self.move(joint, captured, first, 0, trial)
        except UnplannableError as error:  # its first run will say so
            log.debug("nothing of a graph moves, since it has no plan: %s", error)
        return joint if self.out is None else self.out.joint

    def move(
        self, joint: fx.GraphModule, captured: Captured, first: Plan, limit: Bytes, trial: Trial
    ) -> MovedOut | None:
        """Moves what lowers the peak; see `move_out`. Nothing of a graph with dynamic sizes.

        Raises:
            TierFullError: the tier has no room for it.
        """
        if has_symbolic_inputs(joint.graph):
            return None
        how = trial, self.settings, limit
        tier = self.tier.beside_loads(captured.problem) if self.shared else self.tier
        self.out = move_out(joint, captured, first, tier, *how)
        if self.out is not None and self.runs:
            self.tier.reserve(self.out.nbytes)
        return self.out
