"""What PyTorch's `aot_eager` takes for a graph: the same operators, in program order.

Its partitioner recomputes what Inductor would fuse, and nothing is written in place or placed.

    lower bound     a minimum cut at the worst moment: what the partitioner may run again is free
    partition       what it does run again, and the peak

The partition takes as long as compiling a small model (networkx looks for the cut), so it is only
made if the bound is below what is known.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

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
from roam.lowering.aten.budget_graph import with_room
from roam.lowering.aten.partitioned_graph import Parts
from roam.passes.pipeline import Pass, copied, rewritten
from roam.planner import least_with_copies


@dataclass(frozen=True)
class Partitioned:
    """A graph as aot_eager runs it.

    Attributes:
        captured: the Problem of its parts.
        again: the names of the forward's nodes that run again in the backward.
    """

    captured: Captured
    again: Collection[str]

    def peak(self, room: Bytes) -> Bytes:
        """Returns transient bytes at its worst moment: no op writes over what it reads.

        room: bytes that other graphs take between forward and backward.
        """
        problem = with_room(self.captured, room).problem
        return max(live_curve(problem, range(len(problem.ops)), {}), default=0)


@dataclass(frozen=True)
class AotEager:
    """Tells what aot_eager takes for one graph.

    Attributes:
        joint: the graph as AOTAutograd made it.
        truths: passes that correct what the graph says of its tensors.
        inputs, how: arguments of the partitioner.
        read: reads the Problem off the parts of a graph.
    """

    joint: fx.GraphModule
    truths: Sequence[Pass]
    inputs: Any
    how: dict[str, Any]
    read: Callable[[Parts], Captured]

    def partitioned(self) -> Partitioned:
        """Partitions the graph as aot_eager does.

        Raises:
            UnplannableError: nothing is known of the memory of its parts.
        """
        graph = rewritten(self.truths, copied(self.joint))
        forward, backward = min_cut_rematerialization_partition(graph, self.inputs, **self.how)
        early, late = ({n.name for n in g.graph.nodes if _runs(n)} for g in (forward, backward))
        return Partitioned(self.read((forward, backward)), early & late)


def at_least(joint: fx.GraphModule, captured: Captured) -> Bytes:
    """Returns bytes that aot_eager takes at least, by the moment that is worst without copies.

    Returns 0 if its partitioner does not decide alone, because of checkpoints or other settings.

    Args:
        joint: a graph of a forward and its backward.
        captured: the Problem of its parts.
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
    """Returns the names of the forward's nodes that the partitioner may run again.

    It does not run again what it does not know to be fusible, or what an op of the backward reads
    with which it cannot be fused.
    """
    types = get_default_op_list()

    def is_materialized(node: fx.Node) -> bool:
        names = [node]  # it and its views
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
