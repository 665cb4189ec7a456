"""Chooses the ops to recompute without a budget: cheap ones, or those that aot_eager recomputes.

    joint graph ── partition, capture, plan ── may copies lower the peak?
                                                  │ yes
              copies of large tensors, in a small SHARE of the step's time ── plan
                                                  │ peak above aot_eager's?
                the cheapest copies within aot_eager's peak, or those of aot_eager ── plan

PyTorch's `aot_eager` runs the same operators in program order, but its partitioner recomputes what
Inductor would fuse. So aot_eager may take less than a plan that saves everything; roam should not
take more than aot_eager. Costs are estimates for one usual machine (`UsualCosts`), so that the
choice is the same on every machine.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from torch import fx

from roam.capture.fake_copies import without_fakes
from roam.capture.graph_names import DynamoGraph
from roam.core.errors import UnplannableError
from roam.core.machine import Bytes, Seconds
from roam.core.plan import Plan
from roam.core.sizes import show_size
from roam.inspect.nesting import left_by_forward
from roam.inspect.recomputed import Recomputed, runs_again
from roam.lowering.aten.aot_eager import AotEager, at_least
from roam.lowering.aten.budget_graph import (
    BudgetGraph,
    by_module,
    with_outputs_dropped,
    with_room,
)
from roam.lowering.aten.budget_search import Trial
from roam.lowering.aten.free_search import FreeSearch, peak_if_dropped
from roam.passes.geometry import renew_views
from roam.passes.pipeline import copied
from roam.planner import Settings, peak_without, plan, saved_buffers

log = logging.getLogger("roam")

DECIDING: Seconds = 1.0  # limit on the planning work for each candidate, while they are compared


@dataclass
class FreeRecompute:
    """Chooses the ops that one graph recomputes without a budget, when the graph is compiled.

    Attributes:
        graph: what dynamo tells of the graph: its name, and whether other graphs follow.
        settings: how to plan.
        smallest: tensors of fewer bytes are recomputed only if the peak would else be above
            aot_eager's.
        plan: the plan of the chosen graph; None before the choice, if choosing failed, and if
            planning with all the user's seconds might find a better plan.
        recomputed: what the chosen copies cost and save; None if there are no copies.
    """

    graph: DynamoGraph
    settings: Settings
    smallest: Bytes
    plan: Plan | None = None
    recomputed: Recomputed | None = None

    def cheapened(
        self, joint: fx.GraphModule, trial: Trial, other: AotEager | None
    ) -> tuple[fx.GraphModule, str | None]:
        """Returns the graph with the chosen copies, and the fingerprint of its Problem.

        Sets `plan` and `recomputed`. Returns the graph unchanged, and None as the fingerprint, if
        the graph cannot be planned, or if choosing fails, which is logged as a warning.

        Args:
            joint: a graph of a forward and its backward.
            trial: partitions a graph and reads the Problem off the parts. May change the graph.
            other: partitions as aot_eager would; None if aot_eager cannot run the graph.
        """
        quick = replace(self.settings, seconds=min(self.settings.seconds, DECIDING))
        try:
            with without_fakes():
                chosen = _choose(
                    joint, trial, other, quick, self.smallest, alone=not self.graph.others_follow
                )
        except UnplannableError as error:  # the first run warns of it
            log.debug("%s saves all that its backward reads: %s", self.graph.name, error)
            return joint, None
        except Exception:  # the user did not ask for copies: go on without
            text = "%s saves all that its backward reads: choosing what to recompute failed"
            log.warning(text, self.graph.name, exc_info=True)
            return joint, None
        if quick == self.settings or chosen.plan.peak == chosen.plan.lower_bound:
            self.plan = chosen.plan
        self.recomputed = chosen.recomputed
        return chosen.joint, chosen.plan.fingerprint


@dataclass(frozen=True)
class _Chosen:
    """A joint graph, perhaps with copies, and its plan.

    `recomputed` is what the copies cost and save; None if there are no copies.
    """

    joint: fx.GraphModule
    plan: Plan
    recomputed: Recomputed | None = None


def _choose(
    joint: fx.GraphModule,
    trial: Trial,
    other: AotEager | None,
    settings: Settings,
    smallest: Bytes,
    *,
    alone: bool,
) -> _Chosen:
    """Returns the graph with the chosen copies, its plan, and what the copies cost and save.

    If no copies are worth it, the graph returned is `joint`.

    Args:
        joint: a graph of a forward and its backward.
        trial: partitions a graph and reads the Problem off the parts. May change the graph.
        other: partitions as aot_eager would; None if aot_eager cannot run the graph.
        settings: how to plan, while candidates are compared.
        smallest: tensors of fewer bytes are recomputed only if the peak would else be above
            aot_eager's.
        alone: whether no other graph runs between the forward and the backward of this one. If one
            does, the bytes that the forward leaves for the backward count most, because they are
            held while the other graph runs.
    """
    renew_views(joint.graph)
    captured = trial(copied(joint))
    problem = captured.problem
    first = plan(problem, settings)
    none = _Chosen(joint, first)
    saved = saved_buffers(problem, BudgetGraph(joint, captured, None, first.peak).boundary)
    dropping = with_outputs_dropped(captured)
    least, least_if_dropped = (
        peak_without(p, first.order, first.reuse, saved) for p in (problem, dropping.problem)
    )
    now = first.peak, peak_if_dropped(captured, first)
    if now == (least, least_if_dropped) and (alone or not saved):
        return none
    room = 0 if alone else first.peak
    search = FreeSearch(joint, captured, first, trial, settings, smallest, room)
    best = search.at_no_price() if first.peak - least >= smallest or not alone else None
    if other is not None:
        peaks = search.peaks_of(best)
        compared = (
            (peaks.beside_others, least, with_room(captured, room)),
            (peaks.dropped, least_if_dropped, dropping),
        )
        if any(peak > low and peak > at_least(joint, view) for peak, low, view in compared):
            best = search.as_low_as(other.partitioned(), best)
    if best is None:
        return none
    copies, step = best.copies, best.copies.step
    log.info(
        "%s: %s (%.2f %% of the step, estimated), so its peak is %s in place of %s",
        problem.name,
        runs_again(len(copies.placed)),
        100 * copies.cost / step.seconds if step.seconds else 0.0,
        show_size(best.plan.peak),
        show_size(first.peak),
    )
    told = Recomputed(
        "",
        0,
        first.peak,
        step.seconds,
        modules=by_module(copies),
        left=left_by_forward(problem, first),
    )
    return _Chosen(best.joint, best.plan, told)
