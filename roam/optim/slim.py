"""Defines SlimAdamA: AdamA with second moments averaged over rows or columns (arXiv 2503.01843)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT

from roam.core.errors import HyperparameterError
from roam.optim import eight_bit_adam
from roam.optim.adama import AdamARule
from roam.optim.blocks import wide
from roam.optim.data_parallel import is_sharded
from roam.optim.fold import FoldRule, State, StateSpec, Turn, Update
from roam.optim.folding import FoldingOptimizer
from roam.optim.formula import Formula
from roam.optim.means import mean_square
from roam.optim.slim_rules import SlimRules, plain_name


@dataclass(frozen=True)
class SlimRule(AdamARule):
    """AdamA's rule with a second moment v that has size 1 in the averaged dimensions.

    dims: the dimensions over which v is averaged; empty for AdamA's rule itself.
    """

    dims: tuple[int, ...] = ()

    of_parameter: ClassVar[tuple[str, ...]] = ("dims",)

    @property
    def elementwise(self) -> bool:
        return not self.dims and super().elementwise

    def by_rows(self, param: Tensor) -> bool:
        return super().by_rows(param) and 0 not in self.dims

    def state(self, param: Tensor) -> tuple[StateSpec, ...]:
        if not self.dims:
            return super().state(param)
        shape = tuple(1 if d in self.dims else n for d, n in enumerate(param.shape))
        if self.state_dtype == "int8":  # an averaged v is small, and not stored as 8-bit codes
            v = StateSpec("exp_avg_sq", shape, wide(param.dtype))
            return eight_bit_adam.states(param, remainder=self.weight_remainder, second=v)
        m, v = super().state(param)
        return m, replace(v, shape=shape)

    def fold(self, state: State, param: Tensor, grad: Tensor, at: Turn) -> None:
        v = state["exp_avg_sq"]
        if v.shape == grad.shape or self.state_dtype == "int8":
            super().fold(state, param, grad, at)
            return
        beta1, beta2 = self.betas
        state["exp_avg"].add_(grad, alpha=(1 - beta1) * at.scale)
        v.add_(mean_square(grad, v.shape), alpha=(1 - beta2) * self.square_scale(at.scale))

    def apply(self, state: State, param: Tensor, step: int) -> None:
        m, v = state["exp_avg"], state["exp_avg_sq"]
        if v.shape == param.shape or self.state_dtype == "int8":
            super().apply(state, param, step)
            return
        lr = float(self.lr)
        correction1, correction2 = self.corrections(step)
        divisor = self.denominator(v, correction2)
        if self.update_clip is not None:
            # number of elements of the parameter that share a second moment
            each = param.numel() / max(divisor.numel(), 1)
            squares = each * (mean_square(m, v.shape).sqrt() / divisor).square().sum()
            divisor *= self.clip(squares, param, correction1, self.update_clip)
        param.mul_(1 - lr * self.weight_decay)
        param.addcdiv_(m, divisor, value=-lr / correction1)

    # the inherited formulas average g² as the shape of v says; they are named here, because a class
    # that overrides `fold` inherits no formula otherwise (`FoldRule.__init_subclass__`)
    def update_in_graph(self, param: Tensor, step: int) -> Formula | None:
        return super().update_in_graph(param, step)

    def fold_in_graph(self, param: Tensor, at: Turn) -> Formula | None:
        return super().fold_in_graph(param, at)

    def release(self, updates: Sequence[Update]) -> None:
        if self.dims:  # no fused kernel averages second moments
            FoldRule.release(self, updates)
        else:
            super().release(updates)


class SlimAdamA(FoldingOptimizer):
    """AdamA that keeps, for parameters with a rule, one second moment for a whole row or column.

        v = β2 v + (1-β2) mean_K(g²)        g: the gradient, K: the dimensions to average over

    In a matrix, each row has one second moment if K is dimension 1, and each column if K is
    dimension 0. **`clip_grad_norm_` clips nothing here**, as in AdamA; use `max_norm`. A state dict
    loads only into an optimizer that averages over the same dimensions.

    Args:
        params: named parameters, `model.named_parameters()`, or groups of those.
        rules: the dimensions K of each parameter, by its name: from `static_rules(model)`, from a
            measurement (`SnrMeasurement`), or written by hand, `{"head.weight": (1,)}`. A
            parameter without a rule is treated as in AdamA.
        lr, betas, ...: as in AdamA.

    Raises:
        HyperparameterError: a value is out of its range, the rules do not fit the parameters, a
            parameter has no name, or one with a rule lies in parts on several ranks (DTensor).
    """

    rule = SlimRule

    def __init__(
        self,
        params: ParamsT,
        rules: SlimRules | Mapping[str, tuple[int, ...]],
        *args: Any,
        **values: Any,
    ) -> None:
        self.dims = dict(rules.dims() if isinstance(rules, SlimRules) else rules)
        self._means: dict[Tensor, tuple[int, ...]] = {}
        super().__init__(params, *args, **values)
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

    def facts(self, param: Tensor) -> tuple[Any, ...]:
        return (self._means[param],)
