"""Gradient release: folds a parameter's gradient in the graph instead of returning it.

AdamA (arXiv 2305.19982, section 3) absorbs a gradient into the optimizer's state as soon as it is
complete, so that it can be freed. Hooks cannot do that for a compiled backward, which returns all
of its gradients at once: the fold has to be an op of the graph.

    mm ── add ── output            mm ── add ── fold        output returns None there
                                         ^        |
                                  gradient     changes the optimizer's state and, in release mode,
                                               the parameter: after its last reader

A fold is an ordinary op from then on: the planner decides when it runs.

States that lie in a tier between steps are loaded for the fold and stored behind it:

    stored ── load_start ── load_wait ── fold ── store_start ── store_wait
                            m ──────────► changes m

A step that is captured whole may also read the parameter after its update. Its graph contains the
update as a pure function (UPDATED), so that rewrites distinguish the old values from the new. This
pass turns the update into the fold, and readers of its result into readers of the parameter:

    W ── t ── mm ── ...             W ── t ── mm ── ...
    updated(W, gradient) ── norm    fold(gradient)        changes W
    copy_(W, updated)               W ── norm             after the fold
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, fx

from roam.core.folds import RowFolds, StoredState
from roam.passes.geometry import same_shape, storage_key, tensor_inputs, tensors, value
from roam.passes.graph_ops import add_op, facts
from roam.passes.transfer_ops import LOAD_START, LOAD_WAIT, STORE_START, STORE_WAIT

META = "roam_release"  # on a fold's node: the Release it carries out
WHERE = ("nn_module_stack", "fwd_nn_module_stack", "stack_trace")  # what tells of the user's code
STORED = "roam_stored"  # on the nodes that load and store a state: its Transfer
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
        stored: the tensors that the fold changes and that lie in a tier between steps.
        by_rows: how the gradient may be folded one block of rows at a time; None: only whole.
        in_block: whether only a block of its rows is folded here.
    """

    index: int
    output: int
    parameter: Tensor
    state: tuple[tuple[str, int], ...]
    scratch: int = 0
    writes_parameter: bool = True
    stored: tuple[StoredState, ...] = ()
    by_rows: RowFolds | None = None
    in_block: bool = False


class Transfer(NamedTuple):
    """What a node does with a state that lies in a tier.

    Attributes:
        parameter: the parameter's fake value.
        state: the state.
        name: the end of the op's name, behind the names of parameter and state: "~1.start", as
            core/offload.py names ops. Empty for the node that stands for the state in the tier.
    """

    parameter: Tensor
    state: StoredState
    name: str


class RunFolds(Protocol):
    """The folds of one run: knows the parameters that it runs with, and their optimizers."""

    def absorb(self, gradients: Sequence[tuple[int, Tensor]]) -> None:
        """Folds gradients, given as pairs (index of the graph's input, its gradient)."""
        ...

    def absorb_with(self, index: int, gradient: Tensor, states: Mapping[str, Tensor]) -> None:
        """Folds a gradient into states that a graph has loaded, by name."""
        ...

    def absorb_rows(self, index: int, gradient: Tensor, start: int) -> None:
        """Folds the gradient of a block of rows of a parameter, which begins at row `start`.

        All blocks of the parameter are folded, in the order of their rows.
        """
        ...

    def stored(self, index: int, state: str) -> Tensor:
        """Returns the ticket of a state that lies in a tier."""
        ...


def fold(run_folds: RunFolds, index: int, gradient: Tensor, states: Mapping[str, Tensor]) -> None:
    """The function that a fold's node calls."""
    run_folds.absorb_with(index, gradient, states)


def fold_rows(run_folds: RunFolds, index: int, gradient: Tensor, start: int) -> None:
    """The function that the node of a fold of some rows calls."""
    run_folds.absorb_rows(index, gradient, start)


def stored(run_folds: RunFolds, index: int, state: str) -> Tensor:
    """The function that the node of a state in a tier calls."""
    return run_folds.stored(index, state)


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
                node = graph.call_function(fold, (None, release.index, gradient, {}))
            node.meta[META] = release
            node.meta["val"] = None
            _load(node, gradient, release)
            returned[release.output] = None
            changed += 1
        output.args = (tuple(returned),)
        return changed


def _load(fold: fx.Node, gradient: fx.Node, release: Release) -> None:
    """Adds the ops that load the stored states of a fold, and those that store them behind it."""
    graph = fold.graph
    loaded: dict[str, fx.Node] = {}
    tickets: dict[str, fx.Node] = {}
    starts: dict[str, fx.Node] = {}

    def note(node: fx.Node, state: StoredState, name: str) -> fx.Node:
        known = {k: node.meta[k] for k in (*WHERE, "val") if k in node.meta}
        node.meta = {**known, STORED: Transfer(release.parameter, state, name)}
        return node

    with graph.inserting_before(fold):
        for state in release.stored:
            ticket = graph.call_function(stored, (None, release.index, state.name))
            ticket.meta = facts(gradient, _like(gradient, (1,), (1,), torch.int64))
            tickets[state.name] = note(ticket, state, "")
            how = [*state.size], [*state.stride], state.dtype
            start = add_op(gradient, LOAD_START, ticket, *how)
            starts[state.name] = note(start, state, "~1.start")
        for state in release.stored:
            name = state.name
            found = add_op(gradient, LOAD_WAIT, starts[name], tickets[name])
            loaded[name] = note(found, state, "~1.wait")
    fold.args = (*fold.args[:3], loaded)
    behind = fold
    for op, end in ((STORE_START, "start"), (STORE_WAIT, "wait")):
        for state in release.stored:
            with graph.inserting_after(behind):
                behind = add_op(gradient, op, loaded[state.name], tickets[state.name])
            note(behind, state, f"~back~1.{end}")


def _like(
    near: fx.Node, size: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    """Returns a fake tensor of the mode of a node's value."""
    near_value: Tensor = value(near)
    return near_value.new_empty_strided(size, stride, dtype=dtype)


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
