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
from torch.utils._python_dispatch import _disable_current_modes

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
            bits = function.of(y).reshape(-1, PACKED).to(torch.uint8)
            packed = bits[:, 0]
            for i in range(1, PACKED):
                packed = packed | bits[:, i] << i
            return (packed,)

        def make(saved: tuple[Tensor, ...], shape: Any, dtype: torch.dtype) -> Tensor:
            bits = torch.stack([saved[0] >> i & 1 for i in range(PACKED)], 1)
            return bits.reshape(shape).to(dtype)

        return Replaced(keep, function.result(make))


def _is_step(function: Pointwise) -> bool:
    """Returns whether a function is 0 or 1 everywhere."""
    with _disable_current_modes(), torch.no_grad():
        found = function.of(torch.linspace(-8, 8, 1001)).to(torch.float32)
        return bool(((found == 0) | (found == 1)).all())
