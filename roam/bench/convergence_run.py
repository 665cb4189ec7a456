"""The result of one training of the convergence benchmark, for its report."""

from __future__ import annotations

import msgspec

BASE = "AdamW"  # runs first: its first run measures the rules for SlimAdamA


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one training.

    losses: of the validation text, nats a byte, by the number of steps.
    """

    contender: str
    seed: int
    steps: list[int]
    losses: list[float]

    @property
    def final(self) -> float:
        return self.losses[-1]
