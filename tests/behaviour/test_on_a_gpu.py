"""What a GPU does to a plan: `-m gpu` where there is one; the slow tier runs it on a CPU, too."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roam
from roam.bench.zoo import TINY, loss
from roam.optim import AdamA
from tests.helpers import assert_counts, assert_equal, measured_as_planned

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
lowerings = pytest.mark.parametrize("lowering", ["aten", "inductor"])
STEPS = 3


@pytest.fixture(
    params=[
        pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU]),
        pytest.param("cpu", marks=pytest.mark.slow),
    ]
)
def device(request: pytest.FixtureRequest) -> str:
    where: str = request.param
    return where


def gpt2(device: str) -> tuple[nn.Module, dict[str, Tensor]]:
    model = TINY["gpt2"].build().to(device)
    return model, {name: value.to(device) for name, value in TINY["gpt2"].batch().items()}


def trained(
    model: nn.Module, batch: dict[str, Tensor], run: Callable[..., Tensor], optimizer: Any
) -> list[Tensor]:
    """The losses of a few steps, with the same random numbers every time, and the weights."""
    losses = []
    for step in range(STEPS):
        torch.manual_seed(step)
        value = run(model, batch)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(value.detach())
    return [*losses, *(p.detach() for p in model.parameters())]


def compiled(**options: Any) -> Callable[..., Tensor]:
    torch._dynamo.reset()
    roam.reset_report()
    return torch.compile(loss, backend="roam", options=options)


@lowerings
def test_a_step_takes_what_was_planned(device: str, lowering: str) -> None:
    model, batch = gpt2(device)
    run = compiled(lowering=lowering)

    def step() -> None:
        run(model, batch).backward()
        model.zero_grad(set_to_none=True)

    if device == "cpu":
        measured_as_planned(step)
        return
    measured = roam.measure_peak(step, device, warm_up=step).peak  # rounded to 512 bytes a tensor
    planned = roam.report().step.peak
    assert planned is not None
    assert planned <= measured <= 1.01 * planned


def test_the_bits_are_those_of_aot_eager(device: str) -> None:
    model, batch = gpt2(device)
    other = copy.deepcopy(model)
    found = trained(
        model, batch, compiled(lowering="aten"), torch.optim.SGD(model.parameters(), 0.1)
    )
    assert_counts(planned=1)
    torch._dynamo.reset()
    usual = torch.compile(loss, backend="aot_eager")
    assert_equal(found, trained(other, batch, usual, torch.optim.SGD(other.parameters(), 0.1)))


@lowerings
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_folded_gradients_train_as_kept_ones(device: str, lowering: str, mode: str) -> None:
    model, batch = gpt2(device)
    other = copy.deepcopy(model)
    folding = AdamA(model.parameters(), lr=1e-3)
    usual = torch.optim.AdamW(other.parameters(), lr=1e-3, fused=True)
    run = compiled(lowering=lowering, mode=mode, optimizer=folding)
    found = trained(model, batch, run, folding)
    assert_counts(planned=1)
    assert all(p.grad is None for p in model.parameters())
    expected = trained(other, batch, compiled(lowering=lowering, mode=mode), usual)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@lowerings
def test_a_budget_is_kept(device: str, lowering: str) -> None:
    model, batch = gpt2(device)
    run = compiled(lowering=lowering, budget="75%")

    def step() -> None:
        run(model, batch).backward()
        model.zero_grad(set_to_none=True)

    measured = roam.measure_peak(step, device, warm_up=step).peak
    [graph] = roam.report().graphs
    assert graph.recomputed is not None
    assert measured <= graph.recomputed.limit
