"""Which optimizer folds a parameter's gradients, and the hook that hands them over."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary


class Absorbs(Protocol):
    """What takes gradients in."""

    def absorb(self, param: Tensor, grad: Tensor) -> None: ...

    def lose(self, param: Tensor) -> None: ...


_owners = WeakTensorKeyDictionary()  # parameter -> a weak reference to who folds its gradients
_epoch = object()


def owner_of(param: Tensor) -> Any:
    """Returns the optimizer that folds the parameter's gradients, or None."""
    reference = _owners.get(param)
    return None if reference is None else reference()


def epoch() -> object:
    """Returns the same object as long as no parameter has got, changed or lost its owner.

    Whoever owns a parameter keeps it alive: until the next epoch its id is its own.
    """
    return _epoch


def _begin_epoch() -> None:
    global _epoch
    _epoch = object()


class Hooks:
    """The hooks of one optimizer, which hand complete gradients over to it.

    They own nothing: when the optimizer is gone, so are they, and its parameters are nobody's.
    """

    def __init__(self, optimizer: Absorbs) -> None:
        self.optimizer = weakref.ref(optimizer)
        self._handles: dict[int, RemovableHandle] = {}  # by the parameter's id
        weakref.finalize(optimizer, _let_go, self._handles).atexit = False

    def claim(self, param: Tensor) -> None:
        """Takes the parameter from an older optimizer: whoever runs a cell again means that."""
        owner, optimizer = owner_of(param), self.optimizer()
        if owner is not None and owner is not optimizer:
            owner.lose(param)
        _owners[param] = self.optimizer
        _begin_epoch()

    def add(self, param: Tensor) -> None:
        """From now on, hands each complete gradient of the parameter over.

        Where the graph has folded the gradient and returned None for it, the hook fires all the
        same, with nothing in `.grad`.
        """
        reference = self.optimizer

        # would be compiled in a compiled train_step
        @torch.compiler.disable  # type: ignore[untyped-decorator]
        def fold(param: Tensor, grad: Tensor) -> None:
            optimizer = reference()
            if optimizer is not None:
                param.grad = None
                optimizer.absorb(param, grad)

        def hook(param: Tensor) -> None:
            if (grad := param.grad) is not None:  # asked first: torch's wrapper of `fold` is slow
                fold(param, grad)

        self._handles[id(param)] = param.register_post_accumulate_grad_hook(hook)

    def remove(self, param: Tensor) -> None:
        """Ends that."""
        if id(param) in self._handles:
            self._handles.pop(id(param)).remove()


def _let_go(handles: dict[int, RemovableHandle]) -> None:
    for handle in handles.values():
        handle.remove()
    _begin_epoch()


def distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def in_data_parallel(holds: Callable[[Tensor], bool]) -> bool:
    """Whether DistributedDataParallel has wrapped one of the parameters, which shows on none."""
    return any(
        issubclass(type(found), DistributedDataParallel) and any(map(holds, found.parameters()))
        for found in gc.get_objects()
    )
