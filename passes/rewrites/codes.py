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
