"""Defines AdamA: AdamW that absorbs each gradient when it is complete (arXiv 2305.19982)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from roam.core.errors import HyperparameterError
from roam.optim.fold import (
    FoldRule,
    Group,
    State,
    StateSpec,
    Update,
    alike,
    block_size,
    blocks,
)
from roam.optim.folding import FoldingOptimizer, Mode

FUSED_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})
# number of elements of the buffer in which ATen transposes a matrix with at least as many elements
TILE = 60 * 60
FUSED_DTYPES = frozenset({torch.float64, torch.float32, torch.bfloat16, torch.float16})


class AdamA(FoldingOptimizer):
    """AdamW that folds each gradient into its state during the backward, and then frees it.

    **`clip_grad_norm_` clips nothing here**, and warns. No gradient is left when the backward
    returns: every `.grad` is None, and PyTorch's function skips such parameters. Use `update_clip`.
    Within `roam.compile_step` `clip_grad_norm_` does clip: there the gradients wait for it.
    GradScaler and DistributedDataParallel need the gradients too, and raise an error: train in
    bfloat16, and use fully_shard (FSDP2) or a hook that sums gradients (Tensor.register_hook) on
    several ranks. Code that sums gradients after the backward finds none, and gets a warning.

    A folded gradient cannot be taken back. `zero_grad()` has nothing to do, and a loss of NaN has
    to be detected before its backward.

    AdamA and AdamW have the same state tensors, with the same names, so each loads a state dict of
    the other. `state_dict()` raises MidBatchError in the middle of a mini-batch.

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
        batch_invariant: multiplies the v above by N, so that it averages the squares of the
            micro-batches' gradients (arXiv 2402.18824). Then no step is longer than Adam's; if the
            gradients are mostly noise, a step is up to √N times shorter. v, and thereby the best
            learning rate, depend on the size of the micro-batches and not on their number.
        update_clip: d, or None. Divides the update of each parameter by max(1, RMS(update) / d).
            The update is what the learning rate multiplies (AdaFactor, arXiv 1804.04235,
            section 6; StableAdamW, arXiv 2304.13013). d = 1 is usual. Rules out the fused kernel.

    Raises:
        HyperparameterError: a value is out of its range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        micro_batches: int = 1,
        mode: Mode = "release",
        update_clip: float | None = None,
        batch_invariant: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "update_clip": update_clip,
        }
        super().__init__(params, defaults, AdamARule(batch_invariant), mode, micro_batches)


class AdamARule(FoldRule):
    """AdamA's rule: folds a gradient into two moments of the parameter's shape and dtype."""

    folds_with = ("betas",)

    def __init__(self, batch_invariant: bool = False) -> None:
        self.batch_invariant = batch_invariant

    def check(self, group: Group) -> None:
        beta1, beta2 = group["betas"]
        clip = group["update_clip"]
        for name, value, good in (
            ("lr", group["lr"], group["lr"] >= 0),
            ("betas[0]", beta1, 0 <= beta1 < 1),
            ("betas[1]", beta2, 0 <= beta2 < 1),
            ("eps", group["eps"], group["eps"] >= 0),
            ("weight_decay", group["weight_decay"], group["weight_decay"] >= 0),
            ("update_clip", clip, clip is None or clip > 0),
        ):
            if not good:
                raise HyperparameterError(f"{name}={value} is out of its range")

    def state(self, param: Tensor) -> tuple[StateSpec, ...]:
        shape = tuple(param.shape)
        return (
            StateSpec("exp_avg", shape, param.dtype),
            StateSpec("exp_avg_sq", shape, param.dtype),
        )

    def decay(self, state: State, group: Group) -> None:
        beta1, beta2 = group["betas"]
        state["exp_avg"].mul_(beta1)
        state["exp_avg_sq"].mul_(beta2)

    def fold(self, state: State, grad: Tensor, scale: float, group: Group) -> None:
        beta1, beta2 = group["betas"]
        state["exp_avg"].add_(grad, alpha=(1 - beta1) * scale)
        share = (1 - beta2) * self.square_scale(scale)
        state["exp_avg_sq"].addcmul_(grad, grad, value=share)

    def square_scale(self, scale: float) -> float:
        """Returns the factor of (1-β2) g² in v, where g is the gradient of one of N micro-batches.

        The factor is 1 / N², or 1 / N if `batch_invariant`. `scale` is 1 / N.
        """
        return scale if self.batch_invariant else scale * scale

    def apply(self, state: State, param: Tensor, step: Tensor, group: Group) -> None:
        lr, m, v = float(group["lr"]), state["exp_avg"], state["exp_avg_sq"]
        correction1, correction2 = corrections(step, group)
        longer = None
        if group["update_clip"] is not None:
            squares = sum(
                squared_sum(m_ / denominator(v_, correction2, group)) for m_, v_ in blocks(m, v)
            )
            longer = clip(squares, param, correction1, group)
        kept = 1 - lr * group["weight_decay"]
        for p_, m_, v_ in blocks(param, m, v):
            divisor = denominator(v_, correction2, group)
            if longer is not None:
                divisor *= longer
            p_.mul_(kept).addcdiv_(m_, divisor, value=-lr / correction1)

    def release(self, updates: Sequence[Update]) -> None:
        kinds: dict[tuple[int, torch.device, torch.dtype, torch.dtype], list[Update]] = {}
        for update in updates:
            _, param, grad, _, group = update
            key = id(group), param.device, param.dtype, grad.dtype
            kinds.setdefault(key, []).append(update)
        for kind in kinds.values():
            _, param, grad, _, group = kind[0]
            if has_fused(param, grad, group):
                self._release_fused(kind)
            else:
                super().release(kind)

    def _release_fused(self, updates: Sequence[Update]) -> None:
        together: list[Update] = []
        for update in updates:
            state, param, grad, _, _ = update
            m, v = state["exp_avg"], state["exp_avg_sq"]
            # the fused kernel ignores strides: all its tensors must have one order of elements
            if alike(param, m, v, grad):
                together.append(update)
            elif alike(param, m, v):
                together.append(update._replace(grad=torch.empty_like(param).copy_(grad)))
            else:
                super().release([update])
        if together:
            fused(together)

    def release_scratch(self, param: Tensor, grad: Tensor, group: Group) -> int:
        if has_fused(param, grad, group):
            return 0 if alike(param, grad) else param.nbytes + _transposing(param, grad)
        block = min(block_size(param), param.numel()) * param.itemsize
        return block if group["update_clip"] is None else 2 * block


