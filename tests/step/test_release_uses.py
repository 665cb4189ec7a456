"""Folds of parameters that are used more than once in a mini-batch: by whom, and when, varies."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roam
from roam.core.errors import HyperparameterError, SecondBackwardError
from roam.optim import AdamA
from roam.step.pending_forwards import PENDING, Claims
from tests.helpers import Calls, assert_equal, mlp, random, unfused
from tests.releases import (
    Block,
    Loss,
    Run,
    adama,
    adamw,
    assert_same,
    beside_adamw,
    eager_kernels,
    folds,
    problem,
    same_as_adamw,
    steps,
)


def penalty(net: Any, run: Run) -> Tensor:
    loss = run(random(5, 8)).square().mean()
    return loss + 0.1 * net[2].weight.square().sum()


def penalty_first(net: Any, run: Run) -> Tensor:
    penalty = 0.1 * net[2].weight.square().sum()
    return penalty + run(random(5, 8)).square().mean()


def gradient_penalty(net: Any, run: Run) -> Tensor:
    """As for WGAN: the eager model's gradient of its input is part of the loss."""
    x = random(5, 8).requires_grad_()
    [g] = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    return run(random(5, 8)).square().mean() + g.norm()


def returned_gradient(net: Any, run: Run) -> Tensor:
    """The root of the backward is several tensors."""
    return torch.stack([run(random(5, 8)).square().mean(), net[0].weight.sum()])


@pytest.mark.parametrize("loss", [penalty, penalty_first, gradient_penalty, returned_gradient])
def test_code_outside_of_the_region_uses_the_weights(loss: Loss) -> None:
    optimizer = same_as_adamw(mlp, loss, backward=lambda loss: loss.sum().backward())
    assert sum(roam.report().detours.values()) == 1  # from the second step on it is known
    shared = {n for n, p in optimizer.named() if id(p) in Claims.of(optimizer).shared}
    summed = 3 if loss is gradient_penalty else 1
    assert len(shared) == summed
    assert len(folds(problem())) == 4 - summed


def test_several_roots() -> None:
    def loss(net: Any, run: Run) -> Tensor:
        losses = run(random(5, 8)).square().mean(), net[0].weight.square().sum()
        torch.autograd.backward(losses)
        return torch.zeros((), requires_grad=True)

    same_as_adamw(mlp, loss)


@pytest.mark.parametrize("late", [False, True])
def test_a_penalty_that_comes_and_goes(late: bool) -> None:
    count = 0

    def loss(net: Any, run: Run) -> Tensor:
        nonlocal count
        count += 1
        return (penalty if (count % 3 == 2) is late else plain)(net, run)

    same_as_adamw(mlp, loss)


def plain(net: Any, run: Run) -> Tensor:
    return run(random(5, 8)).square().mean()


