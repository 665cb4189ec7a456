"""Gradient release in training: the same numbers as a stock optimizer, and no gradient left."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import roam
from roam.bench.zoo import TINY, loss_of
from roam.core.errors import OptionError, SecondBackwardError
from roam.core.problem import Kind
from roam.optim import AdamA
from tests.helpers import assert_equal, bits, mlp, random, real_models, unfused
from tests.releases import adamw, assert_same, folds, problem, trained


@pytest.mark.parametrize("arena", ["step", "keep"])
@pytest.mark.usefixtures("everything_placed")
def test_release_equals_adamw(arena: str) -> None:
    assert_same(*trained(mlp, arena=arena))
    assert folds(problem()) == ["fold_2.bias", "fold_2.weight", "fold_0.bias", "fold_0.weight"]
    assert roam.report().detours == {}


@pytest.mark.parametrize("n", [1, 2, 4])
def test_accumulate_in_the_graph_equals_accumulate_by_hooks(n: int) -> None:
    def run(compile_: Callable[[nn.Module, AdamA], Callable[..., Tensor]]) -> Iterator[Tensor]:
        torch._dynamo.reset()
        torch.manual_seed(0)
        model = mlp()
        optimizer = AdamA(model.parameters(), lr=1e-2, micro_batches=n, mode="accumulate")
        compiled = compile_(model, optimizer)
        for i in range(2 * n):
            compiled(random(5 + i, 8)).square().mean().backward()
            if i % n == n - 1:
                optimizer.step()
        yield from model.parameters()

    expected = list(run(lambda model, _: torch.compile(model, backend="aot_eager")))
    found = run(lambda model, opt: unfused(model, optimizer=opt))
    assert all(torch.equal(bits(a), bits(b)) for a, b in zip(found, expected, strict=True))
    writes = [op for op in problem().ops if op.name == "fold_0.weight"]
    [fold] = writes
    kinds = {problem().buffers[b].kind for b in fold.mutates}
    assert kinds == {Kind.STATE}


def test_a_second_backward_without_a_step_is_refused() -> None:
    model = mlp()
    optimizer = AdamA(model.parameters())
    compiled = unfused(model, optimizer=optimizer)
    compiled(random(5, 8)).sum().backward()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(SecondBackwardError, match="step"):
        compiled(random(5, 8)).sum().backward()
    assert_equal([p.detach() for p in model.parameters()], before)


def test_the_learning_rate_is_not_baked_in() -> None:
    model = mlp()
    optimizer = AdamA(model.parameters(), lr=0.0, weight_decay=0.0)
    compiled = unfused(model, optimizer=optimizer)
    before = [p.detach().clone() for p in model.parameters()]

    def step() -> list[bool]:
        compiled(random(5, 8)).square().sum().backward()
        optimizer.step()
        return [torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True)]

    assert all(step())
    optimizer.param_groups[0]["lr"] = 0.1
    assert not any(step())
    assert roam.report().planned == 1


def test_a_retained_graph_folds_by_hooks() -> None:
    torch.manual_seed(0)
    reference = mlp()
    model = copy.deepcopy(reference)
    stock = adamw(reference)
    torch.compile(reference, backend="aot_eager")(random(5, 8)).sum().backward(retain_graph=True)
    stock.step()
    stock.zero_grad()
    torch._dynamo.reset()
    optimizer = AdamA(model.parameters(), lr=1e-2)
    compiled = unfused(model, optimizer=optimizer)
    compiled(random(5, 8)).sum().backward(retain_graph=True)
    optimizer.step()
    assert_same(reference, model)


def test_another_optimizer_is_refused() -> None:
    model = mlp()
    options = {"optimizer": torch.optim.SGD(model.parameters())}
    with pytest.raises(OptionError, match="AdamA"):
        unfused(model, **options)(random(5, 8))


@pytest.mark.slow
@real_models
def test_fifty_steps_of_a_real_model_equal_adamw(name: str) -> None:
    reference = TINY[name].build()
    model = copy.deepcopy(reference)
    batch = TINY[name].batch()
    stock = torch.optim.AdamW(reference.parameters(), lr=1e-3, fused=True)
    optimizer = AdamA(model.parameters(), lr=1e-3)
    expected = torch.compile(lambda **b: loss_of(reference(**b)), backend="aot_eager")
    options = {"optimizer": optimizer}
    compiled = unfused(lambda **b: loss_of(model(**b)), **options)
    for i in range(50):
        losses = []
        for run, each in ((expected, stock), (compiled, optimizer)):
            torch.manual_seed(i)
            loss = run(**batch)
            loss.backward()
            each.step()
            each.zero_grad()
            losses.append(loss.item())
        assert losses[0] == losses[1]
    assert_equal(model.state_dict().values(), reference.state_dict().values())
    assert not any(b.kind is Kind.GRADIENT for b in problem().buffers)
