"""AdamA in mode release against torch's AdamW, bit for bit; shapes, layouts, memory."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import roam
from roam.bench.zoo import TINY, loss
from roam.core.errors import HyperparameterError
from roam.optim import AdamA, SlimAdamA
from roam.optim.blocks import alike, block_size, blocks
from tests.helpers import assert_equal, real_models
from tests.optim.reference import (
    GOOD,
    Reference,
    backward,
    batches,
    close,
    mlp,
    same_parameters,
    twin,
)

SCALARS = 128  # bytes that numbers take where an operator wants a tensor


@real_models
def test_release_is_adamw_bit_for_bit(name: str) -> None:
    """50 steps, each parameter after each of them, losses included."""
    entry = TINY[name]
    models = (entry.build(), entry.build())
    optimizers = (
        AdamA(models[0].parameters(), lr=1e-3),
        torch.optim.AdamW(models[1].parameters(), lr=1e-3, fused=True),
    )
    generator = torch.Generator().manual_seed(7)
    for _ in range(50):
        batch = entry.make_batch(generator)
        losses = []
        for model, optimizer in zip(models, optimizers, strict=True):
            torch.manual_seed(3)  # dropout
            losses.append(loss(model, batch))
            losses[-1].backward()
            optimizer.step()
            optimizer.zero_grad()
        assert torch.equal(*losses)
        same_parameters(*models)
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        for key in ("exp_avg", "exp_avg_sq", "step"):
            assert torch.equal(optimizers[0].state[p][key], optimizers[1].state[q][key])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_release_is_adamw_in_every_dtype(dtype: torch.dtype) -> None:
    start = torch.randn(7, 33).to(dtype)
    a, b = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    mine = AdamA([a], **GOOD)
    theirs = torch.optim.AdamW([b], fused=True, **GOOD)
    for _ in range(5):
        grad = torch.randn(7, 33).to(dtype)
        (a * grad).sum().backward()
        b.grad = grad.clone()
        mine.step()
        theirs.step()
        assert torch.equal(a, b)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (1, 5), (5, 1)])
@pytest.mark.parametrize("mode", ["release", "accumulate"])
def test_odd_shapes(shape: tuple[int, ...], mode: Any) -> None:
    p = nn.Parameter(torch.ones(shape, dtype=torch.float64))
    reference = Reference(p, **GOOD)
    optimizer = AdamA([p], mode=mode, **GOOD)
    for _ in range(3):
        (p * 3).sum().backward()
        optimizer.step()
        reference.step([torch.full(shape, 3.0, dtype=torch.float64)])
    assert close(p, reference.param)


def test_channels_last_is_adamw_bit_for_bit() -> None:
    """State as the parameter lies, which the fused kernel takes for granted."""
    torch.manual_seed(0)
    a = nn.Conv2d(3, 8, 3)
    a.weight.data = a.weight.data.to(memory_format=torch.channels_last)
    b = twin(a)
    mine, theirs = (
        AdamA(a.parameters(), **GOOD),
        torch.optim.AdamW(b.parameters(), fused=True, **GOOD),
    )
    for _ in range(3):
        x = torch.randn(2, 3, 9, 9)
        for model, optimizer in ((a, mine), (b, theirs)):
            backward(model, x)
            optimizer.step()
            optimizer.zero_grad()
    same_parameters(a, b)
    assert mine.state_of(a.weight)["exp_avg_sq"].stride() == a.weight.stride() == (27, 1, 9, 3)


def test_a_gradient_in_another_layout_is_the_same_gradient() -> None:
    """A graph may make the transpose of what is wanted; the fused kernel looks at no strides."""
    start, grad = torch.randn(8, 5), torch.randn(5, 8).t()
    a, b = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    one, two = AdamA([a]), AdamA([b])
    one.absorb(a, grad)
    two.absorb(b, grad.contiguous())
    assert torch.equal(a, b)


def test_a_parameter_with_gaps_is_updated_all_the_same() -> None:
    storage = torch.randn(8, 10, dtype=torch.float64)
    p = nn.Parameter(storage[:, ::2])
    assert not alike(p)
    reference = Reference(p, **GOOD)
    grad = torch.randn(8, 5, dtype=torch.float64)
    optimizer = AdamA([p], **GOOD)
    for _ in range(3):
        optimizer.absorb(p, grad)
        optimizer.step()
        reference.step([grad])
    assert close(p, reference.param)


@pytest.mark.parametrize("mode", ["release", "accumulate"])
def test_complex_parameters_are_pairs_of_real_ones(mode: Any) -> None:
    torch.manual_seed(0)
    start = torch.randn(4, 3, dtype=torch.complex128)
    a, b = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    mine, theirs = AdamA([a], mode=mode, **GOOD), torch.optim.AdamW([b], foreach=False, **GOOD)
    factor = torch.randn(4, 3, dtype=torch.complex128)
    for _ in range(4):
        for p, optimizer in ((a, mine), (b, theirs)):
            (p * factor).abs().square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert close(torch.view_as_real(a.detach()), torch.view_as_real(b.detach()))
    assert mine.state_of(a)["exp_avg_sq"].dtype == torch.complex128


def test_a_conjugated_gradient_is_resolved() -> None:
    a, b = (nn.Parameter(torch.ones(3, dtype=torch.complex64)) for _ in range(2))
    grad = torch.randn(3, dtype=torch.complex64)
    one, two = AdamA([a]), AdamA([b])
    one.absorb(a, grad.conj())
    two.absorb(b, grad.conj().resolve_conj())
    assert torch.equal(a, b)


@pytest.mark.parametrize("rules", [None, {"p": (0,)}])
def test_half_precision_updates_are_summed_in_float32(rules: dict[str, tuple[int, ...]]) -> None:
    """90,000 squares of 1 are more than float16 has."""
    p = nn.Parameter(torch.zeros(300, 300, dtype=torch.float16))
    how: dict[str, Any] = {"lr": 1.0, "betas": (0.0, 0.999), "eps": 1e-4, "update_clip": 0.5}
    optimizer = AdamA([p], **how) if rules is None else SlimAdamA([("p", p)], rules, **how)
    optimizer.absorb(p, torch.ones_like(p))
    assert torch.allclose(p, torch.full_like(p, -0.5), rtol=1e-2)


@pytest.mark.parametrize("how", [{}, {"mode": "accumulate", "micro_batches": 2}])
def test_large_parameters_are_updated_in_blocks(how: dict[str, Any]) -> None:
    """The same as at once, and nothing as large as the parameter is allocated."""
    p = nn.Parameter(torch.randn(3, block_size(torch.empty(())), dtype=torch.float64).t())
    reference = Reference(p, update_clip=0.1, **GOOD)
    optimizer = AdamA([p], update_clip=0.1, **how, **GOOD)
    grad = torch.randn(p.shape[::-1], dtype=torch.float64).t()
    optimizer.state_of(p)

    def step() -> None:
        for _ in range(optimizer.micro_batches):
            optimizer.absorb(p, grad)
        optimizer.step()

    found = roam.measure_peak(step)
    reference.step([grad] * optimizer.micro_batches)
    assert close(p, reference.param)
    assert found.peak < p.nbytes
    if optimizer.writes_parameters:
        assert 0 <= found.peak - optimizer.scratch(p, grad) < SCALARS
    else:
        assert optimizer.scratch(p, grad) == 0


@pytest.mark.parametrize("size", [32, 64])
def test_a_release_allocates_nothing_but_what_another_layout_takes(size: int) -> None:
    p, grad = nn.Parameter(torch.randn(size, size)), torch.randn(size, size)
    optimizer = AdamA([p])
    optimizer.state_of(p)
    for layout in (grad, grad.t()):
        found = roam.measure_peak(partial(optimizer.absorb, p, layout)).peak
        assert 0 <= found - optimizer.scratch(p, layout) < SCALARS
        optimizer.step()
    assert optimizer.scratch(p, grad) == 0


def test_a_fold_allocates_nothing() -> None:
    p = nn.Parameter(torch.randn(64, 64))
    optimizer, grad = AdamA([p], mode="accumulate", micro_batches=2), torch.randn(64, 64)
    optimizer.state_of(p)
    assert roam.measure_peak(lambda: optimizer.absorb(p, grad)).peak < SCALARS


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4).flatmap(
        lambda shape: st.tuples(st.just(shape), st.permutations(range(len(shape))))
    )
)
def test_blocks_are_all_of_a_tensor(case: tuple[list[int], list[int]]) -> None:
    shape, order = case
    tensor = torch.arange(math.prod(shape)).view(shape).permute(order)
    other = torch.zeros_like(tensor)
    assert alike(tensor, other)
    for a, b in blocks(tensor, other):
        b.copy_(a)
    assert torch.equal(tensor, other)


@pytest.mark.parametrize(
    "bad",
    [
        {"lr": -1.0},
        {"betas": (1.0, 0.9)},
        {"betas": (0.9, -0.1)},
        {"eps": -1e-8},
        {"weight_decay": -0.1},
        {"update_clip": 0.0},
        {"mode": "realise"},
        {"micro_batches": 2},
        {"micro_batches": 0, "mode": "accumulate"},
    ],
)
def test_values_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(HyperparameterError, match=r"|".join(k for k in bad)):
        AdamA(mlp().parameters(), **bad)


def test_a_learning_rate_may_be_a_tensor() -> None:
    a = mlp()
    b = twin(a)
    one = AdamA(a.parameters(), lr=torch.tensor(1e-2))
    two = AdamA(b.parameters(), lr=float(torch.tensor(1e-2)))
    for x in batches(2):
        for model, optimizer in ((a, one), (b, two)):
            backward(model, x)
            optimizer.step()
    same_parameters(a, b)


def test_several_gradients_at_once_are_each_as_alone() -> None:
    shapes = ((3, 4), (5,), (2, 3, 2), (4, 4))
    trained = []
    for together in (True, False):
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(s, dtype=torch.float64)) for s in shapes]
        params[1] = nn.Parameter(torch.randn(5, dtype=torch.float32))
        optimizer = AdamA([{"params": params[:3]}, {"params": params[3:], "lr": 0.5}])
        for _ in range(3):
            found = [(p, torch.randn_like(p)) for p in params]
            found[3] = (params[3], found[3][1].t())  # in another layout
            for some in [found] if together else [[one] for one in found]:
                optimizer.absorb_all(some)
            optimizer.step()
        trained.append(params)
    assert_equal(trained[0], trained[1])
