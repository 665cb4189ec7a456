"""States of every optimizer: saved, loaded, kept in a file, of torch's optimizer and given back."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import roam
from roam.core.errors import StateMismatchError
from roam.runtime.stored_tensor import StoredTensor
from tests.optim.cases import CASES, all_cases, pairs, train
from tests.runtime.faults import on_disk


@all_cases
def test_a_checkpoint_changes_nothing(name: str) -> None:
    case = CASES[name]
    dtype = torch.bfloat16  # torch casts what it loads to the parameter's dtype
    optimizer, oracle, mine, theirs = pairs(case, dtype)
    train(optimizer, oracle, mine, theirs)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed, _, own, _ = pairs(case, dtype)
    for p, q in zip(own, mine, strict=True):
        p.data.copy_(q)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for q in mine:
        grad = torch.ones_like(q)
        optimizer.absorb(q, grad)
    for p in own:
        resumed.absorb(p, torch.ones_like(p))
    for p, q in zip(own, mine, strict=True):
        assert torch.equal(p, q)
        for key, value in optimizer.state[q].items():
            assert torch.equal(resumed.state[p][key], value)
            assert resumed.state[p][key].dtype == value.dtype


@all_cases
def test_a_state_dict_of_something_else_names_the_key(name: str) -> None:
    case = CASES[name]
    optimizer, *_ = pairs(case, torch.float32)
    _, p = next(iter(optimizer.named()))
    wanted = optimizer.spec(p)[0].name
    saved = optimizer.state_dict()
    saved["state"] = {0: {"other": torch.zeros(p.shape), "step": torch.ones(())}}
    if wanted == "step":
        return  # there is no state that could be missing
    with pytest.raises(StateMismatchError, match=wanted):
        optimizer.load_state_dict(saved)


@all_cases
def test_states_in_a_file_have_the_same_bits(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    there, _, stored, _ = pairs(case, torch.float32)
    here, _, mine, _ = pairs(case, torch.float32)
    there.keep_states_in(roam.OffloadTo(str(on_disk(tmp_path)), write=1e9, smallest=64))
    for step in range(3):
        for params, optimizer in ((stored, there), (mine, here)):
            generator = torch.Generator().manual_seed(step)
            for p in params:
                optimizer.absorb(p, torch.randn(p.shape, generator=generator))
            optimizer.step()
    assert all(map(torch.equal, stored, mine))
    if any(spec.bytes >= 64 for p in mine for spec in here.spec(p)):
        assert any(isinstance(x, StoredTensor) for s in there.state.values() for x in s.values())


SUMMED = [name for name, case in CASES.items() if case.summed is not None]


@pytest.mark.parametrize("name", [*SUMMED, "GaLore", "AdamW, 8 bits"])
def test_states_in_a_file_that_a_mini_batch_ends_with(name: str, tmp_path: Path) -> None:
    """What the update of a mini-batch changes is written back: GaLore's moments, remainders."""
    case = CASES[name]
    how = {**(case.summed or {}), "mode": "accumulate", "micro_batches": 2}
    dtype = torch.bfloat16 if "8 bits" in name else torch.float32
    there, _, stored, _ = pairs(case, dtype, **how)
    here, _, mine, _ = pairs(case, dtype, **how)
    there.keep_states_in(roam.OffloadTo(str(on_disk(tmp_path)), write=1e9, smallest=32))
    for step in range(6):
        for params, optimizer in ((stored, there), (mine, here)):
            generator = torch.Generator().manual_seed(step)
            for p in params:
                optimizer.absorb(p, torch.randn(p.shape, generator=generator).to(p.dtype))
            if step % 2:
                optimizer.step()
    assert all(map(torch.equal, stored, mine))
    for p, q in zip(stored, mine, strict=True):
        for key, x in there.state[p].items():
            value = x.load() if isinstance(x, StoredTensor) else x
            assert torch.equal(value, here.state[q][key]), key


@pytest.mark.parametrize("name", ["SGD", "SGD, nesterov", "Adafactor", "Muon"])
def test_a_run_of_torchs_is_taken_up_and_given_back(name: str) -> None:
    case = CASES[name]
    make: Any = getattr(torch.optim, case.make.__name__)
    shapes = [(6, 8), (9, 2)] if name == "Muon" else [(6, 8), (5,)]
    params = [[nn.Parameter(torch.ones(s)) for s in shapes] for _ in range(2)]
    mine, theirs = case.make(params[0], **case.values), make(params[1], **case.values)
    for step in range(6):
        if step == 2:
            mine.load_state_dict(copy.deepcopy(theirs.state_dict()))
        if step == 4:
            theirs = make(params[1], **case.values)
            theirs.load_state_dict(copy.deepcopy(mine.state_dict()))
        generator = torch.Generator().manual_seed(step)
        for p, q in zip(*params, strict=True):
            q.grad = torch.randn(q.shape, generator=generator)
            if step >= 2:
                mine.absorb(p, q.grad)
        mine.step()
        theirs.step()
        if step == 1:
            for p, q in zip(*params, strict=True):
                p.data.copy_(q)
    for p, q in zip(*params, strict=True):
        assert torch.allclose(p, q, rtol=1e-5, atol=1e-6)
