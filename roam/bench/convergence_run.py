"""One training of the convergence benchmark, as its report sees it."""

from __future__ import annotations

import msgspec

BASE = "AdamW"  # comes first: its first run is the one whose second moments are measured


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One training. losses: of the validation text, nats a byte, after as many steps."""

    contender: str
    seed: int
    steps: list[int]
    losses: list[float]

    @property
    def final(self) -> float:
        return self.losses[-1]
