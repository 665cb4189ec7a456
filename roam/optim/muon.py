"""Defines Muon, which moves a matrix by its momentum with singular values made nearly equal."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from torch.optim.optimizer import ParamsT

from roam.core.errors import HyperparameterError
from roam.optim.blocks import row_blocks
from roam.optim.fold import AccumulatingRule, OverRanks, State, StateSpec, Turn
from roam.optim.folding import FoldingOptimizer
from roam.optim.formula import Formula, add_in_graph
from roam.optim.group_rules import RULE
from roam.optim.orthogonal import COEFFICIENTS, orthogonalized

Adjust = Literal["original", "match_rms_adamw"]
# matches names of modules that look up or score tokens: Muon is not for their matrices
NO_MATRICES = re.compile(
    r"(^|_)emb|^w[tp]e$|(^|_)heads?$|^classifier$|^score$|^shared$|^relative_attention_bias$"
)


@dataclass(frozen=True)
class MuonRule(AccumulatingRule):
    """Muon's rule, as in torch.optim."""

    lr: float | Tensor = 1e-3
    weight_decay: float = 0.1
    momentum: float = 0.95
    nesterov: bool = True
    ns_coefficients: tuple[float, float, float] = COEFFICIENTS
    eps: float = 1e-7
    ns_steps: int = 5
    adjust_lr_fn: Adjust | None = None

    folds_with = ("momentum", "nesterov")

    def __post_init__(self) -> None:
        self._require(
            lr=bool(self.lr >= 0),
            weight_decay=self.weight_decay >= 0,
            momentum=0 <= self.momentum < 1,
            ns_coefficients=len(self.ns_coefficients) == 3,
            eps=self.eps >= 0,
            ns_steps=0 < self.ns_steps < 100,
            adjust_lr_fn=self.adjust_lr_fn in (None, "original", "match_rms_adamw"),
        )

    @property
    def release_only(self) -> str:
        if self.nesterov:
            return "with nesterov=True the update needs the momentum and the gradient"
        return ""

    def state(self, param: Tensor) -> tuple[StateSpec, ...]:
        if param.dim() != 2:
            raise HyperparameterError(
                f"Muon is for matrices, and the shape is {list(param.shape)}: put it into a group "
                'with "rule": "AdamW"'
            )
        return (StateSpec.like("momentum_buffer", param),)

    @property
    def over_ranks(self) -> dict[str, OverRanks]:
        return {"momentum_buffer": "mean"}

    def decay(self, state: State, param: Tensor, step: int) -> None:
        state["momentum_buffer"].mul_(self.momentum)

    def fold(self, state: State, param: Tensor, grad: Tensor, at: Turn) -> None:
        state["momentum_buffer"].add_(grad, alpha=(1 - self.momentum) * at.scale)

    def apply(self, state: State, param: Tensor, step: int) -> None:
        self._move(param, state["momentum_buffer"])

    def update(self, state: State, param: Tensor, grad: Tensor, step: int) -> None:
        buffer = state["momentum_buffer"].lerp_(grad, 1 - self.momentum)
        self._move(param, grad.lerp(buffer, self.momentum) if self.nesterov else buffer)

    def update_in_graph(self, param: Tensor, step: int) -> Formula:
        lr = float(self.lr)
        change = _Update(self.nesterov, self.ns_steps, self.ns_coefficients, self.eps)
        numbers = 1 - self.momentum, 1 - lr * self.weight_decay, lr * self._ratio(param)
        return Formula(change, ("momentum_buffer",), numbers)

    def fold_in_graph(self, param: Tensor, at: Turn) -> Formula:
        numbers = at.once(self.momentum), (1 - self.momentum) * at.scale
        return Formula(add_in_graph, ("momentum_buffer",), numbers)

    def _move(self, param: Tensor, direction: Tensor) -> None:
        lr = float(self.lr)
        o = orthogonalized(direction, self.ns_steps, self.ns_coefficients, self.eps)
        param.mul_(1 - lr * self.weight_decay)
        for p, part in row_blocks(param, o):
            p.add_(part, alpha=-lr * self._ratio(param))

    def _ratio(self, param: Tensor) -> float:
        """Returns the factor on the learning rate that depends on the parameter's shape n x m.

        √max(1, n / m), or 0.2 √max(n, m) if `adjust_lr_fn` is "match_rms_adamw".
        """
        n, m = param.shape
        matches = self.adjust_lr_fn == "match_rms_adamw"
        return 0.2 * math.sqrt(max(n, m)) if matches else math.sqrt(max(1, n / max(1, m)))


