"""Notices that somebody clips or measures gradients that were folded: `.grad` is empty.

Whether `.grad` was read shows nowhere, so torch's own functions have to tell. Each of them runs
with gradients off, in a closure of `torch.nn.utils.clip_grad` that holds the function proper:

    clip_grad_norm_ ──► _no_grad_wrapper ──[cell]──► clip_grad_norm_
                                              │
                        clip_grads_with_norm_ ┘ ... and so the others

`watch` exchanges what is in the cells. The functions stay the objects that they were, so that it
does not matter who imported them, and when. `clip_grad_norm_`, by which accelerate, Lightning and
the Trainer clip, calls the first of the functions that are watched.
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
    """Has torch's functions look for folded gradients first, from now on."""
    for function in (clip_grads_with_norm_, clip_grad_value_):
        _watch(function, "parameters", _ask_owners)
    _watch(get_total_norm, "tensors", _ask_all)


def _watch(function: Any, name: str, ask: Callable[[Sequence[Tensor]], None]) -> None:
    cell: CellType = function.__closure__[function.__code__.co_freevars.index("func")]
    inner = cell.cell_contents
    if getattr(inner, "roam_watches", False):
        return

    @wraps(inner)
    def watched(*args: Any, **how: Any) -> Any:
        if torch.compiler.is_compiling():
            _ask_once()
        else:
            given = how.pop(name) if name in how else args[0]
            tensors = [given] if isinstance(given, Tensor) else [*given]
            args = (tensors, *args[1:])
            ask(tensors)
        return inner(*args, **how)

    watched.roam_watches = True  # type: ignore[attr-defined]
    cell.cell_contents = watched


def _ask_owners(parameters: Sequence[Tensor]) -> None:
    for param in parameters:
        if param.grad is None and (owner := owner_of(param)) is not None:
            owner.asked_for_gradient(param)


def _ask_all(gradients: Sequence[Tensor]) -> None:
    """No gradient says whose it would have been; `clip_grad_norm_` knows the parameters as well."""
    caller = sys._getframe(3)  # of _no_grad_wrapper, which called `watched`
    if not gradients and caller.f_code is not CLIP_NORM:
        for owner in owners():
            owner.asked_for_gradient(None)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _ask_once() -> None:
    """Asks when dynamo traces a call: in a step that is one graph nothing is folded by then."""
    for owner in owners():
        owner.asked_for_gradient(None)
