"""Defines AdaLomo: updates in the backward, by Adafactor's second moments (arXiv 2310.10195)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from roam.optim.factored import FactoredRule, absorb, rms, scaled, sum_of_squares, too_long
from roam.optim.fold import State, StateSpec
from roam.optim.folding import FoldingOptimizer


@dataclass(frozen=True)
class AdaLomoRule(FactoredRule):
    """AdaLomo's rule (arXiv 2310.10195, algorithm 1)."""

    lr: float | Tensor = 1e-3
    eps: tuple[float, float] = (1e-30, 1e-3)
    clip_threshold: float = 1.0
    decay_rate: float = -0.8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        self._require(
            lr=bool(self.lr >= 0),
            eps=min(self.eps) >= 0,
            clip_threshold=self.clip_threshold > 0,
            decay_rate=self.decay_rate <= 0,
            weight_decay=self.weight_decay >= 0,
        )

    def state(self, param: Tensor) -> tuple[StateSpec, ...]:
        return self.moments("exp_avg_sq", param)

    def update(self, state: State, param: Tensor, grad: Tensor, step: int) -> None:
        absorb(state, "exp_avg_sq", grad, step**self.decay_rate, self.eps[0])
        squares = sum_of_squares(scaled(state, "exp_avg_sq", grad), param)
        rate = rms(param).clamp_(min=self.eps[1]) * float(self.lr)
        longer = rate / too_long(squares, param.numel(), self.clip_threshold)
        if self.weight_decay:
            param.mul_(1 - rate * self.weight_decay)
        for u, p in scaled(state, "exp_avg_sq", grad, param):
            p.sub_(u.mul_(longer))


class AdaLomo(FoldingOptimizer):
    """AdaLomo (arXiv 2310.10195): Adafactor's second moments, in steps limited for each tensor.

        v = r c / mean(r),   u = g / √v,   u /= max(1, RMS(u) / clip_threshold)
        p -= lr max(ε2, RMS(p)) (u + λ p)

    g is the gradient, t the number of the step, and λ the weight decay. r and c are running means
    of g² + ε1 over columns and over rows, with β2 = 1 - t^decay_rate. The states of a matrix have
    one value for each row and column, so they take next to no memory. A vector has v itself, with
    one value for each element. There is only mode "release".

    Args:
        params: parameters, groups of them, or `model.named_parameters()`.
        lr, eps, clip_threshold, decay_rate, weight_decay: as in the authors' package, lomo-optim.
            `eps` is (ε1, ε2).
        mode: "release": the backward updates each parameter when its gradient is complete.
        max_norm, clip_by: the limit on the norm of gradients, and which norm counts (see `AdamA`).

    Raises:
        HyperparameterError: a value is out of its range, or the mode is not "release".
    """

    rule = AdaLomoRule
