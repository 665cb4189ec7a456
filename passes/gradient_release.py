"""Gradient release: folds a parameter's gradient in the graph instead of returning it.

AdamA (arXiv 2305.19982, section 3) absorbs a gradient into the optimizer's state as soon as it is
complete, so that it can be freed. Hooks cannot do that for a compiled backward, which returns all
of its gradients at once: the fold has to be an op of the graph.

    mm ── add ── output            mm ── add ── fold        output returns None there
                                         ^        |
                                  gradient     changes the optimizer's state and, in release mode,
                                               the parameter: after its last reader

A fold is an ordinary op from then on: the planner decides when it runs.

A step that is captured whole may also read the parameter after its update. Its graph contains the
update as a pure function (UPDATED), so that rewrites distinguish the old values from the new. This
pass turns the update into the fold, and readers of its result into readers of the parameter:

    W ── t ── mm ── ...             W ── t ── mm ── ...
    updated(W, gradient) ── norm    fold(gradient)        changes W
    copy_(W, updated)               W ── norm             after the fold
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from roam.passes.geometry import same_shape, storage_key, tensor_inputs, tensors, value

META = "roam_release"  # on a fold's node: the Release it carries out
aten = torch.ops.aten

# Returns the parameter after its update. index: position of the parameter among the graph's
# inputs. Has no kernel, because this pass replaces it by a fold.
_library = torch.library.Library("roam", "FRAGMENT")
_library.define("updated(Tensor parameter, Tensor gradient, int index) -> Tensor")
torch.library.register_fake("roam::updated", lambda parameter, gradient, index: parameter.clone())
UPDATED = torch.ops.roam.updated.default


@dataclass(frozen=True)
class Release:
    """One gradient to fold.

    Attributes:
        index: position of the parameter among the graph's inputs.
        output: position of its gradient among the graph's outputs.
        parameter: the parameter's fake value.
        state: name and bytes of each tensor of the optimizer's state that the fold changes.
        scratch: bytes that the fold allocates for itself.
        writes_parameter: whether the fold changes the parameter too.
    """

    index: int
    output: int
    parameter: torch.Tensor
    state: tuple[tuple[str, int], ...]
    scratch: int = 0
    writes_parameter: bool = True


def fold(absorb: Callable[[int, torch.Tensor], None], index: int, gradient: torch.Tensor) -> None:
    """The function that a fold's node calls.

    absorb: takes an index and a gradient; it knows the parameters of the forward that ran.
    """
    absorb(index, gradient)


@dataclass(frozen=True)
class GradientRelease:
    """Folds the gradients that `releases` name. Skips a parameter that has no gradient."""

    releases: tuple[Release, ...]
    name: str = "gradient_release"

    def __call__(self, module: fx.GraphModule) -> int:
        graph = module.graph
        output = graph.output_node()
        returned: list[Any] = list(output.args[0])  # type: ignore[arg-type]
        updates = _updates(graph)
        place = {node: i for i, node in enumerate(graph.nodes)}
        last_reader = _last_readers(graph)
        changed = 0
        for release in self.releases:
            gradient, update = returned[release.output], updates.get(release.index)
            if not _can_fold(gradient, release):
                continue
            reader = last_reader.get(storage_key(release.parameter), gradient)
            last = max(gradient, reader, key=place.__getitem__)
            if update is not None:
                if place[last] > place[update]:
                    continue  # an op reads the old values after the update
                last = _put_in_place(graph, update)
            with graph.inserting_after(last if release.writes_parameter else gradient):
                node = graph.call_function(fold, (None, release.index, gradient))
            node.meta[META] = release
            node.meta["val"] = None
            returned[release.output] = None
            changed += 1
        output.args = (tuple(returned),)
        return changed


def _updates(graph: fx.Graph) -> dict[Any, fx.Node]:
    """Returns the UPDATED node of each parameter that the graph updates, by the parameter's input.

    Removes the copies of their results, which AOTAutograd makes of the writes to the parameters.
    """
    updates = {n.args[2]: n for n in graph.find_nodes(op="call_function", target=UPDATED)}
    for copy in graph.find_nodes(op="call_function", target=aten.copy.default):
        if copy.args[1] in updates.values():
            copy.replace_all_uses_with(copy.args[1])
            graph.erase_node(copy)
    return updates


def _put_in_place(graph: fx.Graph, update: fx.Node) -> fx.Node:
    """Replaces the result of an update by the parameter itself.

    If the program had changed the parameter before its update, adds an op that writes the changed
    values to the parameter. Returns the node that the fold has to follow.
    """
    before: Any = update.args[0]
    index: Any = update.args[2]
    parameter = list(graph.find_nodes(op="placeholder"))[index]
    last = update.prev
    if storage_key(value(before)) != storage_key(value(parameter)):
        with graph.inserting_before(update):
            last = graph.call_function(aten.copy_.default, (parameter, before))
        last.meta["val"] = value(parameter)
    update.replace_all_uses_with(parameter)
    graph.erase_node(update)
    for write in graph.find_nodes(op="call_function", target=aten.copy_.default):
        if write.args[0] is parameter is write.args[1]:
            graph.erase_node(write)
    return last


def _can_fold(gradient: Any, release: Release) -> bool:
    found = value(gradient) if isinstance(gradient, fx.Node) else None
    return isinstance(found, torch.Tensor) and same_shape(found, release.parameter)


def _last_readers(graph: fx.Graph) -> dict[int, fx.Node]:
    """Returns the last op that reads each storage, directly or through a view.

    A fold that writes the parameter has to come after this op, which reads the old value.
    """
    last: dict[int, fx.Node] = {}
    for node in graph.nodes:
        if node.op == "call_function":
            made = {storage_key(t) for t in tensors(node)}
            for _, tensor in tensor_inputs(node):
                if storage_key(tensor) not in made:
                    last[storage_key(tensor)] = node
    return last
