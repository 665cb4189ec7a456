"""Defines AdamMini: one second moment for each output, or for each head (arXiv 2406.16793)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from roam.core.errors import HyperparameterError
from roam.optim.fold import State, StateSpec, Turn
from roam.optim.formula import Formula
from roam.optim.slim import SlimAdamA, SlimRule
from roam.optim.slim_rules import Owner, fan_in_of, is_norm, owners, plain_name

QUERY_KEY = re.compile(r"(^|\.)(to_|w)?(q|k|query|key)(_proj|_lin)?$")


class Shared(NamedTuple):
    """Says which elements of a parameter share a second moment.

    Attributes:
        dims: elements share a second moment if they differ only along these dimensions.
        heads: if not 0, `dims` is (1,) and the rows are cut into this many equal parts: all
            elements of a part share a second moment.
    """

    dims: tuple[int, ...] = ()
    heads: int = 0


def mini_rules(model: nn.Module, heads: int) -> dict[str, Shared]:
    """Returns Adam-mini's partition of a transformer (arXiv 2406.16793, algorithm 3).

        weights of                             elements that share a second moment
        queries and keys                       those of an attention head
        other linear layers, the output layer  those of an output
        embeddings                             those of a token
        norms, biases                          none
        others of two or more dimensions       all

    Queries and keys are found by their modules' names, such as "q_proj". Their rows are cut into
    `heads` equal parts, even if keys have fewer heads than queries. A layer counts among the other
    linear layers if its number of rows is no multiple of `heads`, or if it computes queries, keys
    and values together.

    Args:
        model: the transformer. The role of a weight is found by the type and name of its module.
        heads: the number of attention heads.

    Returns:
        By name of a parameter, which of its elements share a second moment.
    """
    return {name: _shared(owner, heads) for name, owner in owners(model).items()}


def _shared(owner: Owner, heads: int) -> Shared:
    shape = owner.param.shape
    if is_norm(owner.module) or len(shape) < 2:
        return Shared()
    if isinstance(owner.module, nn.Embedding):
        return Shared((1,))
    if (fan_in := fan_in_of(owner)) is None:
        return Shared(tuple(range(len(shape))))
    if fan_in == 1 and QUERY_KEY.search(owner.path) and shape[0] % heads == 0:
        return Shared((1,), heads)
    return Shared((fan_in,))


@dataclass(frozen=True)
class AdamMiniRule(SlimRule):
    """SlimAdamA's rule, in which the rows of a head may share a second moment.

    heads: if not 0, the rows are cut into this many equal parts, one for each attention head, and
        all elements of a part share a second moment. Then `fold` and `apply` view the gradient, the
        parameter and its states as matrices with one row for each head.
    """

    heads: int = 0

    of_parameter = ("dims", "heads")

    @property
    def elementwise(self) -> bool:
        return not self.heads and super().elementwise

    def by_rows(self, param: Tensor) -> bool:
        return not self.heads and super().by_rows(param)

    def state(self, param: Tensor) -> tuple[StateSpec, ...]:
        if not self.heads:
            return super().state(param)
        flat = super().state(self._by_head(param))
        own = tuple(param.shape)
        return tuple(
            StateSpec(s.name, own, s.dtype) if math.prod(s.shape) == param.numel() else s
            for s in flat
        )

    def fold(self, state: State, param: Tensor, grad: Tensor, at: Turn) -> None:
        if not self.heads:
            super().fold(state, param, grad, at)
            return
        whole = grad.contiguous()
        super().fold(self._viewed(state, param), self._by_head(param), self._by_head(whole), at)

    def apply(self, state: State, param: Tensor, step: int) -> None:
        if not self.heads:
            super().apply(state, param, step)
            return
        super().apply(self._viewed(state, param), self._by_head(param), step)

    def update(self, state: State, param: Tensor, grad: Tensor, step: int) -> None:
        if not self.heads:
            super().update(state, param, grad, step)
            return
        self.decay(state, param, step)
        self.fold(state, param, grad, Turn(step, 0, 1.0))
        self.apply(state, param, step)

    def update_in_graph(self, param: Tensor, step: int) -> Formula | None:
        return None if self.heads else super().update_in_graph(param, step)

    def fold_in_graph(self, param: Tensor, at: Turn) -> Formula | None:
        return None if self.heads else super().fold_in_graph(param, at)

    def _by_head(self, tensor: Tensor) -> Tensor:
        return tensor.view(self.heads, -1)

    def _viewed(self, state: State, param: Tensor) -> State:
        own = param.shape
        return {n: self._by_head(t) if t.shape == own else t for n, t in state.items()}


class AdamMini(SlimAdamA):
    """Adam-mini (arXiv 2406.16793): AdamA with a second moment for each output, or each head.

        m = β1 m + (1-β1) g,   v_b = β2 v_b + (1-β2) mean_b(g²),   p -= lr (m̂ / (√v̂_b + ε) + λ p)

    b: a block, the elements that share a second moment v_b. The states take 4 bytes an element in
    float32, half of AdamW's: m has a value for each element, v has few values. In mode "accumulate"
    m is as in Adam, and v is a sum of squares as in AdamA.

    Args:
        params: named parameters, `model.named_parameters()`, or groups of those.
        rules: by name of a parameter, which elements share a second moment:
            `mini_rules(model, heads)`. A parameter without a rule is treated as in AdamA.
        lr, betas, ...: the other arguments of AdamA.

    Raises:
        HyperparameterError: a value is out of its range, the rules do not fit the parameters, or a
            parameter has no name.
    """

    rule = AdamMiniRule

    def __init__(
        self, params: ParamsT, rules: Mapping[str, Shared], *args: Any, **values: Any
    ) -> None:
        self.heads = {name: shared.heads for name, shared in rules.items()}
        self._heads: dict[Tensor, int] = {}
        dims = {name: shared.dims for name, shared in rules.items()}
        super().__init__(params, dims, *args, **values)

    def admit(self, param: Tensor, name: str | None) -> None:
        super().admit(param, name)
        heads = self.heads.get(plain_name(name or ""), 0)
        if heads and (param.shape[0] % heads or not param.is_contiguous()):
            raise HyperparameterError(
                f"the rule for {name} is {heads} heads, and its shape is {list(param.shape)}"
            )
        self._heads[param] = heads

    def facts(self, param: Tensor) -> tuple[Any, ...]:
        return *super().facts(param), self._heads[param]