@dataclass(frozen=True)
class _Update:
    """Updates a matrix and its momentum in mode "release", by operators of a graph.

    The fields are those of `MuonRule` with the same names.
    """

    nesterov: bool
    ns_steps: int
    ns_coefficients: tuple[float, float, float]
    eps: float

    def __call__(self, p: Tensor, g: Tensor, b: Tensor, numbers: Tensor) -> None:
        """Updates a matrix p and its momentum b by a gradient g, in place.

        numbers: 1 - μ, 1 - lr λ, and the learning rate times its factor for the shape. μ is the
            momentum's decay rate, λ the weight decay.
        """
        new, kept, rate = numbers.unbind()
        b.add_((g - b) * new)
        direction = b - (b - g) * new if self.nesterov else b
        o = orthogonalized(direction, self.ns_steps, self.ns_coefficients, self.eps)
        p.mul_(kept).sub_(o.to(p.dtype) * rate)


class Muon(FoldingOptimizer):
    """torch.optim.Muon for matrices, and AdamW for all other parameters.

        b = μ b + (1-μ) g,   u = μ b + (1-μ) g with nesterov, else b
        p -= lr (√max(1, n/m) NS(u) + λ p)

    g is the gradient, μ `momentum` and λ `weight_decay`. NS makes the singular values of an n x m
    matrix nearly equal (`orthogonalized`). With adjust_lr_fn="match_rms_adamw", the factor of NS(u)
    is 0.2 √max(n, m). One state for each element, b: 4 bytes an element in float32, half of
    AdamW's. Mode "release" is torch's Muon. Mode "accumulate" is exact, because b is linear in g,
    and needs nesterov=False.

    Muon is for matrices that map features to features. The constructor splits each group that names
    no rule in two (a group added later is not split: without a rule it is Muon's):

        "Muon"    parameters of two dimensions whose name does not tell of an embedding or a head.
                  Without names all matrices come here, so pass `model.named_parameters()`
        "AdamW"   all others, with Muon's `lr` and `weight_decay`, and AdamW's default betas and eps

    `print(optimizer)` shows which are which. Groups may decide for themselves:
    `{"params": [...], "rule": "AdamW", "lr": 3e-4, "betas": (0.9, 0.95)}`.

    Args:
        params: parameters, groups of them, or `model.named_parameters()`.
        lr, weight_decay, momentum, nesterov, ns_coefficients, eps, ns_steps, adjust_lr_fn: as in
            torch.optim.Muon.
        mode, micro_batches, process_group: when to update, N, and the ranks (see `AdamA`).
        max_norm, clip_by: the limit on the norm of gradients, and which norm counts (see `AdamA`).
            Only in mode "release".

    Raises:
        HyperparameterError: a value is out of its range, or does not go with the mode; or a group
            with the rule "Muon" has a parameter that is no matrix.
    """

    rule = MuonRule

    def __init__(self, params: ParamsT, *args: Any, **values: Any) -> None:
        super().__init__([*split(params)], *args, **values)

    def __repr__(self) -> str:
        """Returns the groups as torch shows them, and the rule and the parameters of each."""
        lines = [super().__repr__()]
        for group in self.param_groups:
            names = [self._members.name(p) for p in group["params"]]
            lines.append(f"{group.get(RULE, 'Muon')}: {', '.join(names)}")
        return "\n".join(lines)


def split(params: ParamsT) -> Iterable[dict[str, Any]]:
    """Splits each group into a group for Muon, with the matrices, and one for AdamW, with the rest.

    Yields the new groups, but no empty ones. Yields a group that names its rule as it is.
    """
    given: list[Any] = [*params]
    for group in given if given and isinstance(given[0], dict) else [{"params": given}]:
        if RULE in group:
            yield group
            continue
        own = group["params"]
        found: list[Any] = [own] if isinstance(own, Tensor) else [*own]
        for rule in ("Muon", "AdamW"):
            some = [p for p in found if ("Muon" if is_matrix(p) else "AdamW") == rule]
            if some:
                yield {**group, "params": some, RULE: rule}


def is_matrix(param: Tensor | tuple[str, Tensor]) -> bool:
    """Returns whether a parameter is a matrix that maps features to features, judged by its name.

    A matrix whose name tells of an embedding or a head does not map features to features. A matrix
    without a name is assumed to map them.

    param: the parameter, or its name and the parameter.
    """
    name, tensor = param if isinstance(param, tuple) else ("", param)
    return tensor.dim() == 2 and NO_MATRICES.search(_holder(name)) is None


def _holder(name: str) -> str:
    """Returns the name of the module that holds a parameter: "up" for "blocks.0.up.weight".

    For a member of a list of modules, returns the name of the list: "heads" for "heads.1.weight".
    For a parameter of the model itself, returns the parameter's own name: "head" for "head".
    """
    *modules, own = name.split(".")
    return next((m for m in reversed(modules) if not m.isdigit()), own)
