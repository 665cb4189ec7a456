"""What a folding optimizer cannot honour is said once, at the user's line."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm

import roam
from roam.core.errors import ClippingWarning, LateChangeWarning
from roam.optim import AdamA, SlimAdamA
from tests.helpers import unfused
from tests.optim.reference import (
    ACCUMULATE,
    backward,
    batches,
    both_modes,
    loss,
    mlp,
    same_parameters,
    schedule,
    twin,
)


@contextmanager
def silence() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def set_value(name: str, value: Any) -> Callable[[AdamA], None]:
    def change(optimizer: AdamA) -> None:
        optimizer.param_groups[0][name] = value

    return change


def in_place(optimizer: AdamA) -> None:
    optimizer.param_groups[0]["lr"].mul_(2)


def another_group(optimizer: AdamA) -> None:
    [group] = optimizer.param_groups
    optimizer.param_groups[0] = {**group, "lr": 0.5}


CHANGES = {
    "lr": set_value("lr", 0.5),
    "a tensor lr": set_value("lr", torch.tensor(0.5)),
    "betas": set_value("betas", (0.5, 0.9)),
    "eps": set_value("eps", 1e-3),
    "weight_decay": set_value("weight_decay", 0.0),
    "update_clip": set_value("update_clip", 1.0),
    "another group with its own lr": another_group,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_value_that_is_set_between_backward_and_step(change: str) -> None:
    """The order of build-nanogpt. The update was made with the old value, and the next is not."""
    model = mlp()
    optimizer = AdamA(model.parameters())
    first, second, third = batches(3)
    backward(model, first)
    CHANGES[change](optimizer)
    name = change.split()[-1]
    with pytest.warns(LateChangeWarning, match=rf"{name}.*scheduler\.step\(\)") as caught:
        optimizer.step()
    assert [w.filename for w in caught] == [__file__]
    with silence():
        for x in (second, third):  # said once
            backward(model, x)
            optimizer.param_groups[0]["lr"] = 0.1
            optimizer.step()


def test_a_tensor_that_changes_in_place_between_backward_and_step() -> None:
    model = mlp()
    optimizer = AdamA(model.parameters(), lr=torch.tensor(1e-3))
    backward(model, batches(1)[0])
    with silence():
        in_place(optimizer)
        optimizer.param_groups[0]["lr"].div_(2)  # as it was
        optimizer.step()
        backward(model, batches(1)[0])
    in_place(optimizer)
    with pytest.warns(LateChangeWarning, match="lr"):
        optimizer.step()


@pytest.mark.parametrize("lr", [1e-2, torch.tensor(1e-2)], ids=["number", "tensor"])
def test_a_schedule_in_its_place_is_no_offence(lr: Any) -> None:
    """Warm-up, whose constructor sets the first rate, and a cycle of momentum."""
    with silence():
        model = mlp()
        optimizer = AdamA(model.parameters(), lr=lr)
        warm_up = schedule(optimizer)
        for x in batches(4):
            backward(model, x)
            optimizer.step()
            warm_up.step()
            optimizer.zero_grad()


def test_a_scheduler_in_the_wrong_place() -> None:
    model = mlp()
    optimizer = AdamA(model.parameters())
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    backward(model, batches(1)[0])
    optimizer.step()
    backward(model, batches(1)[0])
    decay.step()
    with pytest.warns(LateChangeWarning, match="lr"):
        optimizer.step()


def test_groups_that_folded_nothing_may_change() -> None:
    """What step() finds in `.grad` is updated by the values that it finds then."""
    a = mlp()
    b = twin(a)
    groups = [[{"params": [*layer.parameters()]} for layer in (m[0], m[2])] for m in (a, b)]
    mine, theirs = AdamA(groups[0]), torch.optim.AdamW(groups[1], fused=True)
    with silence():
        for x in batches(3):
            for model, optimizer in ((a, mine), (b, theirs)):
                (weight, bias), last = model[0].parameters(), [*model[2].parameters()]
                grads = torch.autograd.grad(loss(model, x), [weight, bias])
                weight.grad, bias.grad = grads
                backward(model[2], model[1](model[0](x)).detach())
                optimizer.param_groups[0]["lr"] *= 0.5
                optimizer.step()
                optimizer.zero_grad()
                assert last
    same_parameters(a, b)


def test_what_accumulation_applies_at_the_end_may_be_set_until_then() -> None:
    """The learning rate, not the betas by which it has folded."""
    a = mlp()
    b = twin(a)
    late, early = AdamA(a.parameters(), **ACCUMULATE), AdamA(b.parameters(), **ACCUMULATE)
    values = {"lr": 0.1, "eps": 1e-3, "weight_decay": 0.5, "update_clip": 0.1}
    early.param_groups[0].update(values)
    for model in (a, b):
        for x in batches(2):
            backward(model, x)
    with silence():
        late.param_groups[0].update(values)
        late.step()
    early.step()
    same_parameters(a, b)
    backward(a, batches(1)[0])
    late.param_groups[0]["betas"] = (0.5, 0.5)
    backward(a, batches(1)[0])
    with pytest.warns(LateChangeWarning, match="betas of a group"):
        late.step()


def test_a_compiled_backward_is_no_exception() -> None:
    torch._dynamo.reset()
    model = mlp()
    optimizer = AdamA(model.parameters())
    compiled = unfused(model, optimizer=optimizer)
    for late in (False, True):
        backward(compiled, batches(1)[0])
        if late:
            optimizer.param_groups[0]["lr"] = 0.5
            with pytest.warns(LateChangeWarning, match="lr"):
                optimizer.step()
        else:
            with silence():
                optimizer.step()
    backward(compiled, batches(1)[0])
    with pytest.warns(ClippingWarning):
        clip_grad_norm_(compiled.parameters(), 1.0)


def trained() -> nn.Parameter:
    """A parameter that has a gradient, without which `clip_grad_value_` fails."""
    param = nn.Parameter(torch.ones(2))
    param.grad = torch.ones(2)
    return param


CLIPPING: dict[str, Callable[[nn.Module], Any]] = {
    "clip_grad_norm_": lambda model: clip_grad_norm_(model.parameters(), 1.0),
    "by the module": lambda model: torch.nn.utils.clip_grad_norm_([*model.parameters()], 1.0),
    "of one": lambda model: clip_grad_norm_(next(model.parameters()), max_norm=1.0),
    "by keyword": lambda model: clip_grad_norm_(parameters=model.parameters(), max_norm=1.0),
    "only measured": lambda model: clip_grad_norm_(model.parameters(), float("inf")),
    "clip_grad_value_": lambda model: clip_grad_value_([*model.parameters(), trained()], 1.0),
    "value by keyword": lambda model: clip_grad_value_(
        clip_value=1.0, parameters=[*model.parameters(), trained()]
    ),
    "with_norm": lambda model: clip_grads_with_norm_(model.parameters(), 1.0, torch.tensor(1.0)),
    "get_total_norm": lambda model: get_total_norm(
        [p.grad for p in model.parameters() if p.grad is not None]
    ),
}


@both_modes
@pytest.mark.parametrize("clip", CLIPPING)
def test_clipping_what_was_folded(clip: str, how: dict[str, Any]) -> None:
    """This module imported torch's functions before there was an optimizer."""
    model = mlp()
    optimizer = AdamA(model.parameters(), **how)
    with silence():
        CLIPPING[clip](model)  # nothing is folded yet
    for _ in range(optimizer.micro_batches):
        backward(model, batches(1)[0])
    with pytest.warns(ClippingWarning, match="max_norm") as caught:
        CLIPPING[clip](model)
    assert [w.filename for w in caught] == [__file__]
    with silence():
        CLIPPING[clip](model)  # said once
        optimizer.step()


