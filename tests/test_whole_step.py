"""A training step captured as one graph: the same bits as dropping in."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roam
from roam.bench.zoo import TINY, loss_of
from roam.core.errors import OptionError, UnplannedWarning
from roam.core.problem import Kind
from roam.optim import AdamA
from tests.helpers import assert_equal, mlp, random

STEPS = 20
Batch = dict[str, Any]


def dropped_in(model: nn.Module, optimizer: AdamA, batch: Batch) -> Callable[[], Tensor]:
    run = torch.compile(
        lambda **b: loss_of(model(**b)), backend="roam", options={"optimizer": optimizer}
    )

    def step() -> Tensor:
        loss = run(**batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def whole(model: nn.Module, optimizer: AdamA, batch: Batch) -> Callable[[], Tensor]:
    def train_step(**b: Any) -> Tensor:
        loss = loss_of(model(**b))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    compiled = roam.compile_step(train_step, optimizer)
    return lambda: compiled(**batch)


@pytest.mark.parametrize("name", ["gpt2", "vit", "resnet"])
def test_the_whole_step_equals_dropping_in(name: str) -> None:
    reference = TINY[name].build()
    model = copy.deepcopy(reference)
    results = []
    for how, net in ((dropped_in, reference), (whole, model)):
        torch._dynamo.reset()
        step = how(net, AdamA(net.parameters(), lr=1e-3), TINY[name].batch())
        losses = []
        for i in range(STEPS):
            torch.manual_seed(i)
            losses.append(step())
        results.append(losses)
    assert_equal(*results)
    assert_equal(model.state_dict().values(), reference.state_dict().values())
    graphs = roam.report().graphs
    assert [g.planned for g in graphs] == [True, True]  # one each: no graph break
    assert graphs[1].problem is not None
    assert len(graphs[1].problem.phases) == 1
    assert not any(b.kind is Kind.GRADIENT for b in graphs[1].problem.buffers)


def test_planned_is_measured() -> None:
    model = nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256))
    optimizer = AdamA(model.parameters())

    def train_step(x: Tensor) -> Tensor:
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    step = roam.compile_step(train_step, optimizer)
    x = random(32, 256)
    step(x)
    plan = roam.report().graphs[0].plan
    assert plan is not None
    assert plan.peak <= roam.measure_peak(lambda: step(x)).peak <= plan.peak + 64


def test_accumulate_updates_after_the_graph() -> None:
    reference = mlp()
    model = copy.deepcopy(reference)
    x = random(5, 8)
    stock = AdamA(reference.parameters(), mode="accumulate")
    for _ in range(3):
        torch.compile(reference, backend="aot_eager")(x).square().mean().backward()
        stock.step()
    torch._dynamo.reset()
    optimizer = AdamA(model.parameters(), mode="accumulate")

    def train_step(x: Tensor) -> Tensor:
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    step = roam.compile_step(train_step, optimizer)
    for _ in range(3):
        step(x)
    assert_equal(model.state_dict().values(), reference.state_dict().values())


def test_a_step_with_a_graph_break_drops_in() -> None:
    reference = mlp()
    model = copy.deepcopy(reference)
    x = random(5, 8)
    stock = AdamA(reference.parameters())
    for _ in range(2):
        torch.compile(reference, backend="aot_eager")(x).square().mean().backward()
        stock.step()
    torch._dynamo.reset()
    optimizer = AdamA(model.parameters())

    def train_step(x: Tensor) -> Tensor:
        y = model(x)
        torch._dynamo.graph_break()
        loss = y.square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    step = roam.compile_step(train_step, optimizer)
    with pytest.warns(UnplannedWarning, match="not one graph"):
        step(x)
    step(x)
    assert_equal(model.state_dict().values(), reference.state_dict().values())


def test_bad_options() -> None:
    model = mlp()
    with pytest.raises(OptionError, match="arena"):
        roam.compile_step(lambda: None, AdamA(model.parameters()), arena="nowhere")
    with pytest.raises(OptionError, match="AdamA"):
        roam.compile_step(lambda: None, torch.optim.SGD(model.parameters()))
