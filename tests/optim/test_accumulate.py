"""AdamA in mode accumulate against its formulas in float64, and the bounds of its docstring."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from roam.bench.zoo import TINY
from roam.bench.zoo import loss as zoo_loss
from roam.optim import AdamA
from tests.helpers import real_models
from tests.optim.reference import GOOD, Reference, backward, batches, close, mini_batches, mlp, twin

COUNTS = (2, 4, 8)


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("how", [{}, {"batch_invariant": True}, {"update_clip": 0.5}])
def test_accumulate_is_its_formulas(n: int, how: dict[str, Any]) -> None:
    model = mlp(torch.float64)
    clip, invariant = how.get("update_clip"), how.get("batch_invariant", False)
    references = {
        name: Reference(p, invariant=invariant, update_clip=clip, **GOOD)
        for name, p in model.named_parameters()
    }
    optimizer = AdamA(model.parameters(), mode="accumulate", micro_batches=n, **how, **GOOD)
    for grads in mini_batches(model, optimizer, n):
        for name, p in model.named_parameters():
            r = references[name]
            r.step([g[name] for g in grads])
            state = optimizer.state_of(p)
            assert close(state["exp_avg"], r.m)
            assert close(state["exp_avg_sq"], r.v)
            assert close(p, r.param)


@pytest.mark.parametrize("n", COUNTS)
def test_m_is_adams_of_the_whole_mini_batch(n: int) -> None:
    a = mlp(torch.float64)
    b = twin(a)
    mine = AdamA(a.parameters(), mode="accumulate", micro_batches=n, lr=0.0, weight_decay=0.0)
    theirs = torch.optim.AdamW(b.parameters(), lr=0.0, weight_decay=0.0)
    data = batches(3 * n, torch.float64)
    for i in range(0, len(data), n):
        for x in data[i : i + n]:
            backward(a, x)
        backward(b, torch.cat(data[i : i + n]))
        mine.step()
        theirs.step()
        theirs.zero_grad()
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert close(mine.state_of(p)["exp_avg"], theirs.state[q]["exp_avg"])


def test_one_micro_batch_is_release() -> None:
    a = mlp(torch.float64)
    b = twin(a)
    one, two = AdamA(a.parameters(), **GOOD), AdamA(b.parameters(), mode="accumulate", **GOOD)
    for x in batches(10, torch.float64):
        for model, optimizer in ((a, one), (b, two)):
            backward(model, x)
            optimizer.step()
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert close(p, q)


@given(
    st.integers(1, 8).flatmap(
        lambda n: st.lists(
            st.lists(st.floats(-1, 1, width=32), min_size=n, max_size=n), min_size=1, max_size=5
        )
    )
)
def test_the_bounds_of_the_docstring(grads: list[list[float]]) -> None:
    """A first step is at most √N times Adam's; with batch_invariant it is not longer than it."""
    each = [torch.tensor(g, dtype=torch.float64) for g in zip(*grads, strict=True)]
    n = len(each)
    steps = {}
    for name, invariant in (("sum", False), ("invariant", True)):
        p = nn.Parameter(torch.zeros(len(grads), dtype=torch.float64))
        optimizer = AdamA(
            [p], lr=1, eps=0, weight_decay=0, mode="accumulate", micro_batches=n,
            batch_invariant=invariant,
        )  # fmt: skip
        for g in each:
            optimizer.absorb(p, g)
        optimizer.step()
        steps[name] = p.detach().nan_to_num().abs()
    adam = torch.stack(each).sum(0).ne(0).double()  # a first step is lr, or nothing
    assert (steps["sum"] <= math.sqrt(n) * adam + 1e-9).all()
    assert (steps["invariant"] <= adam + 1e-9).all()
    assert close(steps["invariant"] * math.sqrt(n), steps["sum"])


def test_where_micro_batches_agree_the_step_is_root_n_times_adams() -> None:
    p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = AdamA([p], lr=1, eps=0, weight_decay=0, mode="accumulate", micro_batches=4)
    for _ in range(4):
        optimizer.absorb(p, torch.ones_like(p))
    optimizer.step()
    assert close(p, torch.full_like(p, -2.0))


@real_models
@pytest.mark.parametrize("n", COUNTS)
def test_real_models_follow_the_formulas(name: str, n: int) -> None:
    entry = TINY[name]
    model = entry.build().double()
    references = {name: Reference(p, **GOOD) for name, p in model.named_parameters()}
    optimizer = AdamA(model.named_parameters(), mode="accumulate", micro_batches=n, **GOOD)
    generator = torch.Generator().manual_seed(7)
    for step in range(2):
        grads = []
        for i in range(n):
            batch = entry.make_batch(generator)
            batch = {k: t.double() if t.is_floating_point() else t for k, t in batch.items()}
            for own in (True, False):
                torch.manual_seed(100 * step + i)  # dropout
                found = zoo_loss(model, batch)
                if own:
                    found.backward()
                else:
                    grads.append(torch.autograd.grad(found, list(model.parameters())))
        optimizer.step()
        for p, r, each in zip(
            model.parameters(), references.values(), zip(*grads, strict=True), strict=True
        ):
            r.step(each)
            assert close(optimizer.state_of(p)["exp_avg_sq"], r.v)
            assert close(p, r.param)
