"""Gradient release: a parameter's gradient ends in a fold instead of being returned.

AdamA (arXiv 2305.19982, section 3) integrates a gradient into the optimizer's state as soon as it
is complete, so that it lives from its production to its fold and no longer. Hooks cannot do that
for a compiled backward, which returns all of its gradients at once: the fold must be an op of the
graph.

    mm ── add ── output            mm ── add ── fold        output returns None there
                                         ^        |
                                  gradient     changes the optimizer's state and, in release mode,
                                               the parameter: after its last reader

A fold is an ordinary op from then on: the planner decides when it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from roam.passes.geometry import same_shape, storage_key, tensor_inputs, tensors, value

META = "roam_release"  # on a fold's node: the Release it carries out


@dataclass(frozen=True)
class Release:
    """One gradient to fold.

    index: which of the inputs the parameter is. output: which of the outputs its gradient is.
    parameter: its fake value. state: name and bytes of each tensor of the
    optimizer's state that the fold changes. scratch: bytes that the fold allocates for itself.
    writes_parameter: whether the fold changes the parameter too.
    """

    index: int
    output: int
    parameter: torch.Tensor
    state: tuple[tuple[str, int], ...]
    scratch: int = 0
    writes_parameter: bool = True


def fold(absorb: Callable[[int, torch.Tensor], None], index: int, gradient: torch.Tensor) -> None:
    """What a fold's node calls. `absorb` is bound to the parameters of the forward that ran."""
    absorb(index, gradient)


@dataclass(frozen=True)
class GradientRelease:
    """Ends the gradients of some parameters in folds. A parameter without a gradient has none."""

    releases: tuple[Release, ...]
    name: str = "gradient_release"

    def __call__(self, module: fx.GraphModule) -> int:
        graph = module.graph
        output = graph.output_node()
        returned: list[Any] = list(output.args[0])  # type: ignore[arg-type]
        place = {node: i for i, node in enumerate(graph.nodes)}
        last_reader = _last_readers(graph)
        changed = 0
        for release in self.releases:
            gradient = returned[release.output]
            if not _can_fold(gradient, release):
                continue
            reader = last_reader.get(storage_key(release.parameter), gradient)
            last = max(gradient, reader, key=place.__getitem__)
            with graph.inserting_after(last if release.writes_parameter else gradient):
                node = graph.call_function(fold, (None, release.index, gradient))
            node.meta[META] = release
            node.meta["val"] = None
            returned[release.output] = None
            changed += 1
        output.args = (tuple(returned),)
        return changed


def _can_fold(gradient: Any, release: Release) -> bool:
    found = value(gradient) if isinstance(gradient, fx.Node) else None
    return isinstance(found, torch.Tensor) and same_shape(found, release.parameter)


def _last_readers(graph: fx.Graph) -> dict[int, fx.Node]:
    """For every storage the last op that reads it, through a view or not.

    A fold that writes the parameter comes after: the op must see the old value.
    """
    last: dict[int, fx.Node] = {}
    for node in graph.nodes:
        if node.op == "call_function":
            made = {storage_key(t) for t in tensors(node)}
            for _, tensor in tensor_inputs(node):
                if storage_key(tensor) not in made:
                    last[storage_key(tensor)] = node
    return last
