"""What a rewrite of saved tensors is: how it keeps a tensor smaller, and how the backward reads it.

    forward     x ──── keep ──── small                      x is freed after its last use
                                   │ saved
    backward    Replaced           └── result ──── dW       in place of an op that reads x
                Restored           └── restore ──── x' ──── every op that read x

To write one takes a frozen dataclass with the fields of `SavedRewrite` and the method `method`. Its
functions are ordinary PyTorch: they are traced into the graph before it is partitioned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor, fx

from roam.passes.rewrites.saved.noise import Noise
from roam.passes.rewrites.saved.tensors import SavedTensor

Parts = tuple[Tensor, ...]
Keep = Callable[[Tensor, Noise], Parts]  # gets the tensor; returns what is saved instead


@dataclass(frozen=True)
class Result:
    """How to compute the result of a reader.

    Attributes:
        call: gets the tuple of what is saved, and the operands; returns a tensor like the reader's.
        operands: positions of the reader's arguments that are passed to `call`.
    """

    call: Callable[..., Tensor]
    operands: tuple[int, ...]


@dataclass(frozen=True)
class Replaced:
    """Other ops stand in for those that read the tensor.

    Attributes:
        keep: makes what is saved.
        results: by op of the backward, how to compute its result. Nothing but these ops, and what
            only they need, may read the tensor.
    """

    keep: Keep
    results: Mapping[fx.Node, Result]
    remakes: ClassVar[bool] = False  # see `Restored`


@dataclass(frozen=True)
class Restored:
    """The backward makes a tensor like the saved one, for whatever reads it.

    Attributes:
        keep: makes what is saved.
        restore: gets the tuple of what is saved; returns a tensor of the same shape and dtype.
        remakes: whether what the backward recomputes of the tensor is made of what is restored.
            Else the tensor stays whole if something recomputed of it has no method of its own.
    """

    keep: Keep
    restore: Callable[..., Tensor]
    remakes: bool = True


@dataclass(frozen=True)
class Whole:
    """A tensor of which a rewrite cannot keep less, though it is of the kind that it looks for.

    reason: what is in the way, for the user.
    """

    reason: str


Method = Replaced | Restored | Whole | None  # None: not of the kind that the rewrite looks for


@runtime_checkable
class SavedRewrite(Protocol):
    """A rewrite that keeps saved tensors smaller.

    Attributes:
        name: what users call it.
        exact: whether gradients keep every bit.
        modules: patterns of the paths of modules (`fnmatch`, such as "h.*.mlp.*"). Only a tensor
            that no other module reads in the backward is kept smaller.
    """

    @property
    def name(self) -> str: ...

    @property
    def exact(self) -> bool: ...

    @property
    def modules(self) -> tuple[str, ...]: ...

    def method(self, tensor: SavedTensor) -> Method:
        """Returns how to keep a tensor smaller."""
        ...


def is_of(tensor: SavedTensor, modules: tuple[str, ...]) -> bool:
    """Returns whether every module that reads the tensor matches one of the patterns."""
    return all(matches(m, modules) for m in tensor.modules)


def matches(module: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(module, p) for p in patterns)
