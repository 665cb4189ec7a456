"""Detects calls of torch's functions that clip or measure gradients, if these were folded before.

Reading `.grad` cannot be detected, so torch's own functions are watched. Each of them is a wrapper
that turns gradients off, a closure of `torch.nn.utils.clip_grad` with the function in a cell:

    clip_grad_norm_ ──► _no_grad_wrapper ──[cell]──► clip_grad_norm_
                                              │
                        clip_grads_with_norm_ ┘ ... and so the others

`watch` replaces the contents of the cells. The functions stay the same objects, so it does not
matter who imported them, and when. `clip_grad_norm_`, which accelerate, Lightning and the Trainer
use, calls `clip_grads_with_norm_`, the first of the watched functions.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from types import CellType
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm

from roam.optim.hooks import owner_of, owners

CLIP_NORM = inspect.unwrap(clip_grad_norm_).__code__


def watch() -> None:
    """Makes torch's clipping functions notify the optimizers, from now on, each time they run."""
    for function in (clip_grads_with_norm_, clip_grad_value_):
        _watch(function, "parameters", _tell_owners)
    _watch(get_total_norm, "tensors", _tell_all)


def _watch(function: Any, name: str, tell: Callable[[Sequence[Tensor]], None]) -> None:
    cell: CellType = function.__closure__[function.__code__.co_freevars.index("func")]
    inner = cell.cell_contents
    if getattr(inner, "roam_watches", False):
        return

    @wraps(inner)
    def watched(*args: Any, **how: Any) -> Any:
        if torch.compiler.is_compiling():
            _tell_at_trace()
        else:
            given = how.pop(name) if name in how else args[0]
            tensors = [given] if isinstance(given, Tensor) else [*given]
            args = (tensors, *args[1:])
            tell(tensors)
        return inner(*args, **how)

    watched.roam_watches = True  # type: ignore[attr-defined]
    cell.cell_contents = watched


def _tell_owners(parameters: Sequence[Tensor]) -> None:
    for param in parameters:
        if param.grad is None and (owner := owner_of(param)) is not None:
            owner.asked_for_gradient(param)


def _tell_all(gradients: Sequence[Tensor]) -> None:
    """Notifies all optimizers if a list of gradients is empty: any of them may have folded some.

    Does nothing if the caller is `clip_grad_norm_`, which also passes the parameters themselves to
    `clip_grads_with_norm_`.
    """
    caller = sys._getframe(3)  # the caller of _no_grad_wrapper, which called `watched`
    if not gradients and caller.f_code is not CLIP_NORM:
        for owner in owners():
            owner.asked_for_gradient(None)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _tell_at_trace() -> None:
    """Notifies all optimizers when dynamo traces a clipping function, and not when the graph runs.

    If the step is one graph, no gradient has been folded at that time, so nothing is reported.
    """
    for owner in owners():
        owner.asked_for_gradient(None)
