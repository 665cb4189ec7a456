"""Defines GaLore: AdamW in a subspace of each matrix's gradients (arXiv 2403.03507)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from roam.optim.adam import AdamRule
from roam.optim.blocks import blocks, row_blocks, wide
from roam.optim.fold import OverRanks, State, StateSpec, Turn
from roam.optim.folding import FoldingOptimizer


@dataclass(frozen=True)
class GaLoreRule(AdamRule):
    """GaLore's rule (arXiv 2403.03507, algorithm 2); AdamW's for parameters that are not projected.

    sums: whether there is a state for the sum of the micro-batches' projected gradients, which mode
        "accumulate" needs.
    """

    weight_decay: float = 0.0
    rank: int = 128
    update_proj_gap: int = 200
    scale: float = 0.25
    sums: bool = False

    of_parameter = ("sums",)
    folds_with = ("rank", "update_proj_gap")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(
            rank=self.rank > 0,
            update_proj_gap=self.update_proj_gap > 0,
            scale=self.scale > 0,
        )

    def projects(self, param: Tensor) -> bool:
        """Returns whether the parameter is a matrix with more than `rank` rows and columns."""
        return param.dim() == 2 and min(param.shape) > self.rank

    def state(self, param: Tensor) -> tuple[StateSpec, ...]:
        n, m = param.shape if param.dim() == 2 else (0, 0)
        inside, dtype = tuple(param.shape), wide(param.dtype)
        projector: tuple[StateSpec, ...] = ()
        if self.projects(param):
            inside = (self.rank, m) if n <= m else (n, self.rank)
            projector = (StateSpec("projector", (min(n, m), self.rank), dtype),)
        names = ("exp_avg", "exp_avg_sq", *(("sum",) if self.sums else ()))
        return *projector, *(StateSpec(name, inside, dtype) for name in names)

    def decay(self, state: State, param: Tensor, step: int) -> None:
        state["sum"].zero_()

    @property
    def over_ranks(self) -> dict[str, OverRanks]:
        return {"sum": "mean"}

    def look(self, state: State, param: Tensor, grad: Tensor, step: int) -> tuple[str, ...]:
        """Sets the subspace to a gradient's largest directions, every `update_proj_gap` steps.

        The directions are the gradient's first `rank` singular vectors, and are kept in the state
        "projector". They are first set at step 1. At the steps between, and for parameters that are
        not projected, does nothing.

        Returns:
            ("projector",) if the subspace was set; otherwise ().
        """
        if not self.projects(param) or (step - 1) % self.update_proj_gap:
            return ()
        n, m = param.shape
        whole = grad.to(state["projector"].dtype)
        u, _, vh = torch.linalg.svd(whole, full_matrices=False)
        state["projector"].copy_(u[:, : self.rank] if n <= m else vh[: self.rank].T)
        return ("projector",)

    def fold(self, state: State, param: Tensor, grad: Tensor, at: Turn) -> None:
        state["sum"].add_(self._inside(state, param, grad), alpha=at.scale)

    def apply(self, state: State, param: Tensor, step: int) -> None:
        self._adam(state, param, state["sum"], step)

    @property
    def applied(self) -> frozenset[str]:
        return frozenset({"exp_avg", "exp_avg_sq"})

    def update(self, state: State, param: Tensor, grad: Tensor, step: int) -> None:
        self.look(state, param, grad, step)
        self._adam(state, param, self._inside(state, param, grad), step)

    def _inside(self, state: State, param: Tensor, grad: Tensor) -> Tensor:
        """Returns R, the gradient's coordinates in the subspace of the state "projector".

        Returns the gradient itself if the parameter is not projected.
        """
        if not self.projects(param):
            return grad
        p, (n, m) = state["projector"], param.shape
        whole = grad.to(p.dtype)
        return p.T @ whole if n <= m else whole @ p

    def _adam(self, state: State, param: Tensor, inside: Tensor, step: int) -> None:
        lr, (beta1, beta2) = float(self.lr), self.betas
        m, v = state["exp_avg"], state["exp_avg_sq"]
        correction1, correction2 = self.corrections(step)
        m.lerp_(inside.to(m.dtype), 1 - beta1)
        v.mul_(beta2).addcmul_(inside, inside, value=1 - beta2)
        rate = -lr / correction1
        if not self.projects(param):
            for p, m_, v_ in blocks(param, m, v):
                p.addcdiv_(m_, self.denominator(v_, correction2), value=rate)
        else:
            direction = m / self.denominator(v, correction2)
            basis, (n, columns) = state["projector"], param.shape
            if n <= columns:
                for p, b in row_blocks(param, basis):
                    p.add_(b @ direction, alpha=rate * self.scale)
            else:
                for p, d in row_blocks(param, direction):
                    p.add_(d @ basis.T, alpha=rate * self.scale)
        if self.weight_decay:  # after the update, as in the authors' code
            param.mul_(1 - lr * self.weight_decay)


class GaLore(FoldingOptimizer):
    """GaLore (arXiv 2403.03507): Adam on R = Pᵀ g, and p -= lr scale P Adam(R), for matrices.

    P holds the first `rank` singular vectors of the gradient g, those of the smaller dimension, and
    is computed anew every `update_proj_gap` steps. Adam's moments m and v stay as they are then, as
    in the authors' code. If a matrix has more rows than columns, R = g P, and p -= lr scale
    Adam(R) Pᵀ. The states of an n x m matrix (n ≤ m) have r (n + 2m) elements in float32, where r
    is `rank`. Vectors, convolutions, and matrices with at most `rank` rows or columns follow AdamW,
    without `scale`. Embeddings are matrices here. Their SVD takes long, so give them a group with
    `"rule": "AdamW"`.

    Mode "accumulate" is exact for a given P: it keeps the sum of the micro-batches' R (r m further
    elements), and v squares the sum as in Adam. A new P is computed from the gradient of the first
    micro-batch. With a `process_group`, all processes take the P that rank 0 computes from its own
    gradient, and average their sums of R.

    Args:
        params: parameters, groups of them, or `model.named_parameters()`.
        lr, betas, eps, weight_decay, rank, update_proj_gap, scale: as in the authors' package,
            galore-torch. The weight decay is decoupled, and follows the update.
        mode, micro_batches, process_group: when to update, N, and the ranks (see `AdamA`).
        max_norm, clip_by: the limit on the norm of gradients, and which norm counts (see `AdamA`).
            Only in mode "release".

    Raises:
        HyperparameterError: a value is out of its range, or does not go with the mode.
    """

    rule = GaLoreRule

    def facts(self, param: Tensor) -> tuple[Any, ...]:
        return (self.mode == "accumulate",)
