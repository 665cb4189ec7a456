"""Finds out how much memory PyTorch's `aot_eager` takes for a graph, without running it.

aot_eager runs the graph's operators in program order. Its partitioner lets the backward recompute
what Inductor would fuse. No op writes over its input, and every op allocates its results.

    `at_least`      a lower bound on the peak: a minimum cut at the worst moment, as if the
                    partitioner recomputed whatever it may
    `AotEager`      runs the partitioner, and so finds the ops that it recomputes, and the peak

The partitioner takes as long as compiling a small model (networkx searches for the cut). So it runs
only if the lower bound is below the peak of the plan that roam has so far.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import torch
from torch import fx
from torch._functorch import config
from torch._functorch.partitioners import (
    get_default_op_list,
    min_cut_rematerialization_partition,
)

from roam.capture.fx_problem import Captured
from roam.core.lifetime import live_curve
from roam.core.machine import Bytes
from roam.lowering.aten.budget_graph import with_outputs_dropped, with_room
from roam.lowering.aten.partitioned_graph import Parts
from roam.passes.pipeline import Pass, copied, rewritten
from roam.planner import least_with_copies


class Peaks(NamedTuple):
    """The peaks of one graph, in transient bytes, with different things going on around it.

    Attributes:
        beside_others: other graphs take some bytes between the forward and the backward, counted
            beside the tensors saved for the backward (`with_room`).
        held: no other graph runs, and the user holds the forward's outputs to the end of the step.
        dropped: no other graph runs, and the user drops the outputs before the backward.
    """

    beside_others: Bytes
    held: Bytes
    dropped: Bytes

    def are_within(self, limits: Peaks) -> bool:
        """Returns whether none of the peaks is above the same peak of `limits`."""
        return all(peak <= limit for peak, limit in zip(self, limits, strict=True))


@dataclass(frozen=True)
class Partitioned:
    """A graph as aot_eager runs it.

    Attributes:
        captured: the Problem of its forward and backward, recomputed ops included.
        again: the names of the forward's nodes that the backward recomputes.
    """

    captured: Captured
    again: Collection[str]

    def peaks(self, room: Bytes) -> Peaks:
        """Returns the peaks in program order.

        room: bytes that other graphs take between this graph's forward and its backward.
        """
        views = with_room(self.captured, room), self.captured, with_outputs_dropped(self.captured)
        return Peaks(*(_program_peak(view) for view in views))


def _program_peak(captured: Captured) -> Bytes:
    """Returns the peak in program order if every op allocates its results."""
    problem = captured.problem
    return max(live_curve(problem, range(len(problem.ops)), {}), default=0)


@dataclass(frozen=True)
class AotEager:
    """Partitions one graph as aot_eager does.

    Attributes:
        joint: the graph as AOTAutograd made it, without roam's rewrites. Only copies of it change.
        truths: passes that correct the fake values of the graph's nodes.
        inputs: the inputs of the joint graph, for the partitioner.
        how: the keyword arguments for the partitioner.
        read: reads the Problem off a forward and its backward.
    """

    joint: fx.GraphModule
    truths: Sequence[Pass]
    inputs: Any
    how: dict[str, Any]
    read: Callable[[Parts], Captured]

    def partitioned(self) -> Partitioned:
        """Partitions the graph as aot_eager does.

        Raises:
            UnplannableError: the graph cannot be planned; for example, a size depends on data.
        """
        graph = rewritten(self.truths, copied(self.joint))
        forward, backward = min_cut_rematerialization_partition(graph, self.inputs, **self.how)
        early, late = ({n.name for n in g.graph.nodes if _runs(n)} for g in (forward, backward))
        return Partitioned(self.read((forward, backward)), early & late)


def at_least(joint: fx.GraphModule, captured: Captured) -> Bytes:
    """Returns a lower bound, in transient bytes, on aot_eager's peak for a graph.

    The bound is proven at one moment of program order: the one with the most live bytes if nothing
    is recomputed. Returns 0, which is no bound, if the user's checkpoint(), or changed settings of
    torch's partitioner, also decide what is recomputed.

    Args:
        joint: a graph of a forward and its backward.
        captured: the Problem of the forward and the backward.
    """
    asked = any(n.meta.get("recompute") is not None for n in joint.graph.nodes)
    usual = config.ban_recompute_not_in_allowlist and config.ban_recompute_materialized_backward
    if asked or not usual or config.aggressive_recomputation or config.activation_memory_budget < 1:
        return 0
    may = _recomputable(joint)
    problem = captured.problem
    ops = tuple(msgspec.structs.replace(op, over=()) for op in problem.ops)
    again = {i for i, n in enumerate(captured.nodes) if n is not None and n.name in may}
    return least_with_copies(msgspec.structs.replace(problem, ops=ops), again)


def _runs(node: fx.Node) -> bool:
    return node.op == "call_function"


def _recomputable(joint: fx.GraphModule) -> set[str]:
    """Returns the names of the forward's nodes that the partitioner may recompute.

    The partitioner recomputes only ops in its own list, such as pointwise ops. It keeps a result
    that an op of the backward reads, directly or through views, if this op and the op or view that
    it reads cannot be fused.
    """
    types = get_default_op_list()

    def is_materialized(node: fx.Node) -> bool:
        names = [node]  # the node, then the views of it that are found
        for name in names:
            for user in name.users:
                fuses = types.is_fusible(name) and types.is_fusible(user)
                fuses = fuses or user.target is torch.ops.aten.cat.default
                if user.meta.get("partitioner_tag") == "is_backward" and not fuses:
                    return True
                if types.is_view(user):
                    names.append(user)
        return False

    return {
        n.name
        for n in joint.graph.nodes
        if _runs(n)
        and n.meta.get("partitioner_tag") != "is_backward"
        and types.is_recomputable(n)
        and not is_materialized(n)
    }
