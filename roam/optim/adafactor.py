"""Defines Adafactor: second moments factored into rows and columns (arXiv 1804.04235)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from roam.optim import elements
from roam.optim.factored import FactoredRule, absorb, rms, roots, scaled, sum_of_squares, too_long
from roam.optim.fold import State, StateSpec
from roam.optim.folding import FoldingOptimizer
from roam.runtime.one_pass import OnePass


@dataclass(frozen=True)
class AdafactorRule(FactoredRule):
    """Adafactor's rule, as in torch.optim: without momentum."""

    lr: float | Tensor = 1e-2
    beta2_decay: float = -0.8
    eps: tuple[float | None, float] = (None, 1e-3)
    d: float = 1.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        self._require(
            lr=bool(self.lr >= 0),
            beta2_decay=self.beta2_decay <= 0,
            eps=(self.eps[0] is None or self.eps[0] >= 0) and self.eps[1] >= 0,
            d=self.d >= 1,
            weight_decay=self.weight_decay >= 0,
        )

    def state(self, param: Tensor) -> tuple[StateSpec, ...]:
        return tuple(replace(spec, name=NAMES[spec.name]) for spec in self.moments("v", param))

    def update(self, state: State, param: Tensor, grad: Tensor, step: int) -> None:
        lr = float(self.lr)
        floor = torch.finfo(param.dtype).eps if self.eps[0] is None else self.eps[0]
        moments = {name: state[torchs] for name, torchs in NAMES.items() if torchs in state}
        rate, kept = min(lr, 1 / math.sqrt(step)), 1 - lr * self.weight_decay
        absorb(moments, "v", grad, step**self.beta2_decay)
        if param.dim() == 2 and floor > 0:
            longer = roots(moments["v_row"], moments["v_col"], floor)
            numbers = 1 / floor, self.eps[1], rate, self.d, kept
            if elements.matrix_update(UPDATE, numbers, param.detach(), *longer, grad):
                # autograd cannot see a kernel's writes
                torch.autograd.graph.increment_version([param])
                return
        alpha = rms(param).clamp_(min=self.eps[1]) * rate
        squares = sum_of_squares(scaled(moments, "v", grad, floor=floor), param)
        alpha /= too_long(squares, param.numel(), self.d)
        if self.weight_decay:
            param.mul_(kept)
        for u, p in scaled(moments, "v", grad, param, floor=floor):
            p.sub_(u.mul_(alpha))


def _update(p: Tensor, row: Tensor, col: Tensor, g: Tensor, numbers: Tensor) -> None:
    """Updates a matrix p [n, m] by its gradient g, in place, by the formulas of Adafactor.

    Each row of the matrix is cut into pieces of ROW elements (`elements`).

    p, g: of shape [n, m / ROW, ROW].
    row, col: of shapes [n, 1, 1] and [1, m / ROW, ROW]. Their product is 1 / √v, where v is the
        second moment.
    numbers: the limit on 1 / √v; the least RMS of p that counts, ε2; the learning rate min(lr,
        1/√t) of step t; the RMS d that the update may have; and 1 - lr λ, for the weight decay λ.
    """
    limit, least, rate, d, kept = numbers.unbind()
    u = g * torch.minimum(row * col, limit)
    longer = u.square().mean().sqrt().div(d).clamp(min=1.0)
    alpha = torch.maximum(p.square().mean().sqrt(), least) * rate / longer
    p.mul_(kept).sub_(u * alpha)


UPDATE = OnePass(_update)
# names that `factored` gives the second moments -> their names in the state, as in torch.optim
NAMES = {"v": "variance", "v_row": "row_var", "v_col": "col_var"}


class Adafactor(FoldingOptimizer):
    """Adafactor, as torch.optim.Adafactor, with each gradient folded (arXiv 1804.04235).

        v = r c / mean(r),   u = g / √v,   u /= max(1, RMS(u) / d)
        p -= max(ε2, RMS(p)) min(lr, 1/√t) u + lr λ p

    g is the gradient, t the number of the step, and λ the weight decay. r and c are running means
    of g² over columns and over rows, with β2 = 1 - t^beta2_decay. ε1 takes the place of √v where √v
    is smaller. The states of a matrix have one value for each row and column, so they take next to
    no memory. A vector has v itself, with one value for each element. There is only mode "release".

    Args:
        params: parameters, groups of them, or `model.named_parameters()`.
        lr, beta2_decay, eps, d, weight_decay: as in torch.optim.Adafactor. `eps` is (ε1, ε2), and
            ε1 = None takes the eps of the parameter's dtype. (The Adafactor of the library
            transformers places ε1 elsewhere, and has other default values.)
        mode: "release": the backward updates each parameter when its gradient is complete.
        max_norm, clip_by: the limit on the norm of gradients, and which norm counts (see `AdamA`).

    Raises:
        HyperparameterError: a value is out of its range, or the mode is not "release".
    """

    rule = AdafactorRule
