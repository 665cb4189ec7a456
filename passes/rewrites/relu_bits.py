"""ReLU's derivative as one bit, eight a byte, in place of the activation's result. Exact.

    forward     y = max(h, 0) ── y > 0, packed                                       saved
    backward    dy where the bit is set, else 0                                      = dh

It gains where the backward needs y for nothing else: where the next linear reads a dropout of it,
or is frozen. Applies to any activation whose derivative is 0 or 1, such as ReLU6 and hardtanh.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from roam.passes.rewrites.codes import pack, unpack
from roam.passes.rewrites.pointwise import Pointwise, pointwise
from roam.passes.rewrites.saved import Method, Noise, Replaced, SavedTensor

PACKED = 8  # bits in a byte


@dataclass(frozen=True)
class ReluBits:
    """modules: see `SavedRewrite`."""

    modules: tuple[str, ...] = ("*",)
    name: str = "relu-bits"
    exact: bool = True

    def method(self, tensor: SavedTensor) -> Method:
        width = tensor.value.shape[-1] if tensor.value.dim() else None
        if not isinstance(width, int) or width % PACKED or not tensor.value.is_floating_point():
            return None
        function = pointwise(tensor)
        if function is None or not _is_step(function):
            return None

        def keep(y: Tensor, noise: Noise) -> tuple[Tensor]:
            return (pack(function.of(y).reshape(-1).to(torch.uint8), 1),)

        def make(saved: tuple[Tensor, ...], shape: Any, dtype: torch.dtype) -> Tensor:
            return unpack(saved[0], 1).reshape(shape).to(dtype)

        return Replaced(keep, function.result(make))


def _is_step(function: Pointwise) -> bool:
    """Returns whether a function is 0 or 1 everywhere."""
    return function.satisfies(lambda _, found: bool(((found == 0) | (found == 1)).all()))
