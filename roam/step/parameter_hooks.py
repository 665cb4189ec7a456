"""Hooks of the user's on a parameter's gradient: who has one is not folded in a graph.

In the order in which autograd runs them, with the optimizer's own among them:

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
    """The AccumulateGrad node of a parameter: every graph to come ends in it, while it is kept.

    prehooks, hooks: those on the node, which torch adds to and removes from.
    """

    node: Node
    prehooks: Mapping[int, Any]
    hooks: Mapping[int, Any]

    @staticmethod
    def of(parameter: Tensor) -> Leaf:
        node = get_gradient_edge(parameter).node
        # a node does not show its hooks: the handle of another one does
        before, after = node.register_prehook(_nothing), node.register_hook(_nothing)
        prehooks, hooks = before.hooks_dict_ref(), after.hooks_dict_ref()
        before.remove()
        after.remove()
        assert prehooks is not None
        assert hooks is not None
        return Leaf(node, prehooks, hooks)


def hooked(parameter: Tensor) -> bool:
    """Whether a hook on the tensor may see or change the gradient before the optimizer does."""
    if parameter._backward_hooks:
        return True
    hooks = parameter._post_accumulate_grad_hooks
    return bool(hooks) and not is_ours(next(iter(hooks.values())))


def _nothing(*_: Any) -> None:
    pass
