"""A row for each optimizer: how it is made, and what it has to be equal to.

An optimizer of `roam.optim` without a row is held against itself in float64. A row adds a formula,
or torch's optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from roam import optim
from roam.optim.blocks import blocks
from roam.optim.fold import AccumulatingRule, State, StateSpec, Turn
from roam.optim.folding import FoldingOptimizer
from tests.optim import oracles
from tests.optim.oracles import InFloat64, Itself

SHAPES = ((11, 4), (3, 2, 3, 3), (5,), (), (1, 7), (8, 6), (6, 8), (9, 2), (0, 3))
STEPS = 20


@dataclass(frozen=True)
class Case:
    """One optimizer of roam and what it has to be equal to.

    Attributes:
        make: of groups and values.
        oracle: of groups with all values, the torch optimizer or the formula.
        values: of the constructor.
        group: of the second group.
        bits: whether mode "release" has the oracle's bits.
        summed: values for which accumulation is exact; None if it never is.
        worst: values with which every step takes as much as is planned for.
    """

    make: type[FoldingOptimizer]
    oracle: Callable[[list[dict[str, Any]]], Any]
    values: dict[str, Any] = field(default_factory=dict)
    group: dict[str, Any] = field(default_factory=lambda: {"lr": 3e-2, "weight_decay": 0.0})
    bits: bool = False
    summed: dict[str, Any] | None = None
    worst: dict[str, Any] = field(default_factory=dict)


def formula(one: oracles.Formula) -> Callable[[list[dict[str, Any]]], InFloat64]:
    return partial(InFloat64, formula=one)


def torchs(make: Any, *names: str, **more: Any) -> Callable[[list[dict[str, Any]]], Any]:
    """Of torch, with the values of these names from our groups."""

    def build(groups: list[dict[str, Any]]) -> Any:
        half = groups[0]["params"][0].dtype is torch.bfloat16
        how = {"foreach": False} if half and make is torch.optim.SGD else more
        return make([{k: g[k] for k in ("params", "lr", *names)} for g in groups], **how)

    return build


class Several:
    """Torch's optimizers of several groups, as one."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        muon = torchs(torch.optim.Muon, "weight_decay", "momentum", "nesterov", "adjust_lr_fn")
        adamw = torchs(torch.optim.AdamW, "weight_decay", "betas", "eps", fused=True)
        makes = {"Muon": muon, "AdamW": adamw}
        self.parts = [makes[group["rule"]]([group]) for group in groups]
        self.param_groups = [part.param_groups[0] for part in self.parts]

    def step(self) -> None:
        for part in self.parts:
            part.step()


@dataclass(frozen=True)
class ToyRule(AccumulatingRule):
    """The sign of the mini-batch's gradient: what a new optimizer takes."""

    lr: float | Tensor = 1e-3

    @property
    def elementwise(self) -> bool:
        return True

    def __post_init__(self) -> None:
        self._require(lr=bool(self.lr >= 0))

    def state(self, param: Tensor) -> tuple[StateSpec, ...]:
        return (StateSpec.like("sum", param),)

    def decay(self, state: State, param: Tensor, step: int) -> None:
        state["sum"].zero_()

    def fold(self, state: State, param: Tensor, grad: Tensor, at: Turn) -> None:
        state["sum"].add_(grad, alpha=at.scale)

    def apply(self, state: State, param: Tensor, step: int) -> None:
        for p, s in blocks(param, state["sum"]):
            p.add_(s.sign(), alpha=-float(self.lr))


class Toy(FoldingOptimizer):
    rule = ToyRule


