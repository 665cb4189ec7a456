"""Defines CAME: Adafactor with a momentum that is scaled by its confidence (arXiv 2307.02047)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from roam.optim.factored import FactoredRule, absorb, scaled, sum_of_squares, too_long
from roam.optim.fold import State, StateSpec, are_rates
from roam.optim.folding import FoldingOptimizer


@dataclass(frozen=True)
class CAMERule(FactoredRule):
    """CAME's rule (arXiv 2307.02047, algorithm 2)."""

    lr: float | Tensor = 2e-4
    eps: tuple[float, float] = (1e-30, 1e-16)
    clip_threshold: float = 1.0
    betas: tuple[float, float, float] = (0.9, 0.999, 0.9999)
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        self._require(
            lr=bool(self.lr >= 0),
            eps=min(self.eps) >= 0,
            clip_threshold=self.clip_threshold > 0,
            betas=are_rates(self.betas, 3),
            weight_decay=self.weight_decay >= 0,
        )

    def state(self, param: Tensor) -> tuple[StateSpec, ...]:
        own = StateSpec.like("exp_avg", param), *self.moments("exp_avg_sq", param)
        return own if param.dim() < 2 else (*own, *self.moments("exp_avg_res", param))

    def update(self, state: State, param: Tensor, grad: Tensor, step: int) -> None:
        lr, (beta1, beta2, beta3), m = float(self.lr), self.betas, state["exp_avg"]
        absorb(state, "exp_avg_sq", grad, 1 - beta2, self.eps[0])
        squares = sum_of_squares(scaled(state, "exp_avg_sq", grad), param)
        longer = too_long(squares, param.numel(), self.clip_threshold)
        if param.dim() < 2:
            for u, m_, p in scaled(state, "exp_avg_sq", grad, m, param):
                m_.mul_(beta1).add_(u.div_(longer), alpha=1 - beta1)
                p.mul_(1 - lr * self.weight_decay).add_(m_, alpha=-lr)
            return
        row, col = state["exp_avg_res_row"], state["exp_avg_res_col"]
        rows, columns = torch.zeros_like(row), torch.zeros_like(col)
        batched = param.dim() > 2  # a batch of matrices: each block u below has whole matrices
        start = 0
        for u, m_ in scaled(state, "exp_avg_sq", grad, m):
            m_.mul_(beta1).add_(u.div_(longer), alpha=1 - beta1)
            u.sub_(m_).square_()
            end = start + len(u)
            rows[start:end] = u.mean(dim=-1, keepdim=True)
            (columns[start:end] if batched else columns).add_(u.sum(dim=-2, keepdim=True))
            start = end
        row.lerp_(rows.add_(self.eps[1]), 1 - beta3)
        col.lerp_(columns.div_(max(1, param.size(-2))).add_(self.eps[1]), 1 - beta3)
        for u, p in scaled(state, "exp_avg_res", m, param):
            p.mul_(1 - lr * self.weight_decay).add_(u, alpha=-lr)


class CAME(FoldingOptimizer):
    """CAME (arXiv 2307.02047): the momentum m is scaled by its confidence, 1 / √s.

        u = g / √v,   u /= max(1, RMS(u) / clip_threshold),   m = β1 m + (1-β1) u
        s = β3 s + (1-β3) ((u - m)² + ε2),   p -= lr (m / √s + λ p)

    g is the gradient, λ the weight decay, and v the running mean of g² + ε1, with β2. Of a matrix,
    v and s are kept as one value for each row and one for each column (`factored`), and only m has
    a value for each element: about 4 bytes an element in float32. A vector has m and v for each
    element, and no s: p -= lr (m + λ p). There is only mode "release".

    Args:
        params: parameters, groups of them, or `model.named_parameters()`.
        lr, eps, clip_threshold, betas, weight_decay: as in the authors' package, came-pytorch.
            `eps` is (ε1, ε2), and `betas` is (β1, β2, β3).
        mode: "release": the backward updates each parameter when its gradient is complete.
        max_norm, clip_by: the limit on the norm of gradients, and which norm counts (see `AdamA`).

    Raises:
        HyperparameterError: a value is out of its range, or the mode is not "release".
    """

    rule = CAMERule
