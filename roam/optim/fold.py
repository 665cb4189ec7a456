"""The fold: how an optimizer absorbs one gradient, after which the gradient is dead.

    micro-batch        1                2                          N
    gradient     made, folded     made, folded       ...     made, folded
                      |                |                          |
    state       decay + fold         fold            ...        fold  ──►  apply: the parameter

    release (N = 1): decay, fold and apply at once, as soon as the gradient is complete

A rule is written for one parameter, and knows nothing of graphs, hooks or counting: that is
`roam.optim.folding`. `roam.optim.adama` and `roam.optim.slim` are rules of about a page each.
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

State = Mapping[str, Tensor]  # by StateSpec.name
Group = Mapping[str, Any]  # the parameter's group: lr, betas, ..., looked up at every call


@dataclass(frozen=True)
class StateSpec:
    """One tensor of one parameter's optimizer state."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def zeros(self, param: Tensor) -> Tensor:
        """The tensor at its start, on the parameter's device; of its shape, it has its strides."""
        if self.shape == tuple(param.shape):
            return torch.zeros_like(param, dtype=self.dtype, memory_format=torch.preserve_format)
        return torch.zeros(self.shape, dtype=self.dtype, device=param.device)


STEP = StateSpec("step", (), torch.float32)  # how often the parameter was updated; on the CPU


class Update(NamedTuple):
    """One parameter's whole mini-batch, as `FoldRule.release` takes it."""

    state: State
    param: Tensor
    grad: Tensor
    step: Tensor
    group: Group


class FoldRule(ABC):
    """How one gradient is absorbed. Every method works in place, under `torch.no_grad()`.

    Complex parameters come as their real views, `[..., 2]`, and so do gradient and state.

    folds_with: the values of a group that `decay` and `fold` look up. `apply` may use any.
    """

    folds_with: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def state(self, param: Tensor) -> tuple[StateSpec, ...]:
        """What the parameter needs. Looks at its shape and dtype only: it may be fake or meta."""

    @abstractmethod
    def decay(self, state: State, group: Group) -> None:
        """The start of a mini-batch, before its first fold."""

    @abstractmethod
    def fold(self, state: State, grad: Tensor, scale: float, group: Group) -> None:
        """Absorbs `scale * grad`, the gradient of one micro-batch of 1 / scale."""

    @abstractmethod
    def apply(self, state: State, param: Tensor, step: Tensor, group: Group) -> None:
        """The end of a mini-batch: changes the parameter. `step` is its number, from 1: a float32
        scalar on the CPU."""

    def release(self, updates: Sequence[Update]) -> None:
        """A mini-batch of one micro-batch, all at once, for each of these parameters. Must bump
        their versions, so that autograd notices a reader that came too late."""
        for state, param, grad, step, group in updates:
            self.decay(state, group)
            self.fold(state, grad, 1.0, group)
            self.apply(state, param, step, group)

    @abstractmethod
    def check(self, group: Group) -> None:
        """Raises HyperparameterError where a value of the group is out of its range."""

    def fold_scratch(self, param: Tensor, grad: Tensor, group: Group) -> int:
        """Bytes that `fold` allocates for itself at its worst moment. Fake tensors will do."""
        return 0

    def release_scratch(self, param: Tensor, grad: Tensor, group: Group) -> int:
        """Bytes that `release` allocates for one parameter at its worst moment."""
        return self.fold_scratch(param, grad, group)


def block_size(tensor: Tensor) -> int:
    """Elements that an update works on at a time: what it allocates is no larger.

    Few enough for a CPU's cache, and enough for a GPU to be worth a launch.
    """
    return machine.of(tensor.device.type).fold_elements


def alike(first: Tensor, *others: Tensor) -> bool:
    """Whether the tensors have one shape, and each fills its memory in one and the same order."""
    shape, contiguous = first.shape, first.is_contiguous()
    for t in others:  # once for every gradient: no generators
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
    """The same elements of each tensor, a block at a time, as flat views, until all were seen.

    Tensors that are not alike come whole.
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
