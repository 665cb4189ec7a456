"""Names the rule by which rows pass through each operator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from roam.passes.graph_ops import is_pure
from roam.passes.rewrites.split.row_rules import (
    Along,
    Constant,
    Lookup,
    LossGradient,
    Permute,
    Pointwise,
    Product,
    Rule,
    SelectScatter,
    View,
)
from roam.passes.rewrites.split.spans import is_tensor, shape

aten = torch.ops.aten
prims = torch.ops.prims

RULES: Mapping[Any, Rule] = {
    **dict.fromkeys(
        (
            prims.convert_element_type.default,
            aten.clone.default,
            aten.alias.default,
            aten.detach.default,
            aten.expand.default,
            aten.where.self,
            aten._to_copy.default,
            aten.full_like.default,
            aten.zeros_like.default,
            aten.ones_like.default,
        ),
        Pointwise(),
    ),
    **dict.fromkeys(
        (
            aten.view.default,
            aten.reshape.default,
            aten._unsafe_view.default,
            aten.unsqueeze.default,
            aten.squeeze.dim,
            aten.squeeze.dims,
            aten.squeeze.default,
        ),
        View(),
    ),
    **dict.fromkeys((aten.permute.default, aten.t.default), Permute()),
    **dict.fromkeys(
        (
            aten.sum.dim_IntList,
            aten.mean.dim,
            aten.amax.default,
            aten.amin.default,
            aten.logsumexp.default,
            aten.prod.dim_int,
            aten.any.dim,
            aten.argmax.default,
        ),
        Along(1, keeps=False),
    ),
    **dict.fromkeys((aten._softmax.default, aten._log_softmax.default), Along(1)),
    **dict.fromkeys(
        (aten.cumsum.default, aten.flip.default, prims.rev.default, aten.slice.Tensor), Along(1)
    ),
    aten.select.int: Along(1, keeps=False),
    aten.gather.default: Along(1, others=(2,)),
    aten.scatter.value: Along(1, others=(2,)),
    aten.scatter.src: Along(1, others=(2, 3)),
    aten.slice_scatter.default: Along(2, others=(1,)),
    aten.select_scatter.default: SelectScatter(),
    aten.scatter_add.default: Along(1, others=(2, 3)),
    **dict.fromkeys(
        (aten._softmax_backward_data.default, aten._log_softmax_backward_data.default),
        Along(2, others=(1,)),
    ),
    aten.full.default: Constant(),
    **dict.fromkeys((aten.mm.default, aten.bmm.default), Product()),
    **dict.fromkeys((aten.addmm.default, aten.baddbmm.default), Product(1)),
    **dict.fromkeys((aten.embedding.default, aten.index.Tensor), Lookup()),
    aten.nll_loss_backward.default: LossGradient(),
}
_POINTWISE = Pointwise()


def rule(node: fx.Node) -> Rule | None:
    """Returns the rule of a node's operator; None if rows do not pass through it.

    Random operators have none: a block would draw other numbers than the whole tensor does.
    """
    if not is_pure(node) or not is_tensor(node) or not all(isinstance(n, int) for n in shape(node)):
        return None
    target: Any = node.target
    return RULES.get(target) or (_POINTWISE if torch.Tag.pointwise in target.tags else None)
