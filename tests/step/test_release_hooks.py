"""Folds beside the user's hooks on gradients, of which those before the optimizer's come first."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge, register_multi_grad_hook

import roam
from roam.optim import AdamA
from roam.step.pending_forwards import HOOKED, Claims
from tests.helpers import assert_equal, mlp, random, unfused
from tests.releases import adamw, assert_same, eager_kernels, steps

Hook = Callable[[nn.Parameter], Any]  # what it returns has to be kept


def adama(net: nn.Module) -> AdamA:
    return AdamA(net.named_parameters(), lr=1e-2)


def halves(param: Tensor) -> None:
    assert param.grad is not None
    param.grad.mul_(0.5)


def on_the_tensor(param: nn.Parameter) -> Any:
    return param.register_hook(lambda g: g * 0.5)


def after_accumulation(param: nn.Parameter) -> Any:
    return param.register_post_accumulate_grad_hook(halves)


def before_the_node(param: nn.Parameter) -> Any:
    node = get_gradient_edge(param).node
    return node, node.register_prehook(lambda g: (g[0] * 0.5,))


HOOKS = [on_the_tensor, after_accumulation, before_the_node]


def hooked_up(net: nn.Sequential, hook: Hook) -> Any:
    return hook(net[0].weight)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_that_is_there_before_the_optimizer(hook: Hook) -> None:
    torch.manual_seed(0)
    reference = mlp()
    nets = reference, copy.deepcopy(reference), copy.deepcopy(reference)
    kept = [hooked_up(net, hook) for net in nets]
    eager, model = nets[1:]
    steps(reference, eager_kernels(reference), adamw(reference))
    torch._dynamo.reset()
    steps(eager, eager, adama(eager))
    optimizer = adama(model)
    steps(model, unfused(model, optimizer=optimizer), optimizer)
    assert_same(reference, eager)
    assert_same(reference, model)
    assert roam.report().detours == {}
    assert unfolded(optimizer) == {"0.weight": "a hook of yours gets its gradient first"}
    del kept


def unfolded(optimizer: AdamA) -> dict[str, str]:
    """What the report says of this optimizer's parameters."""
    return dict(Claims.of(optimizer).unfolded(optimizer))


@pytest.mark.parametrize("lowering", ["aten", "inductor"])
@pytest.mark.parametrize("hook", [on_the_tensor, before_the_node])
@pytest.mark.usefixtures("shared_kernels")
def test_a_hook_between_the_forward_and_the_backward(hook: Hook, lowering: str) -> None:
    """Nobody keeps the node: its hook is gone with the graph, as without roam."""

    def train(net: nn.Sequential, run: Any, optimizer: torch.optim.Optimizer) -> None:
        for i in range(3):
            loss = run(random(5 + i, 8)).square().mean()
            handle = hook(net[0].weight)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            del loss
            if hook is on_the_tensor:
                handle.remove()
            del handle

    torch.manual_seed(0)
    reference = mlp()
    model = copy.deepcopy(reference)
    theirs = {"aten": "aot_eager", "inductor": "inductor"}[lowering]
    train(reference, torch.compile(reference, backend=theirs), adamw(reference))
    torch._dynamo.reset()
    optimizer = adama(model)
    compiled = unfused(model, optimizer=optimizer, lowering=lowering)
    train(model, compiled, optimizer)
    assert_same(reference, model)
    assert roam.report().detours == {HOOKED: 3}


def test_hooks_that_look_on() -> None:
    """What they see is the gradient, and each of them is called as often as in eager."""

    def train(
        net: nn.Sequential, compiled: Callable[..., Any], optimizer: Callable[..., Any]
    ) -> list[Tensor]:
        on_node: list[Tensor] = []
        on_both: list[Tensor] = []
        after: list[Tensor] = []
        node = get_gradient_edge(net[0].bias).node
        node.register_hook(lambda _, grads: on_node.append(grads[0].clone()))
        both = [net[0].weight, net[2].weight]
        register_multi_grad_hook(both, lambda grads: on_both.extend(g.clone() for g in grads))
        net[2].bias.register_post_accumulate_grad_hook(lambda p: after.append(p.grad.clone()))
        how = optimizer(net)
        steps(net, compiled(net, how), how)
        return [*on_node, *on_both, *after]

    torch.manual_seed(0)
    reference = mlp()
    eager, model = copy.deepcopy(reference), copy.deepcopy(reference)
    expected = train(reference, lambda net, _: eager_kernels(net), adamw)
    torch._dynamo.reset()
    assert len(expected) == 3 * 4
    assert_equal(train(eager, lambda net, _: net, adama), expected)
    assert_equal(train(model, lambda net, how: unfused(net, optimizer=how), adama), expected)
    assert_same(reference, eager)
    assert_same(reference, model)


def test_a_hook_after_the_optimizers_finds_no_gradient_in_either_way() -> None:
    for compiled in (False, True):
        model = mlp()
        seen: list[Tensor | None] = []
        optimizer = adama(model)
        model[0].weight.register_post_accumulate_grad_hook(lambda p, seen=seen: seen.append(p.grad))
        run = unfused(model, optimizer=optimizer) if compiled else model
        steps(model, run, optimizer)
        assert seen == [None] * 3
    assert unfolded(optimizer) == {}


def test_hooks_that_are_removed_have_their_gradient_folded_again() -> None:
    model = mlp()
    kept = [hook(model[0].weight) for hook in HOOKS]
    optimizer = adama(model)
    compiled = unfused(model, optimizer=optimizer)
    steps(model, compiled, optimizer)
    assert list(unfolded(optimizer)) == ["0.weight"]
    for handle in (kept[0], kept[1], kept[2][1]):
        handle.remove()
    steps(model, compiled, optimizer)
    assert unfolded(optimizer) == {}
    assert roam.report().detours == {}


def test_a_step_that_is_compiled_whole_gives_way_to_hooks() -> None:
    torch.manual_seed(0)
    reference = mlp()
    model = copy.deepcopy(reference)
    kept = [hooked_up(net, before_the_node) for net in (reference, model)]
    steps(reference, eager_kernels(reference), adamw(reference))
    optimizer = adama(model)

    def train_step(x: Tensor) -> None:
        model(x).square().mean().backward()
        optimizer.step()

    step = roam.compile_step(train_step, optimizer)
    with pytest.warns(roam.core.errors.UnplannedWarning, match="hook"):
        step(random(5, 8))
    for i in (1, 2):
        step(random(5 + i, 8))
    assert_same(reference, model)
    del kept
