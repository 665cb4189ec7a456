"""Codes of few bits, rounded at random: the expected value is the value.

The elements of a group share one random number, which a fixed sequence shifts from element to
element (Weyl's, by the golden ratio): each by itself is uniform, and random numbers need no memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from roam.passes.rewrites.saved import Noise

BITS = (8, 4)  # of a code
GOLDEN = 0.6180339887498949  # the fraction whose multiples are spread most evenly over [0, 1)
LEAST_STEP = 1e-30  # of a group of equal elements


def pack(codes: Tensor, bits: int) -> Tensor:
    """Packs codes of 1, 2 or 4 bits in uint8 along the last dim, the first in the lowest bits."""
    each = 8 // bits
    parts = codes.unflatten(-1, (-1, each))
    packed = parts[..., 0]
    for i in range(1, each):
        packed = packed | parts[..., i] << bits * i
    return packed


def unpack(packed: Tensor, bits: int) -> Tensor:
    """Returns the codes that `pack` was given."""
    return torch.stack([packed >> shift & 2**bits - 1 for shift in range(0, 8, bits)], -1).flatten(
        -2
    )


@dataclass(frozen=True)
class Codes:
    """Codes of `bits` bits, one of BITS."""

    bits: int = 8

    def encode(self, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
        """Returns codes, and the least element and the step of each group. x: [groups, group]."""
        x = x.to(torch.float32)
        least = x.amin(1, keepdim=True)
        step = ((x.amax(1, keepdim=True) - least) / self.levels).clamp_min(LEAST_STEP)
        shifts = torch.arange(x.shape[1], device=x.device, dtype=torch.float64) * GOLDEN
        drawn = noise.uniform(x.shape[0]).unsqueeze(1).to(torch.float32)
        thresholds = (drawn + shifts.frac().to(torch.float32)).frac()
        codes = ((x - least) / step + thresholds).floor().clamp(0, self.levels).to(torch.uint8)
        return codes if self.bits == 8 else pack(codes, self.bits), least, step

    def decode(self, codes: Tensor, least: Tensor, step: Tensor) -> Tensor:
        """Returns what codes stand for, float32, [groups, group]."""
        codes = codes if self.bits == 8 else unpack(codes, self.bits)
        return codes.to(torch.float32) * step + least

    @property
    def levels(self) -> int:
        """The largest code."""
        return int(2**self.bits - 1)
