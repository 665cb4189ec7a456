"""Finds the user's hooks on a parameter's gradient. No graph may fold a gradient with hooks.

All hooks in the order in which autograd runs them, with the optimizer's own:

    Tensor.register_hook ── prehooks of AccumulateGrad ── .grad ──┐
      ┌───────────────────────────────────────────────────────────┘
      └ register_post_accumulate_grad_hook, in the order of registration: the user's, the
        optimizer's (folds, and empties .grad), the user's ── hooks of AccumulateGrad

A hook that comes after the optimizer's finds `.grad` empty, with and without a graph that folds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

from roam.optim.hooks import is_ours


@dataclass(frozen=True)
class Leaf:
    """The AccumulateGrad node of a parameter. All autograd graphs end in it while it is alive.

    Attributes:
        node: the AccumulateGrad node.
        prehooks: torch's own dict of the node's prehooks, so it is always current.
        hooks: torch's own dict of the node's hooks, so it is always current.
    """

    node: Node
    prehooks: Mapping[int, Any]
    hooks: Mapping[int, Any]

    @staticmethod
    def of(parameter: Tensor) -> Leaf:
        node = get_gradient_edge(parameter).node
        # a node does not show its hooks, but the handle of an added hook refers to the dict of all
        before, after = node.register_prehook(_nothing), node.register_hook(_nothing)
        prehooks, hooks = before.hooks_dict_ref(), after.hooks_dict_ref()
        before.remove()
        after.remove()
        assert prehooks is not None
        assert hooks is not None
        return Leaf(node, prehooks, hooks)


def hooked(parameter: Tensor) -> bool:
    """Returns whether a user's hook on the tensor gets its gradient before the optimizer does."""
    if parameter._backward_hooks:
        return True
    hooks = parameter._post_accumulate_grad_hooks
    return bool(hooks) and not is_ours(next(iter(hooks.values())))


def _nothing(*_: Any) -> None:
    pass
