"""Changes what Inductor's partitioner saves for the backward.

Inductor's partitioner sorts the nodes of the joint graph into those that the forward needs, those
that only the backward can run, and the rest (unclaimed). It chooses the saved values by a minimum
cut, and then makes a forward and a backward of the joint graph. roam edits the sorting and the
choice. Inductor does all else as without roam, and keeps to the user's checkpoints.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Self
from unittest.mock import patch

import torch
from torch import fx
from torch._functorch import partitioners
from torch._functorch._aot_autograd.descriptors import InputMutationAOTOutput
from torch._functorch.partitioners import NodeInfo
from torch._inductor.custom_graph_pass import CustomPartitionerFn
from torch.utils._ordered_set import OrderedSet
from torch.utils.checkpoint import CheckpointPolicy

from roam.core.errors import UnplannableError
from roam.lowering.inductor.user_passes import cache_key, users_own
from roam.passes.cheap_recompute import CheapRecompute
from roam.passes.dependencies import needed_for
from roam.passes.rewrites.split.blocks import IN_FORWARD

MUST_SAVE = (CheckpointPolicy.MUST_SAVE, CheckpointPolicy.PREFER_SAVE)


# gets a joint graph, how many of its outputs are the forward's, and the values that are saved
Look = Callable[[fx.Graph, int, Sequence[fx.Node]], None]


def partition(
    recompute: CheapRecompute | None,
    *,
    splits: bool,
    saved: tuple[str, ...] | None = None,
    look: Look | None = None,
) -> dict[str, Any]:
    """Returns the Inductor setting that installs roam's partitioner; an empty dict if not needed.

    Args:
        recompute: chooses values not to save; None to save what Inductor saves.
        splits: whether a rewrite may have marked nodes for the forward (IN_FORWARD).
        saved: the names of the values to save, if that is decided already; else None.
        look: called with the joint graph, how many of its outputs are the forward's, and the saved
            values; None to call nothing.
    """
    if recompute is None and saved is None and look is None and not splits:
        return {}
    first = users_own("custom_partitioner_fn", Partitioner)
    return {"custom_partitioner_fn": Partitioner(recompute, first, saved, look)}


class Partitioner(CustomPartitionerFn):
    """Partitions as Inductor does, or as the user's own partitioner does, with two changes.

    1. Nodes that rewrites marked as IN_FORWARD run in the forward. By itself Inductor may leave
       nodes to the backward if no result of the forward needs them, and saves whatever is smallest.
       Rewrites mark

       - gradients that a split made computable in the forward. A split cuts a group of ops (the
         loss, its gradient and their neighbours) into blocks of rows. Without the mark, the
         gradients of all logits might be saved, whole again.
       - values that are to be saved in place of a larger tensor.

    2. The forward saves just the values in `saved`. If that is None, it saves what Inductor chose,
       from which `recompute` drops values that are cheap to recompute.

    Attributes:
        recompute: chooses values not to save; None to save what Inductor saves.
        first: the user's own partitioner, or None.
        saved: the names of the values to save, if a byte budget decided that; else None.
        look: called with the joint graph, how many of its outputs are the forward's, and the saved
            values; None to call nothing.
    """

    def __init__(
        self,
        recompute: CheapRecompute | None,
        first: Any,
        saved: tuple[str, ...] | None = None,
        look: Look | None = None,
    ) -> None:
        self.recompute, self.first, self.saved, self.look = recompute, first, saved, look

    def __call__(
        self, gm: fx.GraphModule, joint_inputs: Sequence[object], **how: Any
    ) -> tuple[fx.GraphModule, fx.GraphModule]:
        original, classify = partitioners.choose_saved_values_set, partitioners.classify_nodes
        results: int = how["num_fwd_outputs"]

        def classified(joint: fx.GraphModule, *args: Any, **kwargs: Any) -> NodeInfo:
            return with_split_groups(joint.graph, classify(joint, *args, **kwargs))

        def choose(graph: fx.Graph, info: Any, memory_budget: float = 1) -> list[fx.Node]:
            if self.saved is not None:
                saved = named(graph, self.saved)
            else:
                saved = original(graph, info, memory_budget)
                if self.recompute is not None:
                    may_run_again, kept = _recomputable(info), _kept(graph, results)
                    saved = self.recompute.choose(saved, may_run_again, kept, written(graph))
            if self.look is not None:
                self.look(graph, results, saved)
            return saved

        run = self.first or partitioners.min_cut_rematerialization_partition
        with (
            patch.object(partitioners, "classify_nodes", classified),
            patch.object(partitioners, "choose_saved_values_set", choose),
        ):
            found: tuple[fx.GraphModule, fx.GraphModule] = run(gm, joint_inputs, **how)
        return found

    def __deepcopy__(self, memo: object) -> Self:
        """Returns the partitioner itself: Inductor copies settings, and must not copy `look`."""
        return self

    def uuid(self) -> Any:
        """Returns a key for Inductor's caches: this file and the partitioner's options.

        The key of `PlannedOrder` covers all other source files of roam. Returns None, so that
        Inductor caches nothing, if the user's partitioner has no key.
        """
        return cache_key(self.first, [__file__], self.recompute, self.saved)


def with_split_groups(graph: fx.Graph, info: NodeInfo) -> NodeInfo:
    """Returns the partitioner's sorting of nodes, with all marked nodes required by the forward.

    Rewrites mark nodes that have to run in the forward, by IN_FORWARD in their meta. All that these
    nodes depend on is required too. Moves only nodes that the partitioner left unclaimed.

    Args:
        graph: the joint graph.
        info: the sorting that the partitioner found. Stays as it is.
    """
    given = [n for n in info.unclaimed_nodes if IN_FORWARD in n.meta]
    forward = info.unclaimed_nodes & needed_for(given)
    required = OrderedSet([*info.required_fw_nodes, *forward])
    in_order = (n for n in graph.nodes if n in required)
    return dataclasses.replace(
        info,
        _required_fw_nodes=required,
        unclaimed_nodes=info.unclaimed_nodes - forward,
        fw_order={n: i for i, n in enumerate(in_order)},
    )


def _recomputable(info: Any) -> set[fx.Node]:
    """Returns the nodes that the backward can compute without a tangent.

    These are the nodes that the forward needs, and the unclaimed ones. Leaves out nodes that must
    run in the forward only: those that change a tensor there, or that AOTAutograd tagged so.

    info: the partitioner's sorting of the joint graph's nodes.
    """
    either = (*info.required_fw_nodes, *info.unclaimed_nodes)
    return {n for n in either if not partitioners._must_be_in_forward(n)}


def _kept(graph: fx.Graph, results: int) -> list[fx.Node]:
    """Returns the results of the forward, and the values that the user's checkpoints save.

    results: how many of the joint graph's outputs are the forward's.
    """
    (returned,) = graph.output_node().args
    results_of_forward = [n for n in returned[:results] if isinstance(n, fx.Node)]  # type: ignore[index, union-attr]
    asked = [n for n in graph.nodes if n.meta.get("recompute") in MUST_SAVE]
    return results_of_forward + asked


def named(graph: fx.Graph, names: Sequence[str]) -> list[fx.Node]:
    """Returns the nodes of these names, in the order of the graph.

    Raises:
        UnplannableError: no node has one of the names, because they are from another trace of the
            graph, which gave its nodes other names.
    """
    wanted = set(names)
    found = [n for n in graph.nodes if n.name in wanted]
    if len(found) != len(wanted):
        lost = sorted(wanted - {n.name for n in found})
        raise UnplannableError(f"a graph that was traced twice has no {lost[0]} the second time")
    return found


def written(graph: fx.Graph) -> list[fx.Node]:
    """Returns the inputs that may be written to in a step, such as running statistics.

    Some are written by AOTAutograd, after the compiled forward has returned their new values, and
    some by an op of the graph that changes a tensor. To be safe, also returns all other graph
    inputs that such an op takes, and all inputs without AOTAutograd's description.
    """
    results = graph.output_node().meta.get("desc", ())
    written = {r.mutated_input for r in results if isinstance(r, InputMutationAOTOutput)}
    in_place = {
        source
        for node in graph.nodes
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
        for source in node.all_input_nodes
    }
    # an input without AOTAutograd's description may be written to, too
    return [
        n
        for n in graph.find_nodes(op="placeholder")
        if n in in_place or n.meta.get("desc") is None or n.meta["desc"] in written
    ]
