"""Tells what inputs and results of a step's graphs are: gradients, saved tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from roam.core.folds import Folds
from roam.passes.geometry import storage_key, tensors, value
from roam.passes.gradient_release import Release


def own_saved(forward: fx.Graph, outputs: int | None) -> int | None:
    """Returns the last output that is a saved tensor and shares no memory with a user's output.

    Args:
        outputs: how many of the forward's outputs are the user's.
    """
    returned = list(forward.output_node().args[0])  # type: ignore[arg-type]
    users = [*forward.find_nodes(op="placeholder"), *returned[:outputs]]
    known = {storage_key(t) for n in users if isinstance(n, fx.Node) for t in tensors(n)}
    for i, node in reversed([*enumerate(returned)]):
        found = value(node) if isinstance(node, fx.Node) else None
        if isinstance(found, torch.Tensor) and storage_key(found) not in known:
            return i
    return None


def is_loss_gradient(elements: int) -> bool:
    """Returns whether a tangent of so many elements is taken for the gradient of the loss.

    `loss.backward()` makes that gradient, a one, and holds it until the whole backward has run.
    Other tangents, the gradients of other outputs, are freed after their last use.
    """
    return elements == 1


def gradients_of(backward: fx.Graph) -> dict[int, int]:
    """Returns, by input, the position of its gradient among the outputs of a backward.

    A backward returns one gradient, or None, for each input of its forward, in their order.
    """
    returned: Any = backward.output_node().args[0]
    return {i: i for i, n in enumerate(returned) if isinstance(n, fx.Node)}


def gradient_values(backward: fx.Graph, gradients: Mapping[int, int]) -> dict[int, Any]:
    """Returns the fake value of each gradient, by its input."""
    returned: Any = backward.output_node().args[0]
    return {i: value(returned[output]) for i, output in gradients.items()}


def releases(
    folds: Folds, given: Sequence[Any], gradients: Mapping[int, int]
) -> tuple[Release, ...]:
    """Returns what the gradient release has to know about each parameter.

    Args:
        given: the fake values of the forward's inputs.
        gradients: by input, the position of its gradient among the outputs.
    """
    return tuple(Release(i, gradients[i], given[i], *needs) for i, needs in folds)
