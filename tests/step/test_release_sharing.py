"""Folds where graphs, calls or code outside share a parameter: complete gradients or none."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import roam
from roam.core.errors import LostParameterError
from roam.optim import AdamA
from roam.step.foldable_gradients import Uses
from tests.helpers import fused, mlp, random, unfused
from tests.releases import (
    Run,
    adamw,
    assert_same,
    beside_adamw,
    eager_kernels,
    folds,
    problem,
    steps,
    trained,
)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))
        self.frozen = nn.Parameter(torch.randn(8, 8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.gelu(x @ self.weight) @ self.frozen @ self.weight.t()


def test_a_tied_weight_folds_once_after_its_gradients_are_summed() -> None:
    assert_same(*trained(Tied))
    assert folds(problem()) == ["fold_weight"]


class Outside(nn.Module):
    """One layer is compiled, the other is not."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.outside = mlp(), nn.Linear(4, 3)

    @torch.compiler.disable
    def after(self, x: Tensor) -> Tensor:
        return self.outside(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.inside(x))


def test_a_parameter_outside_the_graph_trains_by_its_hook() -> None:
    assert_same(*trained(Outside))
    assert folds(problem()) == [
        f"fold_inside.{n}" for n in ("2.bias", "2.weight", "0.bias", "0.weight")
    ]


class Shared(nn.Module):
    """A graph break between two uses of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))
        self.own = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(x @ self.weight)
        torch._dynamo.graph_break()
        return torch.tanh(x @ self.own) @ self.weight


def test_a_parameter_of_two_graphs_is_summed_outside_of_them() -> None:
    assert_same(*trained(Shared))
    assert folds(problem()) == ["fold_own"]  # from the second step on
    assert sum(roam.report().detours.values()) == 1  # the second graph's, in the first


class Head(nn.Module):
    """A weight that is tied to one outside of the compiled part."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = mlp()

    @torch.compiler.disable
    def after(self, x: Tensor) -> Tensor:
        return x @ self.inside[2].weight

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.inside(x))


def test_a_weight_used_inside_and_outside_is_summed_first() -> None:
    assert_same(*trained(Head))
    assert sum(roam.report().detours.values()) == 1  # in the first step


class Twice(nn.Module):
    """One compiled part that runs twice before its backward."""

    def __init__(self) -> None:
        super().__init__()
        self.part = mlp()
        self.run: Callable[..., Tensor] = self.part

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x) * self.run(2 * x)


def test_a_siamese_net() -> None:
    def compiled(net: Twice) -> Twice:
        net.run = eager_kernels(net.part)
        return net

    reference, model, optimizer = beside_adamw(Twice, compiled)
    model.run = unfused(model.part, optimizer=optimizer)
    steps(model, model, optimizer)
    assert_same(reference, model)


