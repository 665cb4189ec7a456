"""What FoldingOptimizer does around a rule: hooks, counting, groups."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from roam.optim import AdamA
from tests.optim.reference import (
    ACCUMULATE,
    Reference,
    backward,
    batches,
    both_modes,
    close,
    mlp,
    same_parameters,
    schedule,
    train,
    twin,
)


@both_modes
def test_no_gradient_outlives_its_fold(how: dict[str, Any]) -> None:
    model = mlp()
    optimizer = AdamA(model.parameters(), **how)
    seen: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def note(grad: Tensor) -> None:
        alive.append(len([ref for ref in seen if ref() is not None]))
        seen.append(weakref.ref(grad))

    for p in model.parameters():
        p.register_hook(note)
    backward(model, batches(1)[0])
    assert len(alive) == 4
    assert max(alive) <= 1  # a weight and its bias come out of one node
    assert all(p.grad is None for p in model.parameters())
    assert len(optimizer.state) == 4


def test_a_schedule_is_followed() -> None:
    a = mlp()
    b = twin(a)
    mine = AdamA(a.parameters(), lr=1e-2)
    theirs = torch.optim.AdamW(b.parameters(), lr=1e-2, fused=True)
    schedules = [schedule(mine), schedule(theirs)]
    rates = set()
    for x in batches(12):
        for model, optimizer in ((a, mine), (b, theirs)):
            backward(model, x)
            optimizer.step()
            optimizer.zero_grad()
        for s in schedules:
            s.step()
        rates.add(mine.param_groups[0]["lr"])
    same_parameters(a, b)
    assert len(rates) > 10


def test_groups_have_their_own_values() -> None:
    a = mlp()
    b = twin(a)

    def groups(model: nn.Sequential) -> list[dict[str, Any]]:
        return [
            {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.5},
            {"params": [p for p in model.parameters() if p.dim() < 2], "lr": 1e-1},
        ]

    mine, theirs = AdamA(groups(a)), torch.optim.AdamW(groups(b), fused=True)
    for i, x in enumerate(batches(6)):
        mine.param_groups[0]["betas"] = theirs.param_groups[0]["betas"] = (0.5, 0.9 + i / 100)
        for model, optimizer in ((a, mine), (b, theirs)):
            backward(model, x)
            optimizer.step()
            optimizer.zero_grad()
    same_parameters(a, b)


def test_a_group_may_come_later() -> None:
    a = mlp()
    b = twin(a)
    mine = AdamA(a[0].parameters())
    theirs = torch.optim.AdamW(b[0].parameters(), fused=True)
    for i, x in enumerate(batches(4)):
        if i == 2:
            mine.add_param_group({"params": a[2].parameters(), "lr": 1e-1})
            theirs.add_param_group({"params": b[2].parameters(), "lr": 1e-1})
        for model, optimizer in ((a, mine), (b, theirs)):
            model.zero_grad()
            backward(model, x)
            optimizer.step()
    same_parameters(a, b)
    assert mine.holds(a[2].weight)


@both_modes
def test_frozen_parameters_wait_until_they_are_not(how: dict[str, Any]) -> None:
    """The first mini-batch after has no hook yet: `.grad` is its sum, and Adam's is its update."""
    model = mlp(torch.float64)
    first = model[0].weight.requires_grad_(False)
    optimizer = AdamA(model.parameters(), **how)
    data = batches(3 * optimizer.micro_batches, torch.float64)
    n, before = optimizer.micro_batches, first.clone()
    reference = Reference(first)
    for i in range(0, len(data), n):
        first.requires_grad_(i > 0)
        grads: list[Tensor] = []
        for x in data[i : i + n]:
            if i > 0:
                grads += torch.autograd.grad(model(x).square().mean(), [first])
            backward(model, x)
        optimizer.step()
        if i == 0:
            assert torch.equal(first, before)
            assert first not in optimizer.state
        else:
            reference.step(grads if i > n else [torch.stack(grads).mean(0)])
            assert close(first, reference.param)


def test_unused_parameters_are_left_alone_as_adamw_leaves_them() -> None:
    a = mlp()
    b = twin(a)
    mine, theirs = AdamA(a.parameters()), torch.optim.AdamW(b.parameters(), fused=True)
    for i, x in enumerate(batches(4)):
        for model, optimizer in ((a, mine), (b, theirs)):
            y = model[0](x) if i % 2 else model(x)
            y.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    same_parameters(a, b)
    assert float(mine.state_of(a[0].weight)["step"]) == 4
    assert float(mine.state_of(a[2].weight)["step"]) == 2


