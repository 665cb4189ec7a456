"""Tries the functions of a rewrite on tensors without data, before they change a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from roam.core.errors import RewriteError
from roam.core.machine import Bytes
from roam.passes.geometry import value
from roam.passes.rewrites.saved.noise import Noise
from roam.passes.rewrites.saved.rewrite import Replaced, Restored, SavedRewrite, Whole
from roam.passes.rewrites.saved.tensors import SavedTensor, size_of
from roam.passes.traced import results


@dataclass(frozen=True)
class Smaller:
    """A method that works for a tensor.

    Attributes:
        rewrite: whose it is.
        method: how the tensor is kept smaller.
        bytes: what is saved in place of the tensor.
    """

    rewrite: SavedRewrite
    method: Replaced | Restored
    bytes: Bytes


def tried(rewrite: SavedRewrite, tensor: SavedTensor) -> Smaller | Whole | None:
    """Returns how a rewrite keeps a tensor smaller, or why not; None if it does not look for it.

    Raises RewriteError if the rewrite raises, or makes something unlike what it replaces.
    """
    try:
        method = rewrite.method(tensor)
        if not isinstance(method, (Replaced, Restored)):
            return method
        small = _kept(method, tensor.node)
        _check(method, tensor, tuple(small))
    except Exception as error:
        message = f"it raised {error!r} for {tensor.node.name}"
        raise RewriteError(message, rewrite) from error
    return Smaller(rewrite, method, sum(map(size_of, small)))


def _kept(method: Replaced | Restored, node: fx.Node) -> list[Tensor]:
    def keep(x: Tensor) -> tuple[Tensor, ...]:
        seed = torch.empty(1, dtype=torch.int64, device=x.device)
        return method.keep(x, Noise(seed, 0))

    return results(keep, node)


def _check(method: Replaced | Restored, tensor: SavedTensor, small: tuple[Tensor, ...]) -> None:
    """Raises TypeError if the backward would get another kind of tensor than before."""
    if isinstance(method, Restored):
        made = results(lambda _: method.restore(small), tensor.node)
        _check_like(made, tensor.value, "restore")
        return
    for op, result in method.results.items():
        operands: Any = [op.args[i] for i in result.operands]
        call = result.call
        made = results(lambda _, *given: call(small, *given), tensor.node, *operands)  # noqa: B023
        _check_like(made, value(op), f"the result for {op.name}")


def _check_like(made: Sequence[Tensor], like: Tensor, what: str) -> None:
    [one] = made
    sizes = zip(one.shape, like.shape, strict=False)
    differ = any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in sizes)
    if one.dtype is not like.dtype or one.dim() != like.dim() or differ:
        raise TypeError(
            f"{what} is {one.dtype} {tuple(one.shape)}, not {like.dtype} {tuple(like.shape)}"
        )
