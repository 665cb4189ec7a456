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
from tests.helpers import assert_equal, averaging, mlp, random, real_models, unfused

STEPS = 5
Batch = dict[str, Any]


def dropped_in(model: nn.Module, optimizer: AdamA, batch: Batch) -> Callable[[], Tensor]:
    run = unfused(lambda **b: loss_of(model(**b)), optimizer=optimizer)

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


@real_models
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
    optimizer = AdamA(model.named_parameters())
    train_step = averaging(model, optimizer, torch.zeros(1024, 256), 0.1)
    step = roam.compile_step(train_step, optimizer)
    x = random(32, 256)
    step(x)
    plan = roam.report().graphs[0].plan
    assert plan is not None
    assert plan.peak <= roam.measure_peak(lambda: step(x)).peak <= plan.peak + 64
    # it once said that no backward had run by the plan: here there is none
    assert not roam.report().unfolded.keys() & {name for name, _ in optimizer.named()}


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


def test_a_hook_on_a_parameter_drops_in() -> None:
    """Dynamo leaves it out of the graph, without a word."""
    reference = mlp()
    model = copy.deepcopy(reference)
    x = random(5, 8)
    optimizers = AdamA(reference.parameters()), AdamA(model.parameters())
    for m in (reference, model):
        m[0].weight.register_hook(lambda gradient: gradient * (gradient > 0))
    torch.compile(reference, backend="aot_eager")(x).square().mean().backward()
    optimizers[0].step()
    torch._dynamo.reset()

    def train_step(x: Tensor) -> Tensor:
        loss = model(x).square().mean()
        loss.backward()
        optimizers[1].step()
        return loss.detach()

    with pytest.warns(UnplannedWarning, match="hook"):
        roam.compile_step(train_step, optimizers[1])(x)
    assert_equal(model.state_dict().values(), reference.state_dict().values())


def test_two_micro_batches_in_one_step_drop_in() -> None:
    """Dynamo sums their gradients, and a square of the sum is not the sum of the squares."""
    reference = mlp()
    model = copy.deepcopy(reference)

    def step_of(model: nn.Module) -> Callable[[Tensor], None]:
        optimizer = AdamA(model.parameters(), mode="accumulate", micro_batches=2)

        def train_step(x: Tensor) -> None:
            for part in x.chunk(2):
                model(part).square().mean().backward()
            optimizer.step()

        return roam.compile_step(train_step, optimizer) if model is not reference else train_step

    x = random(6, 8)
    step_of(reference)(x)
    with pytest.warns(UnplannedWarning, match="several gradients"):
        step_of(model)(x)
    assert_equal(model.state_dict().values(), reference.state_dict().values())


def test_what_the_graph_cannot_fold_is_folded_a_micro_batch_at_a_time() -> None:
    """Its gradients are read inside of the step, so that they have to leave the graph."""
    reference = mlp()
    model = copy.deepcopy(reference)
    how: dict[str, Any] = {"mode": "accumulate", "micro_batches": 2}
    stock = AdamA(reference.parameters(), **how)
    optimizer = AdamA(model.parameters(), **how)
    compiled = torch.compile(reference, backend="aot_eager")
    for i in range(2):
        compiled(random(5 + i, 8)).square().mean().backward()
    stock.step()
    torch._dynamo.reset()

    def train_step(x: Tensor) -> Tensor:
        model(x).square().mean().backward()
        return torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None])

    step = roam.compile_step(train_step, optimizer)
    for i in range(2):
        assert len(step(random(5 + i, 8))) == 4
    optimizer.step()
    assert_equal(model.state_dict().values(), reference.state_dict().values())


def test_bad_options() -> None:
    model = mlp()
    with pytest.raises(OptionError, match="arena"):
        roam.compile_step(lambda: None, AdamA(model.parameters()), arena="nowhere")
    with pytest.raises(OptionError, match="AdamA"):
        roam.compile_step(lambda: None, torch.optim.SGD(model.parameters()))
    with pytest.raises(OptionError, match="needs one of roam"):
        roam.compile_step(lambda: None, None)  # type: ignore[arg-type]
    how = {"lowering": "inductor", "budget": "1GiB"}
    with pytest.raises(OptionError, match="ATen"):
        roam.compile_step(lambda: None, AdamA(model.parameters()), **how)
