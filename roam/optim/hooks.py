"""Records which optimizer folds a parameter's gradients, and adds hooks that deliver them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary


class Absorber(Protocol):
    """The methods of an optimizer that owns parameters (folds their gradients), for other code.

    The optimizer's hooks call `absorb` and `waits`, a newer optimizer that takes over a parameter
    calls `lose`, the step driver calls `look_at_groups`, and torch's clipping functions lead to
    `asked_for_gradient`. `OwningOptimizer` describes the methods.
    """

    def absorb(self, param: Tensor, grad: Tensor) -> None: ...

    def lose(self, param: Tensor) -> None: ...

    def waits(self, param: Tensor) -> bool: ...

    def look_at_groups(self) -> None: ...

    def asked_for_gradient(self, param: Tensor | None) -> None: ...


OURS = "folds_for_roam"  # an attribute that the hooks of roam's optimizers have
_owners = WeakTensorKeyDictionary()  # parameter -> weak reference to the optimizer that folds it
_epoch = object()


def owner_of(param: Tensor) -> Any:
    """Returns a parameter's owner, the optimizer that folds its gradients; None without one."""
    reference = _owners.get(param)
    return None if reference is None else reference()


def owners() -> list[Absorber]:
    """Returns all optimizers that own parameters, whose gradients they fold."""
    found = {id(o): o for ref in list(_owners.values()) if (o := ref()) is not None}
    return [*found.values()]


def epoch() -> object:
    """Returns an object that is replaced whenever facts about folds may be obsolete.

    While `epoch()` returns the same object, a caller may rely on facts that it has remembered. The
    object is replaced if any parameter gets, changes or loses its owner, and if an owner's folds
    may need other bytes: values of its groups changed, or its states were loaded or moved to a
    file. An epoch is the time until the next replacement. An owner keeps its parameters alive, so
    within an epoch the id() of a parameter with an owner is not reused.
    """
    return _epoch


def is_ours(hook: Callable[..., object]) -> bool:
    """Returns whether an optimizer of roam registered this hook."""
    return hasattr(hook, OURS)


def begin_epoch() -> None:
    """Makes facts about folds that callers have remembered obsolete: `epoch` tells them so."""
    global _epoch
    _epoch = object()


class Hooks:
    """The hooks of one optimizer, which pass complete gradients to it.

    The hooks do not keep the optimizer alive. When the optimizer is deleted, its hooks are removed
    and its parameters have no owner.

    Attributes:
        optimizer: a weak reference to the optimizer.
    """

    def __init__(self, optimizer: Absorber) -> None:
        self.optimizer = weakref.ref(optimizer)
        self._handles: dict[int, RemovableHandle] = {}  # handles of hooks, by the parameter's id
        self._missing: set[Tensor] = set()  # parameters without a hook yet: frozen, or new
        weakref.finalize(optimizer, _let_go, self._handles).atexit = False

    def claim(self, param: Tensor) -> None:
        """Makes this optimizer the parameter's owner, which folds its gradients.

        Takes the parameter from an older optimizer that owns it. That happens, for example, if a
        notebook's cell that makes an optimizer is run again. Adds no hook yet: `add_missing` does.
        """
        owner, optimizer = owner_of(param), self.optimizer()
        if owner is not None and owner is not optimizer:
            owner.lose(param)
        _owners[param] = self.optimizer
        self._missing.add(param)
        begin_epoch()

    def let_go(self, param: Tensor) -> None:
        """Removes the parameter's hook, and this optimizer's ownership if it is the owner."""
        if owner_of(param) is self.optimizer():
            del _owners[param]
            begin_epoch()
        self.remove(param)

    def add_missing(self) -> None:
        """Adds hooks to the claimed parameters that have none yet and are not frozen."""
        for param in [p for p in self._missing if p.requires_grad]:
            self._missing.remove(param)
            self.add(param)

    def add(self, param: Tensor) -> None:
        """Adds the parameter's hook, which passes each complete gradient to the optimizer.

        The hook takes the gradient out of `.grad`, unless the optimizer `waits` for more of it. If
        a compiled graph has folded the gradient and returned None for it, torch calls the hook all
        the same, with None in `.grad`.
        """
        reference = self.optimizer

        # hides `fold` from dynamo, which would compile it as a part of a compiled train_step
        @torch.compiler.disable  # type: ignore[untyped-decorator]
        def fold(param: Tensor, grad: Tensor) -> None:
            optimizer = reference()
            if optimizer is not None and not optimizer.waits(param):
                param.grad = None
                optimizer.absorb(param, grad)

        def hook(param: Tensor) -> None:
            if (grad := param.grad) is not None:  # checked here, as calling `fold` is slow
                fold(param, grad)

        setattr(hook, OURS, True)
        self._handles[id(param)] = param.register_post_accumulate_grad_hook(hook)

    def remove(self, param: Tensor) -> None:
        """Removes the parameter's hook, if it has one. `add_missing` adds none again."""
        self._missing.discard(param)
        if id(param) in self._handles:
            self._handles.pop(id(param)).remove()


def _let_go(handles: dict[int, RemovableHandle]) -> None:
    for handle in handles.values():
        handle.remove()
    begin_epoch()
