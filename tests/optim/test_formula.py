"""Formulas, by which graphs fold gradients themselves: equal to what the optimizer's code does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from roam import optim
from roam.core.errors import SecondBackwardError
from roam.optim import AdamA, AdamMini, SlimAdamA
from roam.optim.adam_mini import Shared
from roam.optim.fold import State, Turn
from roam.optim.folding import FoldingOptimizer
from roam.optim.sgd import SGDRule
from tests.optim.cases import CASES, groups_of, parameters

STEPS = 3
SLIM = {"p0": (1,), "p1": (0,)}


def slim(groups: list[dict[str, Any]], **values: Any) -> SlimAdamA:
    params = [p for group in groups for p in group["params"]]
    return SlimAdamA([(f"p{i}", p) for i, p in enumerate(params)], SLIM, **values)


# what updates a parameter, or accumulates, by operators: all others need Python, or see below
UPDATES = ("AdamW", "SGD", "SGD, nesterov", "SGD, no momentum", "Lion", "Muon")
FOLDS = ("AdamW", "SGD", "Lion", "Muon", "Scion")
ACCUMULATES: dict[str, dict[str, Any]] = {
    "Lion": {"betas": (0.9, 0.9)},
    "Muon": {"nesterov": False},
}
Make = Callable[[list[nn.Parameter]], FoldingOptimizer]


def makes(names: Sequence[str], **how: Any) -> list[Any]:
    def make(name: str) -> Make:
        case, more = CASES[name], ACCUMULATES.get(name, {}) if how else {}
        return lambda params: case.make(groups_of(case, params), **{**case.values, **more, **how})

    return [
        *(pytest.param(make(name), id=name) for name in names),
        pytest.param(lambda params: slim([{"params": params}], lr=1e-2, **how), id="SlimAdamA"),
    ]


def absorb(optimizer: FoldingOptimizer, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
    optimizer.absorb_all([*zip(params, grads, strict=True)])


def by_formulas(
    optimizer: FoldingOptimizer, params: Sequence[Tensor], grads: Sequence[Tensor]
) -> None:
    """Folds gradients as a graph does: with numbers in a tensor, and no call of the optimizer."""
    formulas = optimizer.formulas(params)
    assert formulas is not None
    optimizer.count_folds(params)
    with torch.no_grad():
        for formula, grad in zip(formulas, grads, strict=True):
            numbers = torch.tensor(formula.numbers, dtype=torch.float64)
            formula.change(formula.param, grad, *formula.states, numbers)


@pytest.mark.parametrize(
    "make", [*makes(UPDATES), *makes(FOLDS, mode="accumulate", micro_batches=2)]
)
def test_a_formula_is_the_rule(make: Make) -> None:
    trained = []
    for fold in (absorb, by_formulas):
        generator = torch.Generator().manual_seed(1)
        params = parameters(torch.float64)
        optimizer = make(params)
        for t in range(STEPS):
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 / (1 + t)
            for _ in range(optimizer.micro_batches):
                shapes = [p.shape for p in params]
                grads = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
                fold(optimizer, params, grads)
            optimizer.step()
        states = [t for p in params for t in optimizer.state[p].values()]
        trained.append([*params, *states])
    # Muon's and Scion's iteration rounds to bfloat16
    near = 1e-2 if isinstance(optimizer, (optim.Muon, optim.Scion)) else 1e-12
    torch.testing.assert_close(*trained, rtol=near, atol=near)


@pytest.mark.parametrize("name", ["Adafactor", "CAME", "GaLore", "AdamW, 8 bits", "Scion"])
def test_the_others_need_python(name: str) -> None:
    case, params = CASES[name], parameters(torch.float32)
    optimizer = case.make(groups_of(case, params), **case.values)
    assert optimizer.formulas(params) is None
    assert not any(optimizer.state[p]["step"] for p in params)


def test_a_rule_that_changes_what_another_does_has_not_its_formula() -> None:
    """AdamMini's heads: the formula of its base class would average over the whole matrix."""
    heads = nn.Parameter(torch.zeros(8, 4))
    plain = nn.Parameter(torch.zeros(8, 4))
    rules = {"heads": Shared((1,), 2), "plain": Shared((1,))}
    named = [("heads", heads), ("plain", plain)]
    for mode in ("release", "accumulate"):
        optimizer = AdamMini(named, rules, mode=mode)
        assert optimizer.formulas([heads]) is None
        assert optimizer.formulas([plain]) is not None

    @dataclass(frozen=True)
    class Backwards(SGDRule):
        def fold(self, state: State, param: Tensor, grad: Tensor, at: Turn) -> None:
            super().fold(state, param, -grad, at)

    rule = Backwards(momentum=0.9)
    assert rule.fold_in_graph(plain, Turn(1, 0, 1.0)) is None
    assert rule.update_in_graph(plain, 1) is None


def test_no_penalty_is_none_of_infinite_weights() -> None:
    masked = nn.Parameter(torch.tensor([-math.inf, 1.0]))
    for values in ({}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}):
        by_formulas(optim.SGD([masked], **values), [masked], [torch.zeros(2)])
        assert masked.tolist() == [-math.inf, 1.0]


def test_what_was_folded_once_has_no_second_formula() -> None:
    params = [nn.Parameter(torch.zeros(3))]
    optimizer = AdamA(params)
    by_formulas(optimizer, params, [torch.ones(3)])
    with pytest.raises(SecondBackwardError):
        optimizer.formulas(params)


def test_what_needs_python_with_any_rule() -> None:
    params = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3, dtype=torch.complex64))]
    optimizer = AdamA(params)
    assert optimizer.formulas(params[:1]) is not None
    assert optimizer.formulas(params) is None  # a rule gets real views of complex tensors
    optimizer.max_norm = 1.0  # the clipping is not in the formula
    assert optimizer.formulas(params[:1]) is None
    assert AdamA(params, update_clip=1.0).formulas(params[:1]) is None
    assert optimizer.formulas([nn.Parameter(torch.zeros(3))]) is None  # another's parameter
