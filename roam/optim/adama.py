"""Defines AdamA: AdamW that absorbs each gradient when it is complete (arXiv 2305.19982)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from roam.optim import eight_bit, eight_bit_adam
from roam.optim.adam import AdamRule
from roam.optim.blocks import blocks, squared_sum
from roam.optim.fold import OverRanks, State, StateSpec, Turn, Update
from roam.optim.folding import FoldingOptimizer
from roam.optim.formula import Formula
from roam.optim.fused import FusedRule


@dataclass(frozen=True)
class AdamARule(AdamRule, FusedRule):
    """AdamA's rule: folds a gradient into two moments of the parameter's shape.

    The moments have the parameter's dtype, or are codes of 8 bits if `state_dtype` is "int8".
    """

    update_clip: float | None = None
    batch_invariant: bool = False
    state_dtype: Literal["int8"] | None = None
    weight_remainder: bool = False

    folds_with = ("betas", "batch_invariant", "state_dtype")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(
            update_clip=self.update_clip is None or self.update_clip > 0,
            state_dtype=self.state_dtype in (None, "int8"),
            weight_remainder=not self.weight_remainder or self.state_dtype == "int8",
        )

    @property
    def elementwise(self) -> bool:
        return self.state_dtype is None

    def by_rows(self, param: Tensor) -> bool:
        whole_groups = self.state_dtype is None or eight_bit.ends_in_rows(param)
        return whole_groups and self.update_clip is None  # update_clip needs all elements

    def states_of_rows(self, state: State, rows: slice) -> State:
        found = dict(super().states_of_rows(state, rows))
        for name in [name for name in state if eight_bit.is_code(state, name)]:
            found[f"{name}_scale"] = eight_bit.scales_of_rows(state, name, rows)
        return found

    def state(self, param: Tensor) -> tuple[StateSpec, ...]:
        if self.state_dtype == "int8":
            return eight_bit_adam.states(param, remainder=self.weight_remainder)
        return StateSpec.like("exp_avg", param), StateSpec.like("exp_avg_sq", param)

    @property
    def over_ranks(self) -> dict[str, OverRanks]:
        return {"exp_avg": "mean", "exp_avg_sq": "mean" if self.batch_invariant else "squares"}

    def multiply(self, state: State, name: str, factor: float) -> None:
        if eight_bit.is_code(state, name):
            eight_bit_adam.multiply(state, name, factor)
        else:
            super().multiply(state, name, factor)

    def decoded(self, state: State, name: str) -> Tensor:
        if eight_bit.is_code(state, name):
            return eight_bit_adam.decoded(state, name)
        return super().decoded(state, name)

    def encode(self, state: State, name: str, numbers: Tensor, step: int) -> None:
        if eight_bit.is_code(state, name):
            eight_bit_adam.encode(state, name, numbers, step)

    def decay(self, state: State, param: Tensor, step: int) -> None:
        beta1, beta2 = self.betas
        if self.state_dtype == "int8":
            eight_bit_adam.decay(state, beta1, beta2)
            return
        state["exp_avg"].mul_(beta1)
        state["exp_avg_sq"].mul_(beta2)

    def fold(self, state: State, param: Tensor, grad: Tensor, at: Turn) -> None:
        beta1, beta2 = self.betas
        share = (1 - beta2) * self.square_scale(at.scale)
        if self.state_dtype == "int8":
            shares = eight_bit_adam.Shares((1 - beta1) * at.scale, share)
            eight_bit_adam.turn(state, param, at, folded=(grad, shares))
            return
        state["exp_avg"].add_(grad, alpha=(1 - beta1) * at.scale)
        state["exp_avg_sq"].addcmul_(grad, grad, value=share)

    def square_scale(self, scale: float) -> float:
        """Returns the factor of (1-β2) g² in v, where g is the gradient of one of N micro-batches.

        The factor is 1 / N², or 1 / N if `batch_invariant`. `scale` is 1 / N.
        """
        return scale if self.batch_invariant else scale * scale

    @property
    def applied(self) -> frozenset[str]:
        return frozenset({"remainder"} if self.weight_remainder else ())

    def apply(self, state: State, param: Tensor, step: int) -> None:
        if self.state_dtype == "int8":
            eight_bit_adam.turn(
                state, param, Turn(step, 0, 1.0), move=self._move(state, param, step)
            )
            return
        lr, m, v = float(self.lr), state["exp_avg"], state["exp_avg_sq"]
        correction1, correction2 = self.corrections(step)
        longer = None
        if self.update_clip is not None:
            squares = sum(
                squared_sum(m_ / self.denominator(v_, correction2)) for m_, v_ in blocks(m, v)
            )
            longer = self.clip(squares, param, correction1, self.update_clip)
        kept = 1 - lr * self.weight_decay
        for p_, m_, v_ in blocks(param, m, v):
            divisor = self.denominator(v_, correction2)
            if longer is not None:
                divisor *= longer
            p_.mul_(kept).addcdiv_(m_, divisor, value=-lr / correction1)

    has_momentum = True

    def squared_momentum(self, state: State, step: int) -> Tensor:
        found: Tensor
        if self.state_dtype == "int8":
            found = eight_bit_adam.squared_momentum(state)
        else:
            found = squared_sum(state["exp_avg"])
        return found / self.corrections(step)[0] ** 2

    def shortened(self, factor: float) -> AdamARule:
        lr = float(self.lr) * factor
        return replace(self, lr=lr, weight_decay=self.weight_decay / factor)

    def clip(
        self, squares: Tensor | Any, param: Tensor, correction1: float, limit: float
    ) -> Tensor:
        """Returns the divisor that limits an update: max(1, RMS(update) / limit).

        The divisor is a scalar on the parameter's device. The update has no weight decay and no
        learning rate in it. Below, m is Adam's first moment, and v̂ the bias-corrected second one.

        Args:
            squares: the sum over all elements of (m / (√v̂ + ε))², m without bias correction.
            param: the parameter.
            correction1: the divisor that corrects the bias of m, 1 - β1^t.
            limit: the RMS that the update may have, `update_clip`.
        """
        rms = (squares / max(param.numel(), 1)) ** 0.5 / correction1
        longer = torch.as_tensor(rms / limit, device=param.device)
        return torch.clamp(longer, min=1)

    def update_in_graph(self, param: Tensor, step: int) -> Formula | None:
        if self.prefers_formulas:
            return None
        lr, (beta1, beta2) = float(self.lr), self.betas
        correction1, correction2 = self.corrections(step)
        numbers = (
            1 - lr * self.weight_decay,
            1 - beta1,
            beta2,
            1 - beta2,
            math.sqrt(correction2),
            self.eps,
            lr / correction1,
        )
        return Formula(update_in_graph, ("exp_avg", "exp_avg_sq"), numbers)

    def fold_in_graph(self, param: Tensor, at: Turn) -> Formula | None:
        if self.state_dtype is not None:
            return None
        beta1, beta2 = self.betas
        shares = (1 - beta1) * at.scale, (1 - beta2) * self.square_scale(at.scale)
        numbers = at.once(beta1), at.once(beta2), *shares
        return Formula(fold_in_graph, ("exp_avg", "exp_avg_sq"), numbers)

    @property
    def prefers_formulas(self) -> bool:
        return self.update_clip is not None or self.state_dtype is not None

    def update(self, state: State, param: Tensor, grad: Tensor, step: int) -> None:
        if self.state_dtype is None or self.update_clip is not None:
            super().update(state, param, grad, step)
            return
        beta1, beta2 = self.betas
        at = Turn(step, 0, 1.0)
        self.decay(state, param, step)
        shares = eight_bit_adam.Shares(1 - beta1, 1 - beta2)
        move = self._move(state, param, step)
        eight_bit_adam.turn(state, param, at, folded=(grad, shares), move=move)

    def _move(self, state: State, param: Tensor, step: int) -> eight_bit_adam.Move:
        """Returns the numbers with which 8-bit moments update the parameter, at update `step`.

        If `update_clip` is set, reads all moments to compute the divisor that limits the update.
        """
        correction1, correction2 = self.corrections(step)
        lr = float(self.lr)
        move = eight_bit_adam.Move(
            kept=1 - lr * self.weight_decay,
            rate=-lr / correction1,
            root=1 / math.sqrt(correction2),
            eps=self.eps,
        )
        if self.update_clip is None:
            return move
        squares = eight_bit_adam.squares(state, param, move)
        return move._replace(longer=self.clip(squares, param, correction1, self.update_clip))

    def fused(self, updates: Sequence[Update]) -> None:
        states, params, grads, _ = zip(*updates, strict=True)
        beta1, beta2 = self.betas
        device, steps = params[0].device, [state["step"] for state in states]
        torch._fused_adamw_(
            params,
            grads,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            steps if device.type == "cpu" else [s.to(device, non_blocking=True) for s in steps],
            lr=self.lr,
            beta1=float(beta1),
            beta2=float(beta2),
            weight_decay=self.weight_decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )


def update_in_graph(p: Tensor, g: Tensor, m: Tensor, v: Tensor, numbers: Tensor) -> None:
    """Updates a parameter p by the operations of PyTorch's fused AdamW kernel, in their order.

    The moment v has size 1 in the dimensions over which it is averaged, if there are any.

    numbers: 1 - lr λ, 1 - β1, β2, 1 - β2, √(1 - β2^t), ε, lr / (1 - β1^t), where λ is the weight
        decay, and t the number of the update, from 1.
    """
    kept, now, held, new, root, eps, rate = numbers.unbind()
    g = g.to(m.dtype)
    p.mul_(kept)
    m.add_((g - m) * now)
    v.mul_(held).add_(_squares(g, v) * new)
    p.sub_(rate * m / (v.sqrt() / root + eps))


def fold_in_graph(p: Tensor, g: Tensor, m: Tensor, v: Tensor, numbers: Tensor) -> None:
    """Folds a gradient g into moments m and v. g² is averaged where v has size 1. p stays as it is.

    numbers: the factors on m, on v, on g in m, and on g² in v. The first two are 1, except for the
        first gradient of a mini-batch.
    """
    decay1, decay2, share1, share2 = numbers.unbind()
    g = g.to(m.dtype)
    m.mul_(decay1).add_(g * share1)
    v.mul_(decay2).add_(_squares(g, v) * share2)


def _squares(g: Tensor, v: Tensor) -> Tensor:
    """Returns g² in the wider dtype of both, averaged over dimensions where only v has size 1."""
    squares = g.to(torch.promote_types(g.dtype, v.dtype)).square()
    dims = [d for d in range(g.dim()) if v.shape[d] != g.shape[d]]
    return squares.mean(dims, keepdim=True) if dims else squares


class AdamA(FoldingOptimizer):
    """AdamW that folds each gradient into its state during the backward, and then frees it.

    **`clip_grad_norm_` clips nothing here**, and warns. No gradient is left when the backward
    returns: every `.grad` is None, and PyTorch's function skips such parameters. Use `max_norm`.
    Within `roam.compile_step` `clip_grad_norm_` does clip: there the gradients wait for it.
    GradScaler and DistributedDataParallel need the gradients too, and raise an error: train in
    bfloat16, and use fully_shard (FSDP2) or a hook that sums gradients (Tensor.register_hook) on
    several ranks. Code that sums them after the backward finds none; the optimizer warns of that.

    A folded gradient cannot be taken back. `zero_grad()` has nothing to do, and a loss of NaN has
    to be detected before its backward.

    Without `state_dtype`, AdamA has the state tensors of torch.optim.AdamW, with the same names, so
    each loads a state dict of the other. `state_dict()` raises MidBatchError within a mini-batch.

    Args:
        params: parameters, groups of them, or `model.named_parameters()`, which lets errors name
            the parameters.
        lr, betas, eps, weight_decay: as in torch.optim.AdamW. The weight decay is decoupled: it
            multiplies the parameter by `1 - lr * weight_decay`. An L2 penalty has to be added to
            the loss. All four may differ between groups and change between two mini-batches. In
            mode "release" the backward reads all four: a change between the backward and step(),
            such as `scheduler.step()`, comes too late and gets a LateChangeWarning. In mode
            "accumulate" the backward reads only the betas, and step() the other three.
        mode: "release" is AdamW exactly, by PyTorch's own fused kernel if there is one. Each
            parameter is updated during the backward, as soon as its gradient is complete.
            `step()` only ends the mini-batch, which has one backward.
            "accumulate" is gradient accumulation that keeps no gradients. A mini-batch is
            `micro_batches` backwards, each of the *mean* loss of one micro-batch, not divided by
            anything, and then `step()`. With N = micro_batches, g the gradient of one micro-batch,
            and m and v the two moments,

                once a mini-batch:       m *= β1, v *= β2
                for each micro-batch:    m += (1-β1) g/N, v += (1-β2) (g/N)²

            m is as in Adam. v is a sum of squares, while Adam's v is the square of the sum; this v
            is at least 1/N of Adam's (Cauchy-Schwarz). If the gradients of the micro-batches agree,
            as they do early in training, a step is up to √N times as long as Adam's: use a longer
            warm-up. If these gradients cancel, the step is shorter than Adam's.
        micro_batches: N. May be changed between two mini-batches.
        batch_invariant: multiplies the addends of v by N, so that v averages the squares of the
            micro-batches' gradients (arXiv 2402.18824). Then no step is longer than Adam's; if the
            gradients are mostly noise, a step is up to √N times shorter. v, and thereby the best
            learning rate, depend on the size of the micro-batches and not on their number.
        update_clip: d, or None. Divides the update of each parameter by max(1, RMS(update) / d).
            The update is what the learning rate multiplies, without the weight decay (AdaFactor,
            arXiv 1804.04235, section 6; StableAdamW, arXiv 2304.13013). d = 1 is usual. Rules out
            the fused kernel, and folding by rows.
        state_dtype: None for moments of the parameter's dtype; "int8" for moments of 8 bits an
            element (`eight_bit`), both together 2.1 bytes an element. Codes are rounded at random.
        weight_remainder: with "int8", keeps 8 bits more of each bfloat16 weight, so that small
            updates are not lost: 3 bytes a weight, where a bfloat16 weight and a float32 copy
            take 6. Other weights are kept as they are.
        max_norm, clip_by: the limit on the norm of gradients, or None. `clip_by` says which norm
            counts in mode "release": that of all gradients of the "previous step", or that of each
            gradient ("tensor"). In mode "accumulate" the norm of the momentum counts, and the
            update is scaled (module `max_norm`).
        process_group: of torch.distributed; None to train alone. Needs mode "accumulate". Each of M
            ranks folds the gradients of its own micro-batches, and step() combines m and v over the
            ranks. The result is that of one process with N·M micro-batches. Do not use
            DistributedDataParallel beside it.

    Raises:
        HyperparameterError: a value is out of its range, or does not go with the mode.
        RanksDifferError: the ranks of `process_group` do not begin with the same parameters.
    """

    rule = AdamARule


class AdamW(FoldingOptimizer):
    """torch.optim.AdamW (arXiv 1711.05101) with each gradient folded. It works as AdamA does.

        m = β1 m + (1-β1) g,  v = β2 v + (1-β2) g²,  p -= lr (m̂ / (√v̂ + ε) + λ p)

    Two states for each element: 8 bytes an element in float32. Mode "release" gives the same bits
    as torch's fused kernel, which it calls unless a value such as `update_clip` rules that out.
    Mode "accumulate" differs from torch.optim.AdamW: v is a sum of squares. `AdamA` explains this
    and the arguments.
    """

    rule = AdamARule