def fused(updates: Sequence[Update]) -> None:
    """Updates parameters by PyTorch's own AdamW kernel.

    All parameters must be of one group, device and dtype. Each parameter must be `alike` (in shape
    and strides) to its gradient and moments.
    """
    states, params, grads, steps, (group, *_) = zip(*updates, strict=True)
    beta1, beta2 = group["betas"]
    device = params[0].device
    torch._fused_adamw_(
        params,
        grads,
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],
        steps if device.type == "cpu" else [s.to(device, non_blocking=True) for s in steps],
        lr=group["lr"],
        beta1=float(beta1),
        beta2=float(beta2),
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
    )
    # the fused kernel does not bump version counters, by which autograd detects changed parameters
    torch.autograd.graph.increment_version(params)


def has_fused(param: Tensor, grad: Tensor, group: Group) -> bool:
    """Returns whether PyTorch's fused kernel can update this parameter by this gradient."""
    return (
        group["update_clip"] is None
        and grad.device.type in FUSED_DEVICES
        and param.dtype in FUSED_DTYPES
        and param.dtype == grad.dtype
    )


def corrections(step: Tensor, group: Group) -> tuple[float, float]:
    """Returns Adam's bias corrections of m and v at update number `step`, counted from 1."""
    beta1, beta2 = group["betas"]
    n = float(step)
    return 1 - float(beta1) ** n, 1 - float(beta2) ** n


def denominator(v: Tensor, correction2: float, group: Group) -> Tensor:
    """Returns the denominator of Adam's update, √(v / correction2) + ε, in new memory."""
    return v.sqrt().mul_(1 / math.sqrt(correction2)).add_(group["eps"])


def squared_sum(x: Tensor) -> Tensor:
    """Returns the sum of the squared elements of x, a scalar, computed in at least float32."""
    return torch.linalg.vector_norm(x, dtype=torch.promote_types(x.dtype, torch.float32)).square()


def clip(squares: Tensor | Any, param: Tensor, correction1: float, group: Group) -> Any:
    """Returns the divisor that limits the length of an update: max(1, RMS(update) / update_clip).

    The divisor is a scalar on the parameter's device. m below is Adam's first moment.

    Args:
        squares: the sum over all elements of (m / denominator)², where m has no bias correction.
        param: the parameter.
        correction1: the bias correction of m.
        group: the parameter's group.
    """
    rms = (squares / max(param.numel(), 1)) ** 0.5 / correction1
    return torch.clamp(torch.as_tensor(rms / group["update_clip"], device=param.device), min=1)


def _transposing(param: Tensor, grad: Tensor) -> int:
    """Returns the bytes that ATen allocates to copy `grad` into a tensor with `param`'s strides.

    Returns 0 unless `grad` is a large transposed matrix on the CPU.
    """
    transposed = param.dim() == 2 and param.is_contiguous() and grad.t().is_contiguous()
    large = param.device.type == "cpu" and param.numel() >= TILE
    return TILE * param.itemsize if transposed and large else 0