class Pair(nn.Module):
    """Two layers that may become one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


@pytest.mark.parametrize("after", [0, 1])
def test_weights_are_tied_after_compiling(after: int) -> None:
    def train(net: Pair, run: Run, optimizer: torch.optim.Optimizer) -> None:
        for i in range(4):
            if i == after:
                net.second.weight = net.first.weight
            run(random(5, 8)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    torch.manual_seed(0)
    reference = Pair()
    model = copy.deepcopy(reference)
    train(reference, eager_kernels(reference), adamw(reference))
    torch._dynamo.reset()
    optimizer = adama(model)
    train(model, unfused(model, optimizer=optimizer), optimizer)
    assert_same(reference, model)


def test_blocks_of_one_graph_are_tied_after_compiling() -> None:
    def compiled(net: nn.Sequential, **options: Any) -> Run:
        for layer in net:
            how = {"lowering": "aten", **options} if options else None
            layer.compile(backend="roam" if options else "aot_eager", options=how)
        return net

    count = 0

    def loss(net: Any, run: Run) -> Tensor:
        nonlocal count
        count += 1
        if count % 3 == 2:
            net[1].first.weight = net[0].first.weight
        return plain(net, run)

    same_as_adamw(lambda: nn.Sequential(Pair(), Pair()), loss, compiled)


def test_one_parameter_is_two_inputs_of_a_graph() -> None:
    def both(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(x @ a) @ b

    def compiled(net: Calls, **options: Any) -> Run:
        how = {"lowering": "aten", **options} if options else None
        run = torch.compile(both, backend="roam" if options else "aot_eager", options=how)
        two = nn.Parameter(random(8, 8)), nn.Parameter(random(8, 8))
        run(*two, random(5, 8))  # captured with them
        return run

    def loss(net: Calls, run: Run) -> Tensor:
        [w] = net.weights
        return run(w, w, random(5, 8)).square().mean()

    same_as_adamw(lambda: Calls(both, (8, 8)), loss, compiled)


def several(backwards: Callable[[list[Tensor]], Iterator[None]]) -> Callable[..., None]:
    """Trains on losses whose forwards run before the first backward."""

    def train(net: nn.Module, run: Run, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(3):
            losses = [run(random(3 + i, 8)).square().mean() for i in range(5)]
            for _ in backwards(losses):
                pass
            optimizer.step()
            optimizer.zero_grad()

    return train


def in_turn(losses: list[Tensor]) -> Iterator[None]:
    for loss in losses:
        yield loss.backward()


def last_first(losses: list[Tensor]) -> Iterator[None]:
    while losses:
        yield losses.pop().backward()


def some(losses: list[Tensor]) -> Iterator[None]:
    """The others are there still when `step()` is called."""
    yield losses[0].backward()
    yield losses[3].backward()


def retained(losses: list[Tensor]) -> Iterator[None]:
    """Two losses of one forward."""
    del losses[1:]
    yield (2 * losses[0]).backward(retain_graph=True)
    yield losses[0].backward()


@pytest.mark.parametrize("backwards", [in_turn, last_first, some, retained])
@pytest.mark.parametrize("part", [False, True])
def test_forwards_that_run_before_the_first_backward(
    backwards: Callable[[list[Tensor]], Iterator[None]], part: bool
) -> None:
    """Their gradients are summed, as ever, though each backward would release its own.

    part: only the first layers are compiled.
    """
    train = several(backwards)
    torch.manual_seed(0)
    reference = nn.Sequential(Block(), nn.Linear(8, 8))
    model = copy.deepcopy(reference)
    train(reference, reference, adamw(reference))
    optimizer = adama(model)
    if part:
        model[0].compile(backend="roam", options={"lowering": "aten", "optimizer": optimizer})
    train(model, model if part else unfused(model, optimizer=optimizer), optimizer)
    assert_same(reference, model)
    if backwards is in_turn:
        assert PENDING in roam.report().detours


def test_micro_batches_whose_forwards_run_first_are_folded_one_by_one() -> None:
    train = several(in_turn)
    torch.manual_seed(0)
    reference = Block()
    model = copy.deepcopy(reference)
    optimizers = [adama(net, mode="accumulate", micro_batches=5) for net in (reference, model)]
    train(reference, reference, optimizers[0])
    train(model, unfused(model, optimizer=optimizers[1]), optimizers[1])
    assert_same(reference, model)
    assert roam.report().detours == {}


def test_a_second_backward_changes_no_weight() -> None:
    """Nor does it fold those that the first one did not need."""

    def loss(net: Any, x: Tensor, whole: bool) -> Tensor:
        y = net[0](x)
        return (net[1](y) if whole else y).square().mean()

    model = nn.Sequential(Block(), Block())
    optimizer = adama(model)
    compiled = unfused(loss, optimizer=optimizer)
    compiled(model, random(5, 8), False).backward()
    before = copy.deepcopy((model.state_dict(), [dict(s) for s in optimizer.state.values()]))
    with pytest.raises(SecondBackwardError, match=r"0\.(first|second)\."):
        compiled(model, random(5, 8), True).backward()
    after = model.state_dict(), [dict(s) for s in optimizer.state.values()][: len(before[1])]
    assert_equal(after[0].values(), before[0].values())


def test_a_group_may_stay_unfolded() -> None:
    torch.manual_seed(0)
    reference = mlp()
    model = copy.deepcopy(reference)
    steps(reference, eager_kernels(reference), adamw(reference))
    torch._dynamo.reset()
    groups = [
        {"params": [("first", model[0].weight)], "unfolded": True},
        {"params": [(n, p) for n, p in model.named_parameters() if n != "0.weight"]},
    ]
    optimizer = AdamA(groups, lr=1e-2)
    steps(model, unfused(model, optimizer=optimizer), optimizer)
    assert_same(reference, model)
    planned = roam.plan(model, random(5, 8), loss=lambda y: y.sum(), optimizer=optimizer)
    for found in (problem(), planned.planned[0][0]):
        assert len(folds(found)) == 3
    why = dict(Claims.of(optimizer).unfolded(optimizer))
    assert why == {"first": 'its group says "unfolded"'}
    optimizer.param_groups[0]["unfolded"] = False  # as everything in a group, at any time
    steps(model, unfused(model, optimizer=optimizer), optimizer)
    assert dict(Claims.of(optimizer).unfolded(optimizer)) == {}


def test_a_graph_that_saves_nothing_of_its_own_is_named() -> None:
    """Its backward cannot tell which forward it belongs to; the optimizer folds by its hooks."""
    reference, model, optimizer = beside_adamw(lambda: nn.Sequential(nn.Linear(8, 2), nn.Tanh()))
    steps(model, unfused(model, optimizer=optimizer), optimizer)
    assert_same(reference, model)
    why = "its graph saves only its inputs and outputs, which are yours"
    assert dict(Claims.of(optimizer).unfolded(optimizer)) == {"0.weight": why, "0.bias": why}


def test_unfolded_is_said_of_a_group() -> None:
    with pytest.raises(HyperparameterError, match="unfolded"):
        AdamA([{"params": mlp().parameters(), "unfolded": ["0.weight"]}])