def test_clipping_in_a_closure() -> None:
    """Where Lightning clips."""
    model = mlp()
    optimizer = SlimAdamA(model.named_parameters(), {})

    def closure() -> None:
        backward(model, batches(1)[0])
        clip_grad_norm_(model.parameters(), 1.0)

    with pytest.warns(ClippingWarning, match="SlimAdamA"):
        optimizer.step(closure)


def test_clipping_what_is_there() -> None:
    """Another model's gradients, and those that the user put into `.grad`, are clipped by torch."""
    model, other, expected = mlp(), mlp(), mlp()
    optimizer = AdamA(model.parameters())
    x = batches(1)[0]
    with silence():
        for m in (other, expected):
            m(x).square().mean().backward()
        backward(model, x)
        assert clip_grad_norm_(other.parameters(), 0.1) > 0.1
        assert clip_grad_norm_(mlp().parameters(), 0.1) == 0
        assert clip_grad_norm_([], 0.1) == 0
        clip_grad_value_(other.parameters(), 0.01)
        assert get_total_norm(p.grad for p in other.parameters() if p.grad is not None) < 0.1
        optimizer.step()
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        clip_grad_norm_(model.parameters(), 1.0)
    with pytest.warns(UserWarning, match="empty generator"):
        clip_grad_norm_(nn.GELU().parameters(), 1.0)


def clipped(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[Tensor], Tensor]:
    def train_step(x: Tensor) -> Tensor:
        found = loss(model, x)
        found.backward()
        clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
        optimizer.zero_grad()
        return found.detach()

    return train_step


def test_a_step_that_is_one_graph_clips() -> None:
    """Its gradients are there to be clipped, and folded after."""
    torch._dynamo.reset()
    a = mlp()
    b = twin(a)
    optimizer = AdamA(a.parameters(), lr=1e-2)
    mine = roam.compile_step(clipped(a, optimizer), optimizer)
    theirs = clipped(b, torch.optim.AdamW(b.parameters(), lr=1e-2, fused=True))
    with silence():
        for x in batches(3):
            assert torch.equal(mine(x), theirs(x))
    same_parameters(a, b)


def test_a_step_that_dynamo_breaks_at_its_backward_does_not() -> None:
    torch._dynamo.reset()
    model = mlp()
    optimizer = AdamA(model.parameters())
    step = unfused(clipped(model, optimizer), optimizer=optimizer)
    with pytest.warns(ClippingWarning):
        step(batches(1)[0])
