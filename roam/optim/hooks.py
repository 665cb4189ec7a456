"""Which optimizer folds a parameter's gradients, and the hook that hands them over."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary


class Absorbs(Protocol):
    """What takes gradients in."""

    def absorb(self, param: Tensor, grad: Tensor) -> None: ...

    def lose(self, param: Tensor) -> None: ...

    def waits(self, param: Tensor) -> bool: ...

    def look_at_groups(self) -> None: ...

    def asked_for_gradient(self, param: Tensor | None) -> None: ...


OURS = "folds_for_roam"  # marks the hooks made here
_owners = WeakTensorKeyDictionary()  # parameter -> a weak reference to who folds its gradients
_epoch = object()


def owner_of(param: Tensor) -> Any:
    """Returns the optimizer that folds the parameter's gradients, or None."""
    reference = _owners.get(param)
    return None if reference is None else reference()


def owners() -> list[Absorbs]:
    """Returns all optimizers that fold gradients."""
    found = {id(o): o for ref in list(_owners.values()) if (o := ref()) is not None}
    return [*found.values()]


def epoch() -> object:
    """Returns the same object as long as no parameter has got, changed or lost its owner.

    Whoever owns a parameter keeps it alive: until the next epoch its id is its own.
    """
    return _epoch


def is_ours(hook: Callable[..., object]) -> bool:
    """Whether it is the hook of an optimizer of roam's."""
    return hasattr(hook, OURS)


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
        self._missing: set[Tensor] = set()  # parameters that are frozen, or new
        weakref.finalize(optimizer, _let_go, self._handles).atexit = False

    def claim(self, param: Tensor) -> None:
        """Takes the parameter from an older optimizer: whoever runs a cell again means that."""
        owner, optimizer = owner_of(param), self.optimizer()
        if owner is not None and owner is not optimizer:
            owner.lose(param)
        _owners[param] = self.optimizer
        self._missing.add(param)
        _begin_epoch()

    def let_go(self, param: Tensor) -> None:
        """Leaves the parameter to nobody, unless another optimizer has claimed it."""
        if owner_of(param) is self.optimizer():
            del _owners[param]
            _begin_epoch()
        self.remove(param)

    def add_missing(self) -> None:
        """Adds the hooks of parameters that are new, or not frozen any more."""
        for param in [p for p in self._missing if p.requires_grad]:
            self._missing.remove(param)
            self.add(param)

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
            if optimizer is not None and not optimizer.waits(param):
                param.grad = None
                optimizer.absorb(param, grad)

        def hook(param: Tensor) -> None:
            if (grad := param.grad) is not None:  # asked first: torch's wrapper of `fold` is slow
                fold(param, grad)

        setattr(hook, OURS, True)
        self._handles[id(param)] = param.register_post_accumulate_grad_hook(hook)

    def remove(self, param: Tensor) -> None:
        """Ends that."""
        self._missing.discard(param)
        if id(param) in self._handles:
            self._handles.pop(id(param)).remove()


def _let_go(handles: dict[int, RemovableHandle]) -> None:
    for handle in handles.values():
        handle.remove()
    _begin_epoch()
