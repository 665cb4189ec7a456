"""Computes the backward of cross entropy a block of rows at a time.

    log_softmax ──┬── nll_loss_backward ── _log_softmax_backward_data ── gradient of the logits
                  └──────────────────────────────┘

The tensor between the two ops is as large as the logits, and zero but for one element a row. For a
language model it is the step's peak. Both ops treat each row by itself, so one op can run both on
a block of rows at a time, with the same bits. The tensor between them then has the size of a
block, and the gradient may be written over the log-softmax, whose last reader this op is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from roam.core import machine
from roam.passes.geometry import same_layout, storage_key, value

aten = torch.ops.aten

_ARGUMENTS = (
    "Tensor grad, Tensor log_probs, Tensor target, Tensor? weight, int reduction, "
    "SymInt ignore_index, Tensor total_weight, int dim, ScalarType input_dtype"
)
_library = torch.library.Library("roam", "DEF")
_library.define(f"cross_entropy_backward({_ARGUMENTS}) -> Tensor")
_library.define(f"cross_entropy_backward.out({_ARGUMENTS}, *, Tensor(a!) out) -> Tensor(a!)")


def rows_per_block(log_probs: Tensor) -> int:
    """Returns the number of rows in each block but the last, for log_probs of (rows, classes)."""
    block = machine.of(log_probs.device.type).loss_block
    return max(1, block // max(1, int(log_probs.shape[1]) * log_probs.element_size()))


def block_bytes(log_probs: Tensor) -> int:
    """Returns the bytes of the tensor between the two ops, for one block."""
    rows = min(rows_per_block(log_probs), log_probs.shape[0])
    return rows * int(log_probs.shape[1]) * log_probs.element_size()


def _into(
    grad: Tensor,
    log_probs: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignore_index: int,
    total_weight: Tensor,
    dim: int,
    input_dtype: torch.dtype,
    *,
    out: Tensor,
) -> Tensor:
    step = rows_per_block(log_probs)
    for start in range(0, log_probs.shape[0], step):
        rows = slice(start, start + step)
        block = log_probs[rows]
        above = grad[rows] if grad.dim() else grad
        between = aten.nll_loss_backward(
            above, block, target[rows], weight, reduction, ignore_index, total_weight
        )
        aten._log_softmax_backward_data.out(between, block, dim, input_dtype, out=out[rows])
        del between  # frees it before the next one is allocated
    return out


def _functional(grad: Tensor, log_probs: Tensor, *rest: Any) -> Tensor:
    dtype: torch.dtype = rest[-1]
    return _into(grad, log_probs, *rest, out=torch.empty_like(log_probs, dtype=dtype))


_library.impl("cross_entropy_backward", _functional, "CompositeExplicitAutograd")
_library.impl("cross_entropy_backward.out", _into, "CompositeExplicitAutograd")
OP = torch.ops.roam.cross_entropy_backward.default


@dataclass(frozen=True)
class CrossEntropyBackward:
    """Joins the two ops of the backward of cross entropy over (rows, classes) into one op."""

    name: str = "cross_entropy_backward"

    def __call__(self, module: fx.GraphModule) -> int:
        joined = 0
        for loss in module.graph.find_nodes(
            op="call_function", target=aten.nll_loss_backward.default
        ):
            softmax = _only_user(loss)
            if softmax is None or not _can_join(loss, softmax):
                continue
            with module.graph.inserting_before(softmax):
                whole = module.graph.call_function(OP, (*loss.args, *softmax.args[2:]))
            whole.meta = dict(softmax.meta)
            softmax.replace_all_uses_with(whole)
            module.graph.erase_node(softmax)
            module.graph.erase_node(loss)
            joined += 1
        return joined


def _only_user(loss: fx.Node) -> fx.Node | None:
    user = next(iter(loss.users), None)
    right = user is not None and user.target is aten._log_softmax_backward_data.default
    return user if right and len(loss.users) == 1 else None


def _can_join(loss: fx.Node, softmax: fx.Node) -> bool:
    """Returns whether both ops read the same log-softmax, over the last of two dims, of one dtype.

    One of them may read it through `detach`.
    """
    result = value(softmax)
    log_probs = value(softmax.args[1])  # type: ignore[arg-type]
    if not isinstance(log_probs, Tensor) or log_probs.dim() != 2 or len(loss.args) != 7:
        return False
    given = value(loss.args[1])  # type: ignore[arg-type]
    same = storage_key(given) == storage_key(log_probs) and same_layout(given, log_probs)
    plain = log_probs.is_contiguous() and result.dtype == log_probs.dtype
    sizes_known = isinstance(log_probs.shape[1], int)
    return same and plain and sizes_known and softmax.args[2] in (1, -1)
