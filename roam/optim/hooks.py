"""Which optimizer folds a parameter's gradients, and the hook that hands them over."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.weak import WeakTensorKeyDictionary


class Absorbs(Protocol):
    """What takes gradients in."""

    def absorb(self, param: Tensor, grad: Tensor) -> None: ...

    def lose(self, param: Tensor) -> None: ...


_owners = WeakTensorKeyDictionary()  # parameter -> a weak reference to who folds its gradients
_hooks = WeakTensorKeyDictionary()  # parameter -> the handle of its hook, once it has one


def claim(param: Tensor, optimizer: Absorbs) -> None:
    """The newest optimizer gets the parameter: whoever runs a notebook's cell again means that."""
    last = _owners.get(param)
    if last is not None and (owner := last()) is not None and owner is not optimizer:
        owner.lose(param)
    if param in _hooks:
        _hooks.pop(param).remove()
    _owners[param] = weakref.ref(optimizer)


def hook_up(param: Tensor, optimizer: Absorbs) -> None:
    """From now on, hands each complete gradient over, as long as there is the optimizer.

    Where the graph has folded the gradient and returned None for it, the hook fires all the same,
    with nothing in `.grad`.
    """
    reference = weakref.ref(optimizer)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def fold(param: Tensor, grad: Tensor) -> None:  # would be compiled in a compiled train_step
        optimizer = reference()
        if optimizer is not None:
            param.grad = None
            optimizer.absorb(param, grad)

    def hook(param: Tensor) -> None:
        if (grad := param.grad) is not None:  # asked first: what torch wraps around `fold` is slow
            fold(param, grad)

    _hooks[param] = param.register_post_accumulate_grad_hook(hook)


def distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def in_data_parallel(holds: Callable[[Tensor], bool]) -> bool:
    """Whether DistributedDataParallel has wrapped one of the parameters, which shows on none."""
    return any(
        issubclass(type(found), DistributedDataParallel) and any(map(holds, found.parameters()))
        for found in gc.get_objects()
    )
