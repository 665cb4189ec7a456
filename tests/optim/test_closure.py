"""`step(closure)`: called once, before the update, as torch.optim calls it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import roam
from roam.core.errors import SecondBackwardError
from roam.optim import AdamA, SlimAdamA
from tests.helpers import unfused
from tests.optim.reference import (
    ACCUMULATE,
    backward,
    batches,
    loss,
    mlp,
    same_parameters,
    twin,
)

Step = Callable[[Tensor], Any]


def with_closure(model: nn.Module, optimizer: Optimizer) -> Step:
    """As PyTorch's documentation, Lightning, fabric and skorch write it."""

    def step(x: Tensor) -> Any:
        def closure() -> Tensor:
            optimizer.zero_grad()
            found = loss(model, x)
            found.backward()
            return found.detach()

        return optimizer.step(closure)

    return step


WAYS: dict[str, Callable[[nn.Module, AdamA], Step]] = {
    "eager": with_closure,
    "compiled": lambda model, optimizer: with_closure(
        unfused(model, optimizer=optimizer), optimizer
    ),
    "compiled step": lambda model, optimizer: roam.compile_step(
        with_closure(model, optimizer), optimizer
    ),
    "compiled with its breaks": lambda model, optimizer: unfused(
        with_closure(model, optimizer), optimizer=optimizer
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_numbers_are_adamws(way: str) -> None:
    torch._dynamo.reset()
    a = mlp()
    b = twin(a)
    theirs = with_closure(b, torch.optim.AdamW(b.parameters(), lr=1e-2, fused=True))
    mine = WAYS[way](a, AdamA(a.parameters(), lr=1e-2))
    for x in batches(4):
        # as in torch.optim, gradients are switched on for the closure
        with torch.set_grad_enabled(way != "eager"):
            assert torch.equal(mine(x), theirs(x))
    same_parameters(a, b)


def test_a_closure_after_the_backward() -> None:
    """Lightning's manual optimization passes one that does nothing."""
    a = mlp()
    b = twin(a)
    mine, theirs = AdamA(a.parameters()), torch.optim.AdamW(b.parameters(), fused=True)
    for x in batches(3):
        for model, optimizer in ((a, mine), (b, theirs)):
            backward(model, x)
            assert optimizer.step(lambda: None) is None
            optimizer.zero_grad()
    same_parameters(a, b)


def slim(model: nn.Module, **how: Any) -> SlimAdamA:
    return SlimAdamA(model.named_parameters(), {"0.weight": (1,)}, **how)


def adama(model: nn.Module, **how: Any) -> AdamA:
    return AdamA(model.parameters(), **how)


@pytest.mark.parametrize("inside", [1, 2], ids=["the last backward", "all backwards"])
@pytest.mark.parametrize("make", [adama, slim])
def test_closures_that_end_an_accumulation(make: Callable[..., Any], inside: int) -> None:
    """Lightning steps with every N-th closure only, and calls the others itself."""
    a = mlp()
    b = twin(a)
    mine, expected = make(a, **ACCUMULATE), make(b, **ACCUMULATE)
    data = batches(4)
    for pair in (data[:2], data[2:]):
        for x in pair[: 2 - inside]:
            backward(a, x)

        def closure(rest: list[Tensor] = pair[2 - inside :]) -> None:
            for x in rest:
                backward(a, x)

        mine.step(closure)
        for x in pair:
            backward(b, x)
        expected.step()
    same_parameters(a, b)


def test_a_closure_whose_backward_is_the_second() -> None:
    """It is refused before it changes a weight. The mini-batch goes on without it."""
    a = mlp()
    b = twin(a)
    first, second = batches(2)
    mine, expected = AdamA(a.named_parameters()), AdamA(b.named_parameters())
    for model in (a, b):
        backward(model, first)
    with pytest.raises(SecondBackwardError, match=r"2\.bias.*accumulate"):
        mine.step(lambda: backward(a, second))
    same_parameters(a, b)
    for optimizer in (mine, expected):
        optimizer.step()
    same_parameters(a, b)
    assert all(state["step"] == 1 for state in mine.state.values())


def test_a_closure_that_raises_ends_no_mini_batch() -> None:
    model = mlp()
    optimizer = AdamA(model.parameters())
    backward(model, batches(1)[0])
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    with pytest.raises(SecondBackwardError):
        backward(model, batches(1)[0])
    assert optimizer.step(lambda: 2.0) == 2.0
