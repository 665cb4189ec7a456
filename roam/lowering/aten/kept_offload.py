"""Moves tensors of one graph to a tier when the graph is compiled, and knows the plan of that."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from roam.capture.fake_copies import without_fakes
from roam.capture.fx_problem import Captured
from roam.core.errors import UnplannableError
from roam.core.folds import Folds
from roam.core.machine import Bytes
from roam.core.plan import Plan
from roam.core.problem import Problem
from roam.inspect.moved import Moved
from roam.lowering.aten.offload import FileTier, MovedOut, Trial, move_out
from roam.lowering.protocol import Driver
from roam.passes.geometry import renew_views, value
from roam.passes.pipeline import copied
from roam.planner import Settings, plan

log = logging.getLogger("roam")


@dataclass
class KeptOffload:
    """The tier of a graph, and what was moved there.

    Attributes:
        tier: where to.
        driver: tells which gradients a run will fold.
        example_inputs: the inputs that the graph is compiled with, until its tensors are moved.
        settings: how to plan.
        runs: whether the step will run, so that there must be room for it in the tier.
        out: the graph with transfers; None if nothing moves.
    """

    tier: FileTier
    driver: Driver
    example_inputs: Sequence[Any]
    settings: Settings
    runs: bool
    out: MovedOut | None = None

    @property
    def moved(self) -> Moved | None:
        return None if self.out is None else self.out.told

    def expected_folds(self) -> Folds:
        """Returns the folds of the first run of the graph that is compiled."""
        return self.driver.expected_folds(self.example_inputs)

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
        given = joint.graph.find_nodes(op="placeholder")
        if any(isinstance(value(n), torch.SymInt) for n in given):
            return None
        how = trial, self.settings, limit
        self.out = move_out(joint, captured, first, self.tier, *how)
        if self.out is not None and self.runs:
            self.tier.reserve(self.out.nbytes)
        return self.out

    def plan_of(self, problem: Problem) -> Plan | None:
        """Returns the plan of the graph with transfers, if it is of this Problem."""
        known = self.out is not None and self.out.plan.fingerprint == problem.fingerprint
        return self.out.plan if self.out is not None and known else None
