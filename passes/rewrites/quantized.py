"""Quantized saving: saved tensors as 8-bit or 4-bit codes, rounded at random (Mesa, ActNN, GACT).

    forward     x ── groups of 256 ── (x - least) / step ── + noise ── floor ── codes, uint8   saved
                                       least and step of each group, float32                   saved
    backward    codes · step + least ── x' ── whatever read x

Rounding is unbiased: the expected x' is x. So is what reads x' linearly, such as the gradient of a
weight. What is not linear in x (the derivative of an activation, a norm, an attention) has a bias
of second order in the step. Ops that are exact functions of x' (recomputed ones) have it, too.

With `unbiased` only what is read linearly is restored. Of an activation's input h, which is not,
the backward needs the derivative g(h) alone, as a factor of a gradient: its codes are saved in
place of h, and what is recomputed of h gets codes of its own. Then no gradient has a bias, and the
loss keeps every bit; queries, keys and the inputs of norms stay whole.

Fresh scales of each step need no state; Mesa's running scales clip, which is a bias.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from roam.core.errors import OptionError
from roam.passes.dependencies import needed_for
from roam.passes.geometry import value
from roam.passes.rewrites.codes import BITS, Codes
from roam.passes.rewrites.linear_operands import is_given
from roam.passes.rewrites.linear_readers import multiplies_gradients, reads_linearly
from roam.passes.rewrites.pointwise import pointwise
from roam.passes.rewrites.saved import Method, Noise, Replaced, Restored, SavedTensor, Whole


@dataclass(frozen=True)
class Quantized:
    """Saves tensors of floating point as codes.

    Attributes:
        bits: of a code, 8 or 4.
        group: elements that share a scale, if they divide the tensor; else those of a row do.
        smallest: the fewest bytes of a tensor that is quantized.
        modules: see `SavedRewrite`. By default tensors that code outside of all modules reads, such
            as a loss function on logits, are saved as they are.
        unbiased: whether tensors stay whole if a gradient would get a bias.
    """

    bits: int = 8
    group: int = 256
    smallest: int = 16 * 1024
    modules: tuple[str, ...] = ("?*",)
    unbiased: bool = False
    name: str = "quantized"
    exact: bool = False

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise OptionError(f"bits of quantized is 8 or 4, not {self.bits!r}")
        if self.group < 2 or self.group % 2:
            raise OptionError(f"group of quantized is an even number, not {self.group!r}")

    def method(self, tensor: SavedTensor) -> Method:
        x = tensor.value
        if not x.is_floating_point() or tensor.bytes < self.smallest:
            return None
        if _is_statistic(tensor) or not _is_computed(tensor) or is_given(tensor.node):
            return None  # a cast of a weight, too: made again of the weight, it is exact
        order = memory_order(x)
        if order is None or (self.bits == 4 and self.width(x, order) % 2):
            return None
        if self.unbiased and not reads_linearly(tensor):
            return self.of_derivative(tensor)
        # a symbolic size would have to be saved itself
        sizes = [n if isinstance(n := x.shape[d], int) else -1 for d in order]
        dtype = x.dtype

        def keep(x: Tensor, noise: Noise) -> tuple[Tensor, ...]:
            grouped = x.permute(order).reshape(-1, self.width(x, order))
            return self.codes.encode(grouped, noise)

        def restore(saved: tuple[Tensor, Tensor, Tensor]) -> Tensor:
            found = self.codes.decode(*saved).to(dtype).reshape(sizes)
            return found.permute([order.index(d) for d in range(len(order))])

        return Restored(keep, restore, remakes=not self.unbiased)

    def of_derivative(self, tensor: SavedTensor) -> Method:
        """Returns how codes of the derivative stand in for an activation's input."""
        function = pointwise(tensor)
        if function is None or not (function.takes or multiplies_gradients(function.op)):
            return Whole("what reads it is not linear in it")
        order = list(range(tensor.value.dim()))

        def keep(x: Tensor, noise: Noise) -> tuple[Tensor, ...]:
            grouped = function.of(x).reshape(-1, self.width(x, order))
            return self.codes.encode(grouped, noise)

        def make(saved: tuple[Tensor, ...], shape: list[int], dtype: torch.dtype) -> Tensor:
            return self.codes.decode(*saved).to(dtype).reshape(shape)

        return Replaced(keep, function.result(make))

    def width(self, x: Tensor, order: list[int]) -> Any:
        """Returns how many elements share a scale."""
        row = x.shape[order[-1]]
        if all(isinstance(n, int) for n in x.shape) and prod(x.shape) % self.group == 0:
            return self.group
        return row

    @property
    def codes(self) -> Codes:
        return Codes(self.bits)


def memory_order(x: Tensor) -> list[int] | None:
    """Returns the dims of a tensor without gaps from the outermost in memory; None with gaps."""
    if x.is_contiguous():
        return list(range(x.dim()))
    if not all(isinstance(n, int) for n in (*x.shape, *x.stride())):
        return None
    strides = x.stride()
    order = sorted(range(x.dim()), key=lambda d: (strides[d], x.shape[d]), reverse=True)
    return order if x.permute(order).is_contiguous() else None


def _is_statistic(tensor: SavedTensor) -> bool:
    """Returns whether a tensor holds a number of each row, in whose place an error is everywhere.

    Such as the mean of a norm, or the logarithm of a softmax's sum: little bytes, and no bias then.
    """
    node, shape = tensor.node, tensor.value.shape
    if node.target is operator.getitem and node.args[1] != 0:
        return True
    return not shape or bool(shape[-1] == 1)


def _is_computed(tensor: SavedTensor) -> bool:
    """Returns whether a tensor depends on numbers: a mask may hold infinities, and has no range."""
    given = (value(n) for n in needed_for([tensor.node]) if n.op == "placeholder")
    return any(isinstance(v, Tensor) and v.is_floating_point() for v in given)
