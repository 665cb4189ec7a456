"""Defines SGD: stochastic gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from roam.optim.blocks import blocks, squared_sum
from roam.optim.fold import OverRanks, State, StateSpec, Turn, Update
from roam.optim.folding import FoldingOptimizer
from roam.optim.formula import Formula
from roam.optim.fused import FusedRule


@dataclass(frozen=True)
class SGDRule(FusedRule):
    """The rule by which SGD folds gradients.

    With momentum, each gradient is added to the momentum, which moves the parameter. With
    `nesterov`, the gradient also moves the parameter itself. If `momentum` is 0, there is no state,
    and only the gradient moves the parameter.
    """

    lr: float | Tensor = 1e-3
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    folds_with = ("momentum", "dampening", "weight_decay", "nesterov")

    def __post_init__(self) -> None:
        self._require(
            lr=bool(self.lr >= 0),
            momentum=0 <= self.momentum < 1,
            weight_decay=self.weight_decay >= 0,
            nesterov=not self.nesterov or (self.momentum > 0 and self.dampening == 0),
        )

    @property
    def elementwise(self) -> bool:
        return True

    @property
    def release_only(self) -> str:
        if self.momentum == 0:
            return "without momentum it has no state that could hold the sum of the gradients"
        if self.nesterov:
            return "with nesterov=True the update needs the momentum and the gradient"
        return ""

    def state(self, param: Tensor) -> tuple[StateSpec, ...]:
        return (StateSpec.like("momentum_buffer", param),) if self.momentum else ()

    @property
    def over_ranks(self) -> dict[str, OverRanks]:
        return {"momentum_buffer": "mean"} if self.momentum else {}

    def decay(self, state: State, param: Tensor, step: int) -> None:
        buffer = state["momentum_buffer"].mul_(self.momentum)
        if self.weight_decay:  # adds λp once a mini-batch, as a part of the gradient (L2 penalty)
            buffer.add_(param, alpha=self.weight_decay * self._share(step))

    def fold(self, state: State, param: Tensor, grad: Tensor, at: Turn) -> None:
        state["momentum_buffer"].add_(grad, alpha=at.scale * self._share(at.step))

    def apply(self, state: State, param: Tensor, step: int) -> None:
        param.add_(state["momentum_buffer"], alpha=-float(self.lr))

    def update(self, state: State, param: Tensor, grad: Tensor, step: int) -> None:
        lr = float(self.lr)
        if self.momentum and not self.nesterov:
            super().update(state, param, grad, step)
        elif not self.momentum:
            # with g + λp as gradient, p - lr (g + λp) = (1 - lr λ) p - lr g
            param.mul_(1 - lr * self.weight_decay).add_(grad, alpha=-lr)
        else:
            for p, g, b in blocks(param, grad, state["momentum_buffer"]):
                whole = g.add(p, alpha=self.weight_decay)
                b.mul_(self.momentum).add_(whole)
                p.add_(whole.add_(b, alpha=self.momentum), alpha=-lr)

    def update_in_graph(self, param: Tensor, step: int) -> Formula:
        if not self.momentum:
            return Formula(_plain, (), (self.weight_decay, float(self.lr)))
        numbers = self.weight_decay, self.momentum, self._share(step), float(self.lr)
        return Formula(_nesterov if self.nesterov else _heavy_ball, ("momentum_buffer",), numbers)

    def fold_in_graph(self, param: Tensor, at: Turn) -> Formula:
        share = self._share(at.step)
        penalty = self.weight_decay * share if at.micro_batch == 0 else 0.0
        numbers = at.once(self.momentum), penalty, at.scale * share
        return Formula(_fold, ("momentum_buffer",), numbers)

    has_momentum = True

    def squared_momentum(self, state: State, step: int) -> Tensor:
        # b is a weighted sum of gradients; divided by the sum of the weights it is a mean
        first = self.momentum ** (step - 1)  # the weight of the first gradient, never dampened
        later = (1 - self.dampening) * (1 - first) / (1 - self.momentum)
        return squared_sum(state["momentum_buffer"]) / (first + later) ** 2

    def shortened(self, factor: float) -> SGDRule:
        return replace(self, lr=float(self.lr) * factor)

    def has_fused(self, param: Tensor, grad: Tensor) -> bool:
        # in half precision the CPU's kernel (torch 2.13) gives other momenta in each run
        return param.itemsize >= torch.float32.itemsize and super().has_fused(param, grad)

    def fused(self, updates: Sequence[Update]) -> None:
        for first in (True, False):  # at step 1 the kernel overwrites the momentum
            chosen = [u for u in updates if (u.step == 1) is first]
            if not chosen:
                continue
            states, params, grads, _ = zip(*chosen, strict=True)
            torch._fused_sgd_(
                params,
                grads,
                [state["momentum_buffer"] for state in states] if self.momentum else [],
                weight_decay=self.weight_decay,
                momentum=self.momentum,
                lr=self.lr,
                dampening=self.dampening,
                nesterov=self.nesterov,
                maximize=False,
                is_first_step=first,
            )

    def _share(self, step: int) -> float:
        """Returns the factor on a gradient that is added to the momentum, as in torch.

        The factor is 1 at step 1, and later 1 - τ, where τ is the dampening.
        """
        return 1 - self.dampening if step > 1 else 1.0


def _plain(p: Tensor, g: Tensor, numbers: Tensor) -> None:
    """Updates a parameter p without momentum by a gradient g. numbers: λ (weight decay), lr."""
    decay, lr = numbers.unbind()
    p.sub_(lr * (g + _penalty(p, decay)))


def _heavy_ball(p: Tensor, g: Tensor, b: Tensor, numbers: Tensor) -> None:
    """Updates a parameter p and its momentum b by a gradient g.

    numbers: λ (weight decay), μ (momentum), the factor on g + λ p when it is added to b, lr.
    """
    decay, held, share, lr = numbers.unbind()
    b.mul_(held).add_((g + _penalty(p, decay)) * share)
    p.sub_(lr * b)


def _nesterov(p: Tensor, g: Tensor, b: Tensor, numbers: Tensor) -> None:
    """Updates a parameter p and its momentum b by a gradient g, with nesterov=True.

    numbers: λ (weight decay), μ (momentum), the factor on g + λ p when it is added to b, lr.
    """
    decay, held, share, lr = numbers.unbind()
    whole = g + _penalty(p, decay)
    b.mul_(held).add_(whole * share)
    p.sub_(lr * (whole + b * held))


def _fold(p: Tensor, g: Tensor, b: Tensor, numbers: Tensor) -> None:
    """Folds a gradient g into the momentum b. Adds the L2 penalty of the parameter p.

    numbers: the factors on b, on p and on g, whose sum is the new b.
    """
    held, decay, share = numbers.unbind()
    b.mul_(held).add_(_penalty(p, decay)).add_(g * share)


def _penalty(p: Tensor, decay: Tensor) -> Tensor:
    """Returns p times `decay`. If `decay` is 0, returns zeros: infinity times 0 would be NaN."""
    return torch.where(decay == 0, torch.zeros_like(p), p * decay)


class SGD(FoldingOptimizer):
    """torch.optim.SGD: b = μ b + (1-τ) (g + λ p),  p -= lr b; nesterov: p -= lr (g + λ p + μ b).

    μ is `momentum`, τ `dampening`, which does not count in the first step, and λ `weight_decay`, an
    L2 penalty as in torch. One state for each element, the momentum b: 4 bytes a parameter in
    float32, and none if μ = 0.

    Mode "release" gives the same bits as torch's fused kernel, which it calls in float32 and
    float64; in half precision it computes by formulas. Mode "accumulate" is exact: b is linear in
    g, so that the gradients of the micro-batches can be added to it one by one. This mode needs a
    momentum, and nesterov=False.

    The momentum of a group may change to 0 and back. At 0 the state b is dropped. If the momentum
    rises from 0, b begins with the next gradient, as in torch.

    Args:
        params: parameters, groups of them, or `model.named_parameters()`.
        lr, momentum, dampening, weight_decay, nesterov: as in torch.optim.SGD.
        mode, micro_batches, max_norm, clip_by, process_group: as in AdamA.

    Raises:
        HyperparameterError: a value is out of its range, or does not go with the mode.
    """

    rule = SGDRule
