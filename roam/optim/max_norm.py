"""Clips gradients by a norm, though none of them is there when the backward has ended.

    mode, clip_by              every gradient is scaled by c = min(1, max_norm / norm) of
    release, "previous step"   all gradients of the step before; the first step is not clipped
    release, "tensor"          itself
    accumulate                 (the update is scaled) the momentum of all parameters, with its bias
                               corrected: a running mean of the mini-batches' gradients, and the
                               gradient of this one in the first step and if β1 = 0

The norm of this step's gradients is known only when all of them have been folded. The norm of the
last step is kept for each parameter, in its state, so that a checkpoint has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from roam.core.errors import HyperparameterError
from roam.optim.blocks import squared_sum
from roam.optim.fold import GRAD_NORM, State, StateSpec

ClipBy = Literal["previous step", "tensor"]
LEAST = 1e-6  # is added to a norm before it divides, as torch.nn.utils.clip_grad_norm_ does


@dataclass(frozen=True)
class MaxNorm:
    """The norm that gradients may have.

    Attributes:
        limit: the norm; None if nothing is clipped.
        by: whose norm counts in mode "release".

    Raises:
        HyperparameterError: there is no such norm.
    """

    limit: float | None
    by: ClipBy

    def __post_init__(self) -> None:
        if self.limit is not None and not self.limit > 0:
            raise HyperparameterError(f"max_norm={self.limit} is out of its range")
        if self.by not in ("previous step", "tensor"):
            raise HyperparameterError(f"clip_by={self.by!r}: 'previous step' or 'tensor'")

    def states(self, releases: bool) -> tuple[StateSpec, ...]:
        """Returns the state that each parameter has for this, beside its rule's."""
        kept = self.limit is not None and releases and self.by == "previous step"
        return (StateSpec(GRAD_NORM, (), torch.float32),) if kept else ()

    def of_last_step(self, states: Iterable[State]) -> Tensor:
        """Returns c by the norms that `clipped` left in the parameters' states."""
        norms = [state[GRAD_NORM].cpu() for state in states if GRAD_NORM in state]
        return self.factor(torch.stack(norms).square().sum().sqrt() if norms else torch.zeros(()))

    def factor(self, norm: Tensor) -> Tensor:
        """Returns c for this norm: a scalar of at most 1; 1 if there is no limit."""
        if self.limit is None:
            return torch.ones_like(norm)
        return (self.limit / (norm + LEAST)).clamp_(max=1)

    def clipped(self, state: State, grad: Tensor, of_last_step: Tensor) -> Tensor:
        """Returns a copy of a gradient that is scaled by c, and keeps its norm before."""
        norm = squared_sum(grad).sqrt_().to(torch.float32)
        if self.by == "tensor":
            return grad * self.factor(norm).to(grad.dtype)
        state[GRAD_NORM].copy_(norm)
        return grad * of_last_step.to(grad.device, grad.dtype)
