"""Defines what the rules of Adam and its variants share: lr, betas, eps, and parts of the update.

p -= lr m / (1 - β1^t) / (√(v / (1 - β2^t)) + ε)        (arXiv 1412.6980, algorithm 1)

m and v are the first and the second moment of parameter p, and t is the number of the update. Each
rule adds its own weight decay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from roam.optim.fold import AccumulatingRule, are_rates


@dataclass(frozen=True)
class AdamRule(AccumulatingRule):
    """A rule with Adam's hyperparameters, whose ranges it checks. Subclasses define the update."""

    lr: float | Tensor = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        self._require(
            lr=bool(self.lr >= 0),
            betas=are_rates(self.betas),
            eps=self.eps >= 0,
            weight_decay=self.weight_decay >= 0,
        )

    def corrections(self, step: int) -> tuple[float, float]:
        """Returns the divisors that correct the bias of Adam's moments: 1 - β1^step, 1 - β2^step.

        step: the number of the update, from 1.
        """
        beta1, beta2 = self.betas
        return 1 - float(beta1) ** step, 1 - float(beta2) ** step

    def denominator(self, v: Tensor, correction2: float) -> Tensor:
        """Returns the denominator of Adam's update, √(v / correction2) + ε, in new memory.

        v is the second moment, and `correction2` the divisor that corrects its bias.
        """
        return v.sqrt().mul_(1 / math.sqrt(correction2)).add_(self.eps)