def test_tied_and_twice_used_parameters_are_folded_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)
            self.two.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(self.one(x).relu()))

    a, b = Tied(), Tied()
    mine, theirs = AdamA(a.parameters()), torch.optim.AdamW(b.parameters(), fused=True)
    for x in batches(5):
        for model, optimizer in ((a, mine), (b, theirs)):
            backward(model, x)
            optimizer.step()
            optimizer.zero_grad()
    same_parameters(a, b)


def checkpointed(model: nn.Sequential, x: Tensor, reentrant: bool) -> Tensor:
    for part in model:
        x = checkpoint(part, x.requires_grad_(), use_reentrant=reentrant)
    return x.square().mean()


def in_bfloat16(model: nn.Sequential, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return model(x).square().mean()


@pytest.mark.parametrize(
    "loss",
    [
        lambda model, x: checkpointed(model, x, reentrant=False),
        lambda model, x: checkpointed(model, x, reentrant=True),
        in_bfloat16,
    ],
    ids=["checkpoint", "reentrant checkpoint", "autocast"],
)
def test_other_ways_through_a_model(loss: Callable[[nn.Module, Tensor], Tensor]) -> None:
    """A forward that is run again in the backward sees the weights of the first."""
    a = mlp()
    b = twin(a)
    mine, theirs = AdamA(a.parameters()), torch.optim.AdamW(b.parameters(), fused=True)
    for x in batches(3):
        for model, optimizer in ((a, mine), (b, theirs)):
            loss(model, x.clone()).backward()
            optimizer.step()
            optimizer.zero_grad()
    same_parameters(a, b)


@pytest.mark.filterwarnings("ignore:Using backward")
def test_a_backward_that_can_be_differentiated_again() -> None:
    """With create_graph, gradients have a history, which must not keep the state's."""
    model = mlp()
    optimizer = AdamA(model.parameters(), mode="accumulate", micro_batches=1)
    model(batches(1)[0]).square().mean().backward(create_graph=True)
    optimizer.step()
    assert not any(t.requires_grad for state in optimizer.state.values() for t in state.values())


@both_modes
def test_gradients_put_there_by_hand_are_taken(how: dict[str, Any]) -> None:
    """What torch.autograd.grad gives never meets a hook. The sum of the micro-batches' then."""
    model = mlp(torch.float64)
    optimizer = AdamA(model.parameters(), **how)
    references = [Reference(p) for p in model.parameters()]
    n = optimizer.micro_batches
    for _ in range(3):
        for p, reference in zip(model.parameters(), references, strict=True):
            mean = torch.randn_like(p)
            p.grad = mean * n
            reference.step([mean])
        optimizer.step()
        assert all(p.grad is None for p in model.parameters())
    for p, reference in zip(model.parameters(), references, strict=True):
        assert close(p, reference.param)


def test_the_hook_passes_over_gradients_that_the_graph_has_folded() -> None:
    class Folds(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            optimizer.absorb(w, grad)
            return grad, None

    w, x = nn.Parameter(torch.ones(3)), torch.ones(3, requires_grad=True)
    optimizer = AdamA([w])
    Folds.apply(x, w).sum().backward()
    optimizer.step()
    assert float(optimizer.state_of(w)["step"]) == 1


def test_step_without_a_backward_does_nothing() -> None:
    model = mlp()
    before = twin(model)
    optimizer = AdamA(model.parameters(), mode="accumulate", micro_batches=4)
    optimizer.step()
    optimizer.zero_grad()
    same_parameters(model, before)
    assert not optimizer.state


def test_the_backward_of_a_compiled_model_ends_in_the_hooks() -> None:
    a = mlp()
    b = twin(a)
    mine, theirs = AdamA(a.parameters()), AdamA(b.parameters())
    compiled = torch.compile(a, backend="aot_eager")
    for x in batches(3):
        for model, optimizer in ((compiled, mine), (b, theirs)):
            backward(model, x)
            optimizer.step()
    same_parameters(a, b)


def test_two_threads_are_independent() -> None:
    models = [mlp(seed=i) for i in range(2)]
    expected = [twin(m) for m in models]
    threads = [
        threading.Thread(target=lambda m=m, i=i: train(m, AdamA(m.parameters(), **ACCUMULATE), 40))
        for i, m in enumerate(models)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for model, alone in zip(models, expected, strict=True):
        train(alone, AdamA(alone.parameters(), **ACCUMULATE), 40)
        same_parameters(model, alone)


def test_a_dead_optimizer_takes_no_gradients() -> None:
    model = mlp()
    AdamA(model.parameters())
    gc.collect()
    backward(model, batches(1)[0])
    assert all(p.grad is not None for p in model.parameters())
