"""What the graphs of a step say of its gradients: which there are, and what folding one takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from roam.passes.geometry import storage_key, tensors, value
from roam.passes.gradient_release import Release
from roam.step.graph_optimizers import Folds


def own_saved(forward: fx.Graph, outputs: int | None) -> int | None:
    """The last output that is a saved tensor and neither is, nor shares with, one of the user's."""
    returned = list(forward.output_node().args[0])  # type: ignore[arg-type]
    users = [*forward.find_nodes(op="placeholder"), *returned[:outputs]]
    known = {storage_key(t) for n in users if isinstance(n, fx.Node) for t in tensors(n)}
    for i, node in reversed([*enumerate(returned)]):
        found = value(node) if isinstance(node, fx.Node) else None
        if isinstance(found, torch.Tensor) and storage_key(found) not in known:
            return i
    return None


def gradients_of(backward: fx.Graph) -> dict[int, int]:
    """Which output is the gradient of an input: a backward has one for each, or None, in turn."""
    returned: Any = backward.output_node().args[0]
    return {i: i for i, n in enumerate(returned) if isinstance(n, fx.Node)}


def gradient_values(backward: fx.Graph, gradients: Mapping[int, int]) -> dict[int, Any]:
    """The gradients without data, by the input that each is the gradient of."""
    returned: Any = backward.output_node().args[0]
    return {i: value(returned[output]) for i, output in gradients.items()}


def releases(
    folds: Folds, given: Sequence[Any], gradients: Mapping[int, int]
) -> tuple[Release, ...]:
    """What to tell the pass about each parameter whose gradient is folded.

    given: the fake values of the forward's inputs. gradients: input -> output.
    """
    return tuple(Release(i, gradients[i], given[i], *needs) for i, needs in folds)
