"""Clips gradients by a norm while they are folded, or the update at the end of a mini-batch.

Clipping by the norm of all gradients of a step is impossible here: when that norm is known, all of
them have been folded. Instead c = min(1, max_norm / norm) multiplies each gradient before its fold
in mode "release", and the update of each parameter in mode "accumulate", where

    mode, clip_by              the norm is that of
    release, "previous step"   all gradients of the previous step; the first step is not clipped
    release, "tensor"          the gradient itself
    accumulate                 the momentum of all parameters to update, corrected for bias: a
                               running mean of the mini-batches' gradients. If β1 = 0, and in the
                               first step, it is the mini-batch's gradient. `clip_by` is not read.

The norms of the previous step, before clipping, are kept in the parameters' states, so that a
checkpoint has them.
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
LEAST = 1e-6  # added to the norm in max_norm / norm, as in torch.nn.utils.clip_grad_norm_


@dataclass(frozen=True)
class MaxNorm:
    """The norm that gradients may have.

    Attributes:
        limit: max_norm; None if nothing is clipped.
        by: which norm counts in mode "release", as in the table of this module's docstring.

    Raises:
        HyperparameterError: `limit` is not positive, or `by` is unknown.
    """

    limit: float | None
    by: ClipBy

    def __post_init__(self) -> None:
        if self.limit is not None and not self.limit > 0:
            raise HyperparameterError(f"max_norm={self.limit} is out of its range")
        if self.by not in ("previous step", "tensor"):
            raise HyperparameterError(f"clip_by={self.by!r}: 'previous step' or 'tensor'")

    def states(self, releases: bool) -> tuple[StateSpec, ...]:
        """Returns the state that a parameter needs for clipping: its gradient's norm, or none."""
        kept = self.limit is not None and releases and self.by == "previous step"
        return (StateSpec(GRAD_NORM, (), torch.float32),) if kept else ()

    def of_last_step(self, states: Iterable[State]) -> Tensor:
        """Returns c by the norm of the previous step's gradients, which `clipped` stored by tensor.

        Call once a step, before the first `clipped`. Zeroes the norms, so that those of parameters
        without a gradient in this step, such as of experts that get no token, do not count for the
        next one.
        """
        own = [state[GRAD_NORM] for state in states if GRAD_NORM in state]
        norms = [norm.to("cpu", copy=True) for norm in own]
        for norm in own:
            norm.zero_()
        return self.factor(torch.stack(norms).square().sum().sqrt() if norms else torch.zeros(()))

    def factor(self, norm: Tensor) -> Tensor:
        """Returns c for a norm: a scalar of at most 1; 1 if there is no limit."""
        if self.limit is None:
            return torch.ones_like(norm)
        return (self.limit / (norm + LEAST)).clamp_(max=1)

    def clipped(self, state: State, grad: Tensor, of_last_step: Tensor) -> Tensor:
        """Returns a copy of a gradient multiplied by c, in mode "release".

        Stores the norm of the unclipped gradient in the state if `by` is "previous step".

        Args:
            state: the parameter's state.
            grad: the gradient.
            of_last_step: c by the previous step's norm; not read if `by` is "tensor".
        """
        norm = squared_sum(grad).sqrt_().to(torch.float32)
        if self.by == "tensor":
            return grad * self.factor(norm).to(grad.dtype)
        state[GRAD_NORM].copy_(norm)
        return grad * of_last_step.to(grad.device, grad.dtype)