SGD_VALUES = ("momentum", "dampening", "weight_decay", "nesterov")
ADAM_VALUES = ("betas", "eps", "weight_decay")
CASES = {
    "a toy": Case(
        Toy,
        formula(oracles.toy),
        {"lr": 1e-2},
        summed={},
    ),
    "AdamW": Case(
        optim.AdamW, torchs(torch.optim.AdamW, *ADAM_VALUES, fused=True), {"lr": 1e-2}, bits=True
    ),
    "SGD": Case(
        optim.SGD,
        torchs(torch.optim.SGD, *SGD_VALUES, fused=True),
        {"lr": 1e-2, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1},
        bits=True,
        summed={},
    ),
    "SGD, nesterov": Case(
        optim.SGD,
        torchs(torch.optim.SGD, *SGD_VALUES, fused=True),
        {"lr": 1e-2, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        bits=True,
        summed={"nesterov": False},
    ),
    "SGD, no momentum": Case(
        optim.SGD,
        torchs(torch.optim.SGD, *SGD_VALUES, fused=True),
        {"weight_decay": 0.1},
        bits=True,
    ),
    "Lion": Case(
        optim.Lion,
        formula(oracles.lion),
        {"lr": 1e-3, "weight_decay": 0.1},
        summed={"betas": (0.95, 0.95)},
    ),
    "Adafactor": Case(
        optim.Adafactor,
        torchs(torch.optim.Adafactor, "beta2_decay", "eps", "d", "weight_decay"),
        {"weight_decay": 0.1},
    ),
    "AdaLomo": Case(optim.AdaLomo, formula(oracles.adalomo), {"weight_decay": 0.1, "lr": 1e-2}),
    "CAME": Case(optim.CAME, formula(oracles.came), {"weight_decay": 0.1, "lr": 1e-3}),
    "GaLore": Case(
        optim.GaLore,
        formula(oracles.galore),
        {"lr": 1e-2, "weight_decay": 0.1, "rank": 2, "update_proj_gap": 8},
        worst={"update_proj_gap": 1},
    ),
    "Muon": Case(
        optim.Muon,
        Several,
        {"lr": 1e-2},
        {"lr": 3e-2, "adjust_lr_fn": "match_rms_adamw"},
        bits=True,
    ),
    "Scion": Case(
        optim.Scion,
        formula(oracles.scion),
        {"lr": 1e-2, "scale": 2.0},
        {"norm": "Sign", "unconstrained": True},
        summed={},
    ),
}
NEAR = {  # what has no oracle: see test_eight_bit
    "AdamW, 8 bits": Case(
        optim.AdamW,
        torchs(torch.optim.AdamW, *ADAM_VALUES, fused=True),
        {"state_dtype": "int8", "weight_remainder": True},
    ),
}
CASES |= NEAR
WITHOUT_ROW = {optim.AdamA, optim.AdamMini, optim.SlimAdamA}  # AdamW's rule; see test_slim
CASES |= {
    make.__name__: Case(make, partial(Itself, make=make, values={}))
    for make in (getattr(optim, name) for name in optim.__all__)
    if isinstance(make, type)
    and issubclass(make, FoldingOptimizer)
    and make not in WITHOUT_ROW | {case.make for case in CASES.values()}
}
all_cases = pytest.mark.parametrize("name", CASES)


def parameters(dtype: torch.dtype) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in SHAPES]


def groups_of(case: Case, params: list[nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": params[::2]}, {"params": params[1::2], **case.group}]


def pairs(case: Case, dtype: torch.dtype, **how: Any) -> tuple[Any, Any, list[Any], list[Any]]:
    """Our optimizer and its oracle, of equal parameters."""
    mine, theirs = parameters(dtype), parameters(dtype)
    optimizer = case.make(groups_of(case, mine), **{**case.values, **how})
    twins = dict(zip(mine, theirs, strict=True))
    groups = [
        {**group, "params": [twins[p] for p in group["params"] if p.numel()]}
        for group in optimizer.param_groups
    ]
    return optimizer, case.oracle(groups), mine, theirs


def train(optimizer: Any, oracle: Any, mine: list[Any], theirs: list[Any]) -> None:
    """STEPS mini-batches with a schedule. The oracle gets the mean of the micro-batches."""
    generator = torch.Generator().manual_seed(1)
    rates = [group["lr"] for group in optimizer.param_groups]
    for t in range(STEPS):
        for some in (optimizer.param_groups, oracle.param_groups):
            for group, rate in zip(some, rates, strict=True):
                group["lr"] = rate * (1 - t / STEPS)
        sums: list[Tensor | float] = [0.0] * len(mine)
        for _ in range(n := optimizer.micro_batches):
            for i, p in enumerate(mine):
                grad = torch.randn(p.shape, generator=generator).to(p.dtype)
                optimizer.absorb(p, grad)
                sums[i] = sums[i] + grad.to(torch.promote_types(p.dtype, torch.float32))
        for q, total in zip(theirs, sums, strict=True):
            q.grad = (total / n).to(q.dtype)
        optimizer.step()
        oracle.step()
