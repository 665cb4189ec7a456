"""Every optimizer against its oracle, over odd shapes; its constructor and its refusals."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from roam import optim
from roam.core.errors import HyperparameterError
from roam.optim.fold import AccumulatingRule
from tests.optim.cases import CASES, NEAR, Case, all_cases, pairs, parameters, train


@pytest.mark.parametrize("name", [name for name in CASES if name not in NEAR])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_release_is_its_oracle(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    optimizer, oracle, mine, theirs = pairs(case, dtype)
    train(optimizer, oracle, mine, theirs)
    for p, q in zip(mine, theirs, strict=True):
        if case.bits and (dtype is torch.float32 or case.make is not optim.SGD):
            assert torch.equal(p, q), p.shape
        else:
            far = 1e-4 if dtype is torch.float32 else 0.1
            assert torch.allclose(p, q, rtol=far, atol=far * 0.1), p.shape


@pytest.mark.parametrize(
    "name", [name for name, c in CASES.items() if c.summed is not None and name not in NEAR]
)
def test_accumulation_is_its_oracle_of_the_mean_gradient(name: str) -> None:
    case = CASES[name]
    optimizer, oracle, mine, theirs = pairs(
        case, torch.float32, mode="accumulate", micro_batches=4, **(case.summed or {})
    )
    train(optimizer, oracle, mine, theirs)
    far = 3e-2 if name == "Scion" else 1e-4  # it iterates in bfloat16
    wrong = [
        (p - q).abs().gt(far * (1 + q.abs())).float().mean().nan_to_num()
        for p, q in zip(mine, theirs, strict=True)
    ]
    assert max(wrong) <= 0.1  # a sign of almost nothing may be another
    assert all(p.isfinite().all() for p in mine)


@all_cases
def test_what_cannot_accumulate_says_why(name: str) -> None:
    case = CASES[name]
    optimizer, *_ = pairs(case, torch.float32)
    rules = [optimizer.rule_of(p) for p in parameters(torch.float32)[:0]] or [
        optimizer.rule_of(p) for _, p in optimizer.named()
    ]
    for reason in {rule.release_only for rule in rules} - {""}:
        with pytest.raises(HyperparameterError, match="cannot accumulate") as caught:
            pairs(case, torch.float32, mode="accumulate", micro_batches=2)
        assert reason in str(caught.value)
    assert all(isinstance(rule, AccumulatingRule) or rule.release_only for rule in rules)


def test_constructors_show_their_arguments() -> None:
    names = [*inspect.signature(optim.Lion).parameters]
    assert names[:5] == ["params", "lr", "betas", "weight_decay", "mode"]
    with pytest.raises(TypeError, match="beta"):
        optim.Lion([nn.Parameter(torch.ones(1))], beta=0.9)


@pytest.mark.parametrize("case", [c for c in CASES.values() if "lr" in c.values])
def test_a_rate_below_nothing_is_refused(case: Case) -> None:
    with pytest.raises(HyperparameterError, match="lr=-1"):
        case.make(parameters(torch.float32), lr=-1.0)


BY_ROWS = [(name, "release") for name in CASES] + [
    (name, "accumulate") for name, case in CASES.items() if case.summed is not None
]


@pytest.mark.parametrize(("name", "mode"), BY_ROWS)
def test_rows_that_are_folded_one_after_another_are_those_of_the_whole(
    name: str, mode: str
) -> None:
    """Every rule that says it works by rows does."""
    case = CASES[name]
    batches = 1 if mode == "release" else 2
    how = {} if mode == "release" else {"mode": mode, "micro_batches": 2, **(case.summed or {})}
    optimizer, _, mine, _ = pairs(case, torch.float32, **how)
    other, _, whole, _ = pairs(case, torch.float32, **how)
    given = [(p, q) for p, q in zip(mine, whole, strict=True) if p.dim() > 0 and len(p) > 1]
    by_rows = [(p, q) for p, q in given if optimizer.rule_of(p).by_rows(p)]
    assert bool(by_rows) == any(optimizer.rule_of(p).elementwise for p, _ in given)
    for turn in range(4):
        for p, q in by_rows:
            gradient = torch.randn_like(p, generator=torch.Generator().manual_seed(turn))
            optimizer.absorb_rows(p, gradient[2:], 2)  # in any order
            optimizer.absorb_rows(p, gradient[:2], 0)
            other.absorb(q, gradient)
        if (turn + 1) % batches == 0:
            optimizer.step()
            other.step()
    for p, q in by_rows:
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
        assert optimizer.state[p]["step"] == other.state[q]["step"]