class Layers(nn.Module):
    """One function compiled for three layers, each with parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize(("lowering", "theirs"), [("aten", "aot_eager"), ("inductor",) * 2])
@pytest.mark.usefixtures("shared_kernels")
def test_one_compiled_block_serves_many_layers(lowering: str, theirs: str) -> None:
    def compiled(net: Layers) -> Layers:
        for layer in net.layers:
            layer.compile(backend=theirs)
        return net

    reference, model, optimizer = beside_adamw(Layers, compiled)
    for layer in model.layers:
        layer.compile(backend="roam", options={"lowering": lowering, "optimizer": optimizer})
    steps(model, model, optimizer)
    assert_same(reference, model)
    assert roam.report().detours == {}


def trained_by(
    train: Callable[[nn.Sequential, Run, torch.optim.Optimizer], None], lowering: str, theirs: str
) -> tuple[nn.Module, nn.Module]:
    """A model after a training with AdamW and theirs, and another after it with AdamA."""
    torch.manual_seed(0)
    reference = mlp()
    model = copy.deepcopy(reference)
    optimizer = AdamA(model.parameters(), lr=1e-2)
    train(reference, torch.compile(reference, backend=theirs), adamw(reference))
    torch._dynamo.reset()
    train(model, unfused(model, optimizer=optimizer, lowering=lowering), optimizer)
    return reference, model


@pytest.mark.parametrize(
    ("lowering", "theirs"),
    [("aten", "aot_eager"), pytest.param(*("inductor",) * 2, marks=pytest.mark.slow)],
)
@pytest.mark.usefixtures("shared_kernels")
def test_parameters_are_frozen_and_thawed(lowering: str, theirs: str) -> None:
    def train(net: nn.Sequential, compiled: Run, optimizer: torch.optim.Optimizer) -> None:
        for learns in (True, False, True):
            net[2].weight.requires_grad_(learns)
            steps(net, compiled, optimizer)

    assert_same(*trained_by(train, lowering, theirs))


def test_a_parameter_is_frozen_before_a_backward_that_wants_something_else() -> None:
    """What puts its gradient into .grad was asked for anew, which autograd refuses."""
    model, x = mlp(), random(5, 8).requires_grad_()
    loss = unfused(model, optimizer=AdamA(model.parameters()))(x).sum()
    model[2].weight.requires_grad_(False)
    [found] = torch.autograd.grad(loss, x)
    [expected] = torch.autograd.grad(model(x).sum(), x)
    assert torch.equal(found, expected)


@pytest.mark.usefixtures("shared_kernels")
def test_a_newer_optimizer_takes_the_gradients() -> None:
    """What a graph folded for the older one is not its own any more."""
    model = mlp()
    older = AdamA(model.parameters(), lr=1e-2)
    compiled = fused(model, optimizer=older)
    steps(model, compiled, older)
    newer = AdamA(model.parameters(), lr=1e-2)
    steps(model, compiled, newer)
    assert [s["step"].item() for s in newer.state.values()] == [3.0] * 4
    with pytest.raises(LostParameterError):
        older.step()


def test_parameters_that_the_optimizer_does_not_hold_are_not_kept() -> None:
    """A backbone that is not trained, which its owner drops."""
    mine, other = nn.Parameter(random(2)), nn.Parameter(random(2))
    optimizer = AdamA([mine])
    uses, gradients = Uses(), {0: mine, 1: other}
    used = uses.of([mine, other], gradients)
    assert uses.of([mine, other], gradients) is used
    gone = weakref.ref(other)
    del other, gradients[1]
    assert gone() is None
    other = gradients[1] = nn.Parameter(random(2))
    [used] = uses.of([mine, other], gradients)
    assert list(used.ids) == [0]
    optimizer.add_param_group({"params": [other]})
    [used] = uses.of([mine, other], gradients)
    assert list(used.ids) == [0, 1]


@pytest.mark.parametrize(("lowering", "theirs"), [("aten", "aot_eager"), ("inductor",) * 2])
@pytest.mark.usefixtures("shared_kernels")
def test_data_went_to_another_dtype_and_back(lowering: str, theirs: str) -> None:
    """As for an evaluation in half precision. Autograd puts the gradients elsewhere after it."""

    def train(net: nn.Sequential, compiled: Run, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(2):
            steps(net, compiled, optimizer)
            net.half().float()

    assert_same(*trained_by(train, lowering, theirs))
    assert roam.report().detours == {}


class Bypassed(nn.Module):
    """One of the parameters is an input of the graph and gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.scale.detach()


@pytest.mark.parametrize("lowering", ["aten", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("shared_kernels")
def test_what_gets_no_gradient_gets_no_state(lowering: str) -> None:
    model = Bypassed()
    optimizer = AdamA(model.parameters(), lr=1e-2)
    steps(model, unfused(model, optimizer=optimizer, lowering=lowering), optimizer)
    assert set(optimizer.state) == set(model.inner.parameters())


def test_a_forward_that_is_dropped_does_not_matter() -> None:
    reference, model, optimizer = beside_adamw(mlp)
    compiled = unfused(model, optimizer=optimizer)

    def run(x: Tensor) -> Tensor:
        compiled(x)  # nobody keeps it
        return compiled(x)

    steps(model, run, optimizer)
    assert_same(reference, model)
    assert roam.report().detours == {}


def test_the_report_says_whose_gradients_are_not_folded_and_why() -> None:
    torch.manual_seed(0)
    parts = (Outside(), Shared(), mlp())
    parts[2][0].weight.requires_grad_(False)
    model = nn.ModuleList(parts)
    optimizer = AdamA(model.named_parameters(), lr=1e-2)
    options = {"optimizer": optimizer}
    for part in parts:
        compiled = unfused(part, **options)
        for _ in range(2):
            compiled(random(5, 8)).square().mean().backward()
            optimizer.step()
    found = roam.report()
    own = {name for name, _ in optimizer.named()}  # others' optimizers may still be there
    found = replace(found, unfolded={n: why for n, why in found.unfolded.items() if n in own})
    assert found.unfolded == {
        "0.outside.weight": "no compiled graph has a gradient of it",
        "0.outside.bias": "no compiled graph has a gradient of it",
        "1.weight": "it is used several times, and the gradients are summed first",
        "2.0.weight": "it is frozen",
    }
    why = "not folded in a graph, no compiled graph has a gradient of it"
    assert f"  0.outside.weight and 1 more: {why}" in str(found).splitlines()
