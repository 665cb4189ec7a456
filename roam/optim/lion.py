"""Defines Lion, which moves parameters by the sign of a momentum (arXiv 2302.06675)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from roam.optim import elements
from roam.optim.blocks import blocks
from roam.optim.fold import AccumulatingRule, OverRanks, State, StateSpec, Turn, are_rates
from roam.optim.folding import FoldingOptimizer
from roam.optim.formula import Formula, add_in_graph
from roam.runtime.one_pass import OnePass


@dataclass(frozen=True)
class LionRule(AccumulatingRule):
    """Lion's rule (arXiv 2302.06675, algorithm 2)."""

    lr: float | Tensor = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0

    folds_with = ("betas",)

    def __post_init__(self) -> None:
        self._require(
            lr=bool(self.lr >= 0), betas=are_rates(self.betas), weight_decay=self.weight_decay >= 0
        )

    @property
    def elementwise(self) -> bool:
        return True

    @property
    def release_only(self) -> str:
        if self.betas[0] == self.betas[1]:
            return ""
        return (
            "the update and the momentum mix the gradient by different betas, which takes two sums "
            "(with equal betas, one is enough)"
        )

    def state(self, param: Tensor) -> tuple[StateSpec, ...]:
        return (StateSpec.like("exp_avg", param),)

    @property
    def over_ranks(self) -> dict[str, OverRanks]:
        return {"exp_avg": "mean"}

    def decay(self, state: State, param: Tensor, step: int) -> None:
        state["exp_avg"].mul_(self.betas[1])

    def fold(self, state: State, param: Tensor, grad: Tensor, at: Turn) -> None:
        state["exp_avg"].add_(grad, alpha=at.scale * (1 - self.betas[1]))

    def apply(self, state: State, param: Tensor, step: int) -> None:
        lr = float(self.lr)
        for p, m in blocks(param, state["exp_avg"]):
            p.mul_(1 - lr * self.weight_decay).add_(m.sign(), alpha=-lr)

    def _numbers(self) -> tuple[float, ...]:
        """Returns the numbers of `_update`: 1 - lr λ, lr, 1 - β1, 1 - β2. λ is the weight decay."""
        lr, (beta1, beta2) = float(self.lr), self.betas
        return 1 - lr * self.weight_decay, lr, 1 - beta1, 1 - beta2

    def update_in_graph(self, param: Tensor, step: int) -> Formula:
        return Formula(_update, ("exp_avg",), self._numbers())

    def fold_in_graph(self, param: Tensor, at: Turn) -> Formula:
        numbers = at.once(self.betas[1]), at.scale * (1 - self.betas[1])
        return Formula(add_in_graph, ("exp_avg",), numbers)

    def update(self, state: State, param: Tensor, grad: Tensor, step: int) -> None:
        lr, (beta1, beta2) = float(self.lr), self.betas
        if elements.update(UPDATE, self._numbers(), param, grad, state["exp_avg"]):
            return
        for p, g, m in blocks(param, grad, state["exp_avg"]):
            sign = m.lerp(g, 1 - beta1).sign_()
            if self.weight_decay:
                p.mul_(1 - lr * self.weight_decay)
            p.add_(sign, alpha=-lr)
            m.lerp_(g, 1 - beta2)


def _update(p: Tensor, g: Tensor, m: Tensor, numbers: Tensor) -> None:
    """Updates elements of a parameter p and of its momentum m by a gradient g, in place.

    numbers: 1 - lr λ, lr, 1 - β1, 1 - β2, where λ is the weight decay.
    """
    kept, rate, now, later = numbers.unbind()
    apart = g - m
    p.mul_(kept).sub_((m + apart * now).sign_().mul_(rate))
    m.add_(apart.mul_(later))


UPDATE = OnePass(_update)


class Lion(FoldingOptimizer):
    """Lion (arXiv 2302.06675): u = sign(β1 m + (1-β1) g),  p -= lr (u + λ p),  m = β2 m + (1-β2) g.

    g is the gradient, m the momentum, and λ `weight_decay`. One state for each element, m: 4 bytes
    an element in float32, half of AdamW's. Use a learning rate 3 to 10 times smaller than AdamW's,
    and a weight decay larger by the same factor.

    Mode "release" is Lion exactly. Mode "accumulate" needs β1 = β2, and is exact then.

    Args:
        params: parameters, groups of them, or `model.named_parameters()`.
        lr, betas, weight_decay: as in the authors' package, lion-pytorch.
        mode, micro_batches, process_group: when to update, N, and the ranks (see `AdamA`).
        max_norm, clip_by: the limit on the norm of gradients, and which norm counts (see `AdamA`).
            Only in mode "release".

    Raises:
        HyperparameterError: a value is out of its range, or does not go with the mode.
    """

    rule = LionRule
