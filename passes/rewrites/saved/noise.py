"""Random numbers that are a pure function of a seed, so that whatever reads them may run again.

    torch's generator ── seed, 8 bytes a step ──┬── numbers of the first tensor
                                                └── numbers of the second tensor, ...

A step draws one seed. `torch.manual_seed` makes it reproducible, and the numbers of one tensor do
not depend on what else is sampled. Recomputation gets the same numbers, as it needs only the seed.

The seed is drawn before the forward's other numbers, so dropout's masks are others than without a
rewrite. A generator of its own could not do better: nothing tells that `manual_seed` was called if
the state is the same again, and a seed that is read from torch's generator without advancing it
would stay the same from step to step in a model that draws nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SEEDS = 2**62  # seeds are drawn below this
SECOND = 0x1E3779B97F4A7C15  # the golden ratio in 62 bits: far from others in both halves
_WORD = 2**32 - 1


@dataclass(frozen=True)
class Noise:
    """The random numbers of one tensor in one step.

    Attributes:
        seed: drawn once a step, int64, [1].
        stream: a number of the tensor, of 62 bits like a seed. Two that differed in a few low bits
            only would give two tensors the same random numbers, in another order.
    """

    seed: Tensor
    stream: int = 0

    def second(self) -> Noise:
        """Returns other numbers of the same tensor and step."""
        return Noise(self.seed, self.stream ^ SECOND)

    def alone(self) -> Noise:
        """Returns the same numbers as those of a seed, 8 bytes that the backward can read."""
        return Noise(self.seed ^ self.stream)

    def uniform(self, count: int) -> Tensor:
        """Returns `count` independent numbers, evenly distributed over [0, 1), as float64.

        They have 32 random bits. Hashes a counter with the integer hash lowbias32 (C. Wellons,
        hash-prospector), once with each half of the seed.
        """
        counter = torch.arange(count, device=self.seed.device)
        seed = self.seed ^ self.stream
        words = _hash(_hash(_hash(counter ^ (seed & _WORD)) ^ (seed >> 32)))
        return words.to(torch.float64) / (_WORD + 1)


def _hash(words: Tensor) -> Tensor:
    """Returns a bijection of 32-bit words, which int64 holds."""
    words = words ^ (words >> 16)
    words = (words * 0x7FEB352D) & _WORD
    words = words ^ (words >> 15)
    words = (words * 0x846CA68B) & _WORD  # wraps around; the low 32 bits are right
    return words ^ (words >> 16)
