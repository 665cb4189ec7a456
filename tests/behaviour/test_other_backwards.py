"""Backwards that are no training: what they ask for is right, and nothing is folded."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

import roam
from roam.optim import AdamA
from roam.step.pending_forwards import ELSEWHERE
from tests.helpers import assert_equal, mlp, random, unfused

Ask = Callable[[Tensor, Tensor, list[nn.Parameter]], Sequence[Tensor | None]]


def of_the_input(loss: Tensor, x: Tensor, params: list[nn.Parameter]) -> Sequence[Tensor | None]:
    """An adversarial example, a saliency map."""
    return torch.autograd.grad(loss, x)


def of_the_parameters(
    loss: Tensor, x: Tensor, params: list[nn.Parameter]
) -> Sequence[Tensor | None]:
    """A gradient's norm for the log."""
    return torch.autograd.grad(loss, params)


def of_some_inputs(loss: Tensor, x: Tensor, params: list[nn.Parameter]) -> Sequence[Tensor | None]:
    loss.backward(inputs=[x])
    return [x.grad, *(p.grad for p in params)]


@pytest.mark.parametrize("lowering", ["aten", "inductor"])
def test_gradients_that_are_asked_for_train_nothing(lowering: str) -> None:
    reference = mlp()
    for ask in (of_the_input, of_the_parameters, of_some_inputs):
        model = copy.deepcopy(reference)
        optimizer = AdamA(model.parameters())
        options = {"optimizer": optimizer, "lowering": lowering}
        found = asked(ask, unfused(model, **options), model)
        if lowering == "aten":
            assert_equal(found, asked(ask, reference, reference))
        assert ELSEWHERE in roam.report().detours
        assert_equal(model.state_dict().values(), reference.state_dict().values())
        optimizer.state_dict()  # raises if anything was folded


def asked(ask: Ask, run: Callable[[Tensor], Tensor], model: nn.Module) -> list[Tensor]:
    x = random(5, 8).requires_grad_()
    found = ask(run(x).square().mean(), x, list(model.parameters()))
    return [g for g in found if g is not None]


def test_a_gradient_that_was_there_is_added_as_adamw_adds_it() -> None:
    """Left over from another optimizer, say, and not set to None."""
    reference = mlp()
    model = copy.deepcopy(reference)
    for p in (*reference.parameters(), *model.parameters()):
        p.grad = torch.ones_like(p)
    stock = torch.optim.AdamW(reference.parameters(), fused=True)
    optimizer = AdamA(model.parameters())
    compiled = unfused(model, optimizer=optimizer)
    for i in range(3):
        for run, how in ((reference, stock), (compiled, optimizer)):
            run(random(5 + i, 8)).square().mean().backward()
            how.step()
            how.zero_grad()
    assert_equal(model.state_dict().values(), reference.state_dict().values())
    assert roam.report().detours == {ELSEWHERE: 1}


def test_a_hook_gets_its_gradient_first() -> None:
    """To mask it, say. The other gradients are folded as ever."""
    reference = mlp()
    model = copy.deepcopy(reference)
    stock = torch.optim.AdamW(reference.parameters(), fused=True)
    optimizer = AdamA(model.named_parameters())
    x = random(5, 8)
    steps = [
        (torch.compile(reference, backend="aot_eager"), stock),
        (unfused(model, optimizer=optimizer), optimizer),
    ]
    for hooks in (False, True):  # a graph that has folded all of them, and one planned anew
        if hooks:
            for weight in (reference[0].weight, model[0].weight):
                weight.register_hook(lambda gradient: gradient * (gradient > 0))
            planned = roam.plan(model, x, loss=lambda y: y.sum(), optimizer=optimizer)
        for run, how in steps:
            for _ in range(2):
                run(x).square().mean().backward()
                how.step()
                how.zero_grad()
    assert_equal(model.state_dict().values(), reference.state_dict().values())
    assert roam.report().detours == {}
    own = dict(model.named_parameters())  # the report speaks of every optimizer that is still there
    assert [name for name in roam.report().unfolded if name in own] == ["0.weight"]
    for problem in (roam.report().graphs[-1].problem, planned.planned[0][0]):
        assert problem is not None
        assert sum(op.name.startswith("fold_") for op in problem.ops) == 3
