"""SlimAdamA: AdamA with second moments averaged over rows or columns (arXiv 2503.01843)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from roam.core.errors import HyperparameterError
from roam.optim.adama import AdamARule, clip, corrections, denominator
from roam.optim.data_parallel import is_sharded
from roam.optim.fold import Group, State, StateSpec, block_size
from roam.optim.folding import FoldingOptimizer, Mode
from roam.optim.slim_rules import SlimRules, plain_name


class SlimAdamA(FoldingOptimizer):
    """AdamA that keeps, for most parameters, one second moment for a whole row or column.

        v = β2 v + (1-β2) mean_K(g²)        g: the gradient, K: the dimensions to average over

    **`clip_grad_norm_` clips nothing here**, as in AdamA; use `update_clip`. A state dict loads
    only into a SlimAdamA with the same rules.

    Args:
        params: named parameters, `model.named_parameters()`, or groups of those.
        rules: the dimensions K of each parameter, by its name: from `static_rules(model)`, from a
            measurement (`SnrMeasurement`), or written by hand, `{"head.weight": (1,)}`. A
            parameter without a rule is treated as in AdamA.
        lr, betas, ...: as in AdamA.

    Raises:
        HyperparameterError: a value is out of its range, or the rules do not fit the parameters.
    """

    def __init__(
        self,
        params: ParamsT,
        rules: SlimRules | Mapping[str, tuple[int, ...]],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        micro_batches: int = 1,
        mode: Mode = "release",
        update_clip: float | None = None,
        batch_invariant: bool = False,
    ) -> None:
        self.dims = dict(rules.dims() if isinstance(rules, SlimRules) else rules)
        self._means: dict[Tensor, tuple[int, ...]] = {}
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "update_clip": update_clip,
        }
        rule = SlimRule(self._means, batch_invariant)
        super().__init__(params, defaults, rule, mode, micro_batches)
        names = [plain_name(n) for group in self.param_groups for n in group["param_names"]]
        if self.dims and self.dims.keys().isdisjoint(names):
            raise HyperparameterError(
                f"the rules name {next(iter(self.dims))!r} and the like, the parameters are "
                f"{names[0]!r} and the like: are they another model's?"
            )

    def admit(self, param: Tensor, name: str | None) -> None:
        if name is None:
            raise HyperparameterError(
                "SlimAdamA's rules go by name: give it model.named_parameters()"
            )
        dims = self.dims.get(plain_name(name), ())
        if any(not 0 <= d < param.dim() for d in dims):
            raise HyperparameterError(
                f"the rule for {name} is the mean over dimensions {list(dims)}, and its shape "
                f"is {list(param.shape)}"
            )
        if dims and is_sharded(param):
            raise HyperparameterError(
                f"the rule for {name} is a mean, and its parts lie on several ranks (DTensor): "
                "leave it out of the rules, or use AdamA"
            )
        self._means[param] = tuple(dims)


class SlimRule(AdamARule):
    """AdamA's rule with a second moment v that has size 1 in the averaged dimensions."""

    def __init__(self, dims: Mapping[Tensor, tuple[int, ...]], batch_invariant: bool) -> None:
        super().__init__(batch_invariant)
        self.dims = dims

    def state(self, param: Tensor) -> tuple[StateSpec, ...]:
        shape = list(param.shape)
        for d in self.dims.get(param, ()):
            shape[d] = 1
        m, _ = super().state(param)
        return m, StateSpec("exp_avg_sq", tuple(shape), param.dtype)

    def fold(self, state: State, grad: Tensor, scale: float, group: Group) -> None:
        v = state["exp_avg_sq"]
        if v.shape == grad.shape:
            super().fold(state, grad, scale, group)
            return
        beta1, beta2 = group["betas"]
        state["exp_avg"].add_(grad, alpha=(1 - beta1) * scale)
        v.add_(mean_square(grad, v.shape), alpha=(1 - beta2) * self.square_scale(scale))

    def apply(self, state: State, param: Tensor, step: Tensor, group: Group) -> None:
        m, v = state["exp_avg"], state["exp_avg_sq"]
        if v.shape == param.shape:
            super().apply(state, param, step, group)
            return
        lr = float(group["lr"])
        correction1, correction2 = corrections(step, group)
        divisor = denominator(v, correction2, group)
        if group["update_clip"] is not None:
            # number of elements of the parameter that share a second moment
            each = param.numel() / max(divisor.numel(), 1)
            squares = each * (mean_square(m, v.shape).sqrt() / divisor).square().sum()
            divisor *= clip(squares, param, correction1, group)
        param.mul_(1 - lr * group["weight_decay"])
        param.addcdiv_(m, divisor, value=-lr / correction1)

    def fold_scratch(self, param: Tensor, grad: Tensor, group: Group) -> int:
        if not self.dims.get(param, ()):
            return 0
        wide = torch.promote_types(grad.dtype, torch.float32).itemsize
        copies = 1 if grad.itemsize == wide else 2
        means = 2 * math.prod(self.state(param)[1].shape)
        threads = torch.get_num_threads()  # each thread allocates one partial sum
        return (copies * min(grad.numel(), block_size(grad)) + means + threads) * wide

    def release_scratch(self, param: Tensor, grad: Tensor, group: Group) -> int:
        if self.dims.get(param, ()):
            return self.fold_scratch(param, grad, group)
        return super().release_scratch(param, grad, group)


def mean_square(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Returns the mean of x² over the dimensions that have size 1 in `shape` but not in x.

    Computes in at least float32. Squares a few rows at a time, because x² as a whole would take as
    much memory as x.
    """
    dims = tuple(d for d in range(x.dim()) if shape[d] != x.shape[d])
    wide = torch.promote_types(x.dtype, torch.float32)
    found = torch.zeros(shape, dtype=wide, device=x.device)
    rows = max(1, block_size(x) // max(1, x[:1].numel()))
    for start in range(0, x.shape[0], rows):
        part = found if 0 in dims else found[start : start + rows]
        part.add_(x[start : start + rows].to(wide).square().sum(dims, keepdim=True))
    return found.div_(max(1, math.prod(x.shape[d] for d in dims)))
