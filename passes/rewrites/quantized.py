"""Quantized saving: saved tensors as 8-bit or 4-bit codes, rounded at random (Mesa, ActNN, GACT).

    forward     x ── groups of 256 ── (x - least) / step ── + noise ── floor ── codes, uint8   saved
                                       least and step of each group, float32                   saved
    backward    codes · step + least ── x' ── whatever read x

Rounding is unbiased: the expected x' is x. So is what reads x' linearly, such as the gradient of a
weight. What is not linear in x (the derivative of an activation, a norm, an attention) has a bias
of second order in the step. Ops that are exact functions of x' (recomputed ones) have it, too.

The elements of a group share one random number, which a fixed sequence shifts from element to
element (Weyl's, by the golden ratio): each by itself is uniform, and random numbers need no memory.
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
from roam.passes.rewrites.saved import Method, Noise, Restored, SavedTensor

GOLDEN = 0.6180339887498949  # the fraction whose multiples are spread most evenly over [0, 1)
LEAST_STEP = 1e-30  # of a group of equal elements


@dataclass(frozen=True)
class Quantized:
    """Saves tensors of floating point as codes.

    Attributes:
        bits: of a code, 8 or 4.
        group: elements that share a scale, if they divide the tensor; else those of a row do.
        smallest: the fewest bytes of a tensor that is quantized.
        modules: see `SavedRewrite`. By default tensors that code outside of all modules reads, such
            as a loss function on logits, are saved as they are.
    """

    bits: int = 8
    group: int = 256
    smallest: int = 16 * 1024
    modules: tuple[str, ...] = ("?*",)
    name: str = "quantized"
    exact: bool = False

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise OptionError(f"bits of quantized is 8 or 4, not {self.bits!r}")
        if self.group < 2 or self.group % 2:
            raise OptionError(f"group of quantized is an even number, not {self.group!r}")

    def method(self, tensor: SavedTensor) -> Method:
        x = tensor.value
        if not x.is_floating_point() or tensor.bytes < self.smallest:
            return None
        if _is_statistic(tensor) or not _is_computed(tensor):
            return None
        order = memory_order(x)
        if order is None or (self.bits == 4 and self.width(x, order) % 2):
            return None
        # a symbolic size would have to be saved itself
        sizes = [n if isinstance(n := x.shape[d], int) else -1 for d in order]
        dtype = x.dtype

        def keep(x: Tensor, noise: Noise) -> tuple[Tensor, ...]:
            return self.encode(x.permute(order).reshape(-1, self.width(x, order)), noise)

        def restore(saved: tuple[Tensor, Tensor, Tensor]) -> Tensor:
            found = self.decode(*saved).to(dtype).reshape(sizes)
            return found.permute([order.index(d) for d in range(len(order))])

        return Restored(keep, restore)

    def width(self, x: Tensor, order: list[int]) -> Any:
        """Returns how many elements share a scale."""
        row = x.shape[order[-1]]
        if all(isinstance(n, int) for n in x.shape) and prod(x.shape) % self.group == 0:
            return self.group
        return row

    def encode(self, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
        """Returns codes, and the least element and the step of each group. x: [groups, group]."""
        x = x.to(torch.float32)
        least = x.amin(1, keepdim=True)
        step = ((x.amax(1, keepdim=True) - least) / self.levels).clamp_min(LEAST_STEP)
        shifts = torch.arange(x.shape[1], device=x.device, dtype=torch.float64) * GOLDEN
        drawn = noise.uniform(x.shape[0]).unsqueeze(1).to(torch.float32)
        thresholds = (drawn + shifts.frac().to(torch.float32)).frac()
        codes = ((x - least) / step + thresholds).floor().clamp(0, self.levels).to(torch.uint8)
        if self.bits == 4:
            codes = codes[:, ::2] | (codes[:, 1::2] << 4)
        return codes, least, step

    def decode(self, codes: Tensor, least: Tensor, step: Tensor) -> Tensor:
        """Returns what codes stand for, float32, [groups, group]."""
        if self.bits == 4:
            codes = torch.stack((codes & 15, codes >> 4), 2).flatten(1)
        return codes.to(torch.float32) * step + least

    @property
    def levels(self) -> int:
        """The largest code."""
        return int(2**self.bits - 1)


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
