"""Values of groups that change what states there are, changed while training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roam
from roam import optim
from roam.core.errors import HyperparameterError, MidBatchError
from roam.optim.folding import FoldingOptimizer
from tests.helpers import unfused
from tests.optim.cases import CASES, Case, all_cases, groups_of, parameters
from tests.optim.reference import backward, batches, mlp, same_parameters
from tests.runtime.faults import on_disk

OTHERS: dict[str, tuple[Any, ...]] = {  # of each value, all that it may become
    "lr": (0.0, torch.tensor(1e-3)),
    "weight_decay": (0.0, 0.3),
    "momentum": (0.0, 0.5),
    "dampening": (0.0, 0.5),
    "nesterov": (False, True),
    "betas": ((0.0, 0.0), (0.5, 0.6), (0.5, 0.6, 0.7)),
    "eps": (0.0, 1e-3, (None, 1e-2), (1e-20, 1e-3)),
    "update_clip": (None, 1.0),
    "batch_invariant": (True, False),
    "state_dtype": (None, "int8"),
    "weight_remainder": (True, False),
    "rank": (1, 3, 200),
    "update_proj_gap": (1, 5),
    "scale": (0.5, 3.0),
    "norm": ("Sign", "Auto", "BiasRMS"),
    "unconstrained": (True, False),
    "ns_steps": (1, 6),
    "ns_coefficients": ((2.0, -1.5, 0.5),),
    "adjust_lr_fn": (None, "original", "match_rms_adamw"),
    "beta2_decay": (0.0, -0.5),
    "decay_rate": (0.0, -0.5),
    "d": (1.0, 2.0),
    "clip_threshold": (1.0, 0.1),
    "rule": ("AdamW", "SGD", "Lion", "CAME"),
}


def fold(optimizer: FoldingOptimizer, params: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        optimizer.absorb(p, torch.randn(p.shape, generator=generator).to(p.dtype))
    optimizer.step()


def refusal(optimizer: FoldingOptimizer, params: list[nn.Parameter]) -> str | None:
    try:
        fold(optimizer, params, 2)
    except HyperparameterError as error:
        return str(error)
    return None


@all_cases
def test_any_value_may_change_or_is_refused(name: str) -> None:
    """Before a gradient is folded, by an error that names the group."""
    case = CASES[name]
    for value in (*case.make(parameters(torch.float32), **case.values).defaults, "rule"):
        for other in OTHERS[value]:
            params = parameters(torch.bfloat16)
            optimizer = case.make(groups_of(case, params), **case.values)
            fold(optimizer, params, 1)
            before = [p.detach().clone() for p in params]
            optimizer.param_groups[1][value] = other
            if (refused := refusal(optimizer, params)) is not None:
                assert "group 1" in refused
                assert all(map(torch.equal, params, before))
                continue
            fold(optimizer, params, 3)
            for p in params:
                has = {k for k in optimizer.state[p] if k != "step"}
                assert has == {spec.name for spec in optimizer.states_of(p)}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_momentum_that_comes_later_is_torchs(compiled: bool) -> None:
    """By its bits, and in the plan: the compiled backward is planned with the new state."""
    torch._dynamo.reset()
    models = mlp(), mlp()
    values: dict[str, Any] = {"lr": 0.1, "dampening": 0.3, "weight_decay": 0.1}
    mine = optim.SGD(models[0].parameters(), **values)
    theirs = torch.optim.SGD(models[1].parameters(), **values, fused=True)
    run = unfused(models[0], optimizer=mine) if compiled else models[0]
    for t, x in enumerate(batches(5)):
        if t == 2:
            mine.param_groups[0]["momentum"] = theirs.param_groups[0]["momentum"] = 0.9
        for model, optimizer in ((run, mine), (models[1], theirs)):
            backward(model, x)
            optimizer.step()
        models[1].zero_grad()
    same_parameters(*models)
    if compiled:
        problem = roam.report().graphs[-1].problem
        assert problem is not None
        assert any("momentum_buffer" in buffer.name for buffer in problem.buffers)


def test_a_momentum_that_comes_later_lies_in_the_file(tmp_path: Any) -> None:
    torch._dynamo.reset()
    models = mlp(), mlp()
    optimizers = [optim.SGD(model.parameters(), lr=0.1) for model in models]
    folder = roam.OffloadTo(str(on_disk(tmp_path)), write=1e9, read=1e9, smallest=64)
    run = unfused(models[0], optimizer=optimizers[0], offload={"states": folder})
    for t, x in enumerate(batches(6)):
        for model, optimizer in ((run, optimizers[0]), (models[1], optimizers[1])):
            if t in (2, 4):
                optimizer.param_groups[0]["momentum"] = 0.9 if t == 2 else 0.0
            backward(model, x)
            optimizer.step()
    same_parameters(*models)


def test_a_rule_that_a_group_names_later_begins_anew() -> None:
    params = [nn.Parameter(torch.ones(4, 3)) for _ in range(2)]
    optimizer = optim.SGD([params[0]], lr=0.1, momentum=0.9)
    fold(optimizer, [params[0]], 0)
    params[1].data.copy_(params[0])
    optimizer.param_groups[0]["rule"] = "AdamW"
    other = optim.AdamW([params[1]], lr=0.1, weight_decay=0.0)
    for seed in (1, 2):
        fold(optimizer, [params[0]], seed)
        fold(other, [params[1]], seed)
    assert torch.equal(*params)


def test_states_that_hold_folded_gradients_do_not_change() -> None:
    p, grad = nn.Parameter(torch.ones(8, 6)), torch.ones(8, 6)
    optimizer = optim.Lion([p], betas=(0.9, 0.9), mode="accumulate", micro_batches=2)
    optimizer.absorb(p, grad)
    optimizer.param_groups[0]["rule"] = "AdamW"
    with pytest.raises(MidBatchError, match="group 0"):
        optimizer.absorb(p, grad)
    del optimizer.param_groups[0]["rule"]
    optimizer.absorb(p, grad)
    optimizer.step()


def test_max_norm_may_change() -> None:
    """The first step with it has no norm of a step before."""
    p = nn.Parameter(torch.zeros(4))
    optimizer = optim.SGD([p], lr=1.0)
    found: list[Tensor] = []
    for limit in (None, 1.0, 1.0, None):
        optimizer.max_norm = limit
        before = p.detach().clone()
        optimizer.absorb(p, torch.full((4,), 2.0))
        optimizer.step()
        found.append((p - before).norm().detach())
    assert torch.allclose(torch.stack(found), torch.tensor([4.0, 4.0, 1.0, 4.0]))
    optimizer.absorb(p, torch.ones(4))
    with pytest.raises(MidBatchError, match="max_norm"):
        optimizer.max_norm = 2.0
    with pytest.raises(AttributeError, match="mode"):
        optimizer.mode = "accumulate"  # type: ignore[misc]


def test_a_state_dict_without_momentum_leaves_none() -> None:
    """What it says of a group counts, until the user says otherwise."""
    params = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    plain, other = optim.SGD([params[0]], lr=0.1), optim.SGD([params[1]], lr=0.1, momentum=0.9)
    fold(plain, [params[0]], 1)
    fold(other, [params[1]], 1)
    other.load_state_dict(plain.state_dict())
    fold(other, [params[1]], 2)
    other.param_groups[0]["momentum"] = 0.9
    fold(other, [params[1]], 3)
    assert other.state[params[1]]["momentum_buffer"].norm() > 0


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Muon"])
def test_a_group_added_after_compiling_is_folded(name: str) -> None:
    torch._dynamo.reset()
    case: Case = CASES[name]
    models = mlp(), mlp()
    for model in models:
        first, last = [*model[0].parameters()], [*model[2].parameters()]
        optimizer = case.make(first, **case.values)
        run = unfused(model, optimizer=optimizer) if model is models[0] else model
        for t, x in enumerate(batches(4)):
            if t == 2:
                how = {"rule": "AdamW"} if name == "Muon" else {}
                optimizer.add_param_group({"params": last, "lr": 0.05, **how})
            backward(run, x)
            if t < 2:
                model[2].zero_grad()
            assert t < 2 or all(p.grad is None for p in last)
            optimizer.step()
    same_parameters(*models)
