"""Notifies roam's optimizers if torch's functions clip or measure gradients that were folded.

A folded gradient is no longer in `.grad`, so these functions would miss it without a word. Reading
`.grad` cannot be detected. So `watch` makes torch's functions notify the optimizers
(`asked_for_gradient`), which then warn.

Each of these functions is a closure of `torch.nn.utils.clip_grad` that turns gradients off. It
holds the function that does the work in a cell. `watch` replaces what the cell holds:

    before    clip_grads_with_norm_ ──[cell]──► inner function
    after     clip_grads_with_norm_ ──[cell]──► watched ──► inner function

It does so for `clip_grads_with_norm_`, `clip_grad_value_` and `get_total_norm`. The closures stay
the same objects, so it does not matter who imported them, and when. `clip_grad_norm_`, which
accelerate, Lightning and the Trainer use, is not changed: it calls `clip_grads_with_norm_`.
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
    """Makes torch's functions that clip or measure gradients notify roam's optimizers when called.

    This stays so for the rest of the process. Calling `watch` again changes nothing.
    """
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
    """Notifies all optimizers if the list of gradients to measure is empty.

    If it is, any optimizer may have folded gradients. Does nothing if the gradients are measured
    for `clip_grad_norm_`: that also calls `clip_grads_with_norm_`, which notifies the optimizers
    that own the parameters.
    """
    caller = sys._getframe(3)  # called get_total_norm, which called `watched`, which called this
    if not gradients and caller.f_code is not CLIP_NORM:
        for owner in owners():
            owner.asked_for_gradient(None)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _tell_at_trace() -> None:
    """Notifies all optimizers when dynamo traces a clipping function, and not when the graph runs.

    An optimizer that has folded gradients since the last step() then warns. If the whole step is
    one graph, no gradient has been folded at the time of tracing, so no optimizer warns.
    """
    for owner in owners():
        owner.asked_for_gradient(None)
