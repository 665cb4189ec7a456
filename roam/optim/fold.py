"""Defines a fold rule: how an optimizer absorbs one gradient, which may then be freed.

    micro-batch        1                2                          N
    gradient     made, folded     made, folded       ...     made, folded
                      |                |                          |
    state       decay + fold         fold            ...        fold  ──►  apply (to the parameter)

    release (N = 1): decay, fold and apply at once, as soon as the gradient is complete

A rule handles one parameter. `roam.optim.folding` deals with graphs and hooks, and counts
micro-batches. `roam.optim.adama` and `roam.optim.slim` have rules of about a page each.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from roam.core import machine

State = Mapping[str, Tensor]  # a parameter's state tensors, by StateSpec.name
Group = Mapping[str, Any]  # a parameter's group (lr, betas, ...); the values may change


@dataclass(frozen=True)
class StateSpec:
    """Describes one tensor of the optimizer state of one parameter."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def zeros(self, param: Tensor) -> Tensor:
        """Returns zeros for this state tensor, on the parameter's device.

        If the state tensor has the parameter's shape, it gets the parameter's strides too.
        """
        if self.shape == tuple(param.shape):
            return torch.zeros_like(param, dtype=self.dtype, memory_format=torch.preserve_format)
        return torch.zeros(self.shape, dtype=self.dtype, device=param.device)


STEP = StateSpec("step", (), torch.float32)  # a tensor on the CPU that counts a parameter's updates


class Update(NamedTuple):
    """The arguments of one parameter's update, as `FoldRule.release` takes them."""

    state: State
    param: Tensor
    grad: Tensor
    step: Tensor
    group: Group


class FoldRule(ABC):
    """A rule by which an optimizer absorbs one gradient into its state.

    The methods change tensors in place and are called under `torch.no_grad()`. Complex parameters,
    gradients and state tensors are passed to them as their real views, of shape `[..., 2]`.

    Attributes:
        folds_with: names of the group's values that `decay` and `fold` read. `apply` may
            read all values.
    """

    folds_with: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def state(self, param: Tensor) -> tuple[StateSpec, ...]:
        """Returns what state tensors a parameter needs.

        Must look only at the shape and dtype of `param`, which may be a fake or meta tensor.
        """

    @abstractmethod
    def decay(self, state: State, group: Group) -> None:
        """Decays the state at the start of a mini-batch, before the first fold."""

    @abstractmethod
    def fold(self, state: State, grad: Tensor, scale: float, group: Group) -> None:
        """Adds the gradient of one of N micro-batches to the state. `scale` is 1 / N."""

    @abstractmethod
    def apply(self, state: State, param: Tensor, step: Tensor, group: Group) -> None:
        """Updates the parameter at the end of a mini-batch.

        Args:
            state: the parameter's state, with all gradients of the mini-batch folded in.
            param: the parameter.
            step: the number of this update, from 1: a float32 scalar on the CPU.
            group: the parameter's group.
        """

    def release(self, updates: Sequence[Update]) -> None:
        """Decays, folds and applies at once, for each parameter.

        Called instead of these three methods if a mini-batch is one micro-batch. Must bump the
        version counter of each parameter, so that autograd detects an op that reads the parameter
        after the update but needs the old value.
        """
        for state, param, grad, step, group in updates:
            self.decay(state, group)
            self.fold(state, grad, 1.0, group)
            self.apply(state, param, step, group)

    @abstractmethod
    def check(self, group: Group) -> None:
        """Raises HyperparameterError if a value of the group is out of its range."""

    def fold_scratch(self, param: Tensor, grad: Tensor, group: Group) -> int:
        """Returns the most bytes that `fold` allocates at a time. The tensors may be fake."""
        return 0

    def release_scratch(self, param: Tensor, grad: Tensor, group: Group) -> int:
        """Returns the most bytes that `release` allocates at a time to update one parameter."""
        return self.fold_scratch(param, grad, group)


def block_size(tensor: Tensor) -> int:
    """Returns how many elements an update processes at a time, to bound the bytes it allocates.

    On a CPU, this many elements fit into the cache. On a GPU, they are enough to be worth a kernel
    launch.
    """
    return machine.of(tensor.device.type).fold_elements


def alike(first: Tensor, *others: Tensor) -> bool:
    """Returns whether all tensors have the same shape, and the same strides without gaps.

    If so, the tensors have their elements in the same order in memory.
    """
    shape, contiguous = first.shape, first.is_contiguous()
    for t in others:  # a loop, which is faster than a generator: this runs for every gradient
        if t.shape != shape or (contiguous and not t.is_contiguous()):
            return False
    if contiguous:
        return True
    step, dense = 1, [0] * first.dim()
    for i in sorted(range(first.dim()), key=first.stride):
        dense[i] = step
        step *= first.shape[i]
    return all(
        n == 1 or s == d
        for t in (first, *others)
        for n, s, d in zip(t.shape, t.stride(), dense, strict=True)
    )


def blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cuts the tensors into pieces, and yields the pieces one after another.

    A piece is a tuple with a flat view of each tensor, all of one range of elements. If the tensors
    are not `alike` (in shape and strides), they are yielded whole, as a single piece.
    """
    if not alike(*tensors):
        yield tensors
        return
    first = tensors[0]
    order = sorted(range(first.dim()), key=first.stride, reverse=True)
    flat = [t.permute(order).view(-1) for t in tensors]
    size = block_size(first)
    for start in range(0, first.numel(), size):
        yield tuple(t[start : start + size] for t in flat)
