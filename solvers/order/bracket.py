"""Keeps the best order of a phase and a lower bound, while a search tries limits on live bytes.

bound ─────────────── limit ─────────────── peak
  │                     │
  └── "does not fit"    └── "fits", with an order of a lower peak
      raises the bound      lowers the peak
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from roam.core.problem import OpId
from roam.solvers.answer import Answer, Outcome


@dataclass
class Bracket:
    """The best order of a phase so far, its peak, and a lower bound on every order's peak.

    Attributes:
        best: the best order.
        peak_of: returns the measured peak of an order of the phase, in bytes.
        bound: a lower bound, in bytes. Proven if its first value is, or if `learn` has raised it.
        peak: the peak of the best order, in bytes.
    """

    best: list[OpId]
    peak_of: Callable[[list[OpId]], int]
    bound: int
    peak: int = field(init=False)

    def __post_init__(self) -> None:
        self.peak = self.peak_of(self.best)

    def learn(self, answer: Answer[list[OpId] | None]) -> bool:
        """Takes in the answer of a search for an order that keeps within `answer.value` bytes.

        Keeps the order found if its measured peak is the lowest so far. If no order fits, raises
        the bound, up to the peak at most.

        Returns False if the measured peak of the order found is above `answer.value`, because the
        search counted on in-place writes that the order does not allow. Lower limits are not worth
        trying then. Returns True after any other answer, also after UNKNOWN.
        """
        if answer.found is not None:
            reached = self.peak_of(answer.found)
            if reached < self.peak:
                self.best, self.peak = answer.found, reached
            return reached <= answer.value
        if answer.status is Outcome.DOES_NOT_FIT:
            self.bound = max(self.bound, min(answer.bound, self.peak))
        return True
