"""Clips gradients by a norm while they are folded, or the update at the end of a mini-batch.

Clipping by the norm of all gradients of a step is impossible here: when that norm is known, all of
them have been folded. Instead a factor c = min(1, max_norm / norm) multiplies each gradient before
its fold in mode "release", and the update of each parameter in mode "accumulate". The norm is:

    mode, clip_by              the norm of
    release, "previous step"   all gradients of the previous step; the first step is not clipped
    release, "tensor"          the gradient itself
    accumulate                 the momentum of all parameters to update, corrected for bias: a
                               running mean of the mini-batches' gradients. If β1 = 0, and in the
                               first step, it is the mini-batch's gradient. `clip_by` is not read.

The norms of the previous step's gradients, before clipping, are kept in the parameters' states, so
that a checkpoint has them.
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
    """The limit on the norm of gradients, and which norm it limits.

    Attributes:
        limit: the limit, `max_norm`; None if nothing is clipped.
        by: which norm counts in mode "release": that of all gradients of the "previous step", or
            that of each gradient by itself ("tensor").

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
        """Returns the specs of the states that a parameter needs for clipping.

        There is one state, for the norm of the parameter's last gradient, if `by` is "previous
        step", `releases` is true (mode "release") and there is a limit; otherwise there is none.
        """
        kept = self.limit is not None and releases and self.by == "previous step"
        return (StateSpec(GRAD_NORM, (), torch.float32),) if kept else ()

    def of_last_step(self, states: Iterable[State]) -> Tensor:
        """Returns the clipping factor for the norm of all gradients of the previous step.

        Computes it from the norms of single gradients that `clipped` has stored in the states.
        Returns 1 if no norm is stored. Call once a step, before the first `clipped`. Zeroes the
        stored norms, so that norms of parameters without a gradient in this step, such as of
        experts that get no token, do not count for the next step.

        states: the states of all parameters.
        """
        own = [state[GRAD_NORM] for state in states if GRAD_NORM in state]
        norms = [norm.to("cpu", copy=True) for norm in own]
        for norm in own:
            norm.zero_()
        return self.factor(torch.stack(norms).square().sum().sqrt() if norms else torch.zeros(()))

    def factor(self, norm: Tensor) -> Tensor:
        """Returns the factor by which to multiply what has this norm, as a scalar tensor.

        It is min(1, limit / (norm + LEAST)), where LEAST is tiny; 1 without a limit.
        """
        if self.limit is None:
            return torch.ones_like(norm)
        return (self.limit / (norm + LEAST)).clamp_(max=1)

    def clipped(self, state: State, grad: Tensor, of_last_step: Tensor) -> Tensor:
        """Returns a copy of a gradient, multiplied by the clipping factor, in mode "release".

        If `by` is "previous step", the factor is `of_last_step`, and the norm of the unclipped
        gradient is stored in the state. If `by` is "tensor", the factor is that of this gradient's
        own norm.

        Args:
            state: the parameter's state.
            grad: the gradient.
            of_last_step: the factor that the method `of_last_step` returned in this step.
        """
        norm = squared_sum(grad).sqrt_().to(torch.float32)
        if self.by == "tensor":
            return grad * self.factor(norm).to(grad.dtype)
        state[GRAD_NORM].copy_(norm)
        return grad * of_last_step.to(grad.device, grad.dtype)
