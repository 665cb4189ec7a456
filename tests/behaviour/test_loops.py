"""Loops with torch's own utilities: averaged weights, modes of compiling, hundreds of steps."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn

import roam
from roam.optim import AdamA
from tests.helpers import (
    Compile,
    assert_counts,
    assert_equal,
    compiler,
    grads,
    mlp,
    random,
    same,
    snapshot,
    total,
    unfused,
)

pytestmark = pytest.mark.usefixtures("everything_placed")


def normed() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))


def test_stochastic_weight_averaging() -> None:
    """The average is a copy of the compiled model, and its batch norm is measured anew."""

    def scenario(compile_: Compile) -> Iterator[Any]:
        model = normed()
        run = compile_(model)
        average = AveragedModel(run)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        schedule = SWALR(optimizer, swa_lr=0.05, anneal_epochs=2)
        for step in range(4):
            total(run(random(5, 8) + step)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            average.update_parameters(run)
        with torch.no_grad():
            update_bn([random(5, 8), random(6, 8)], average)
            yield from snapshot(average.eval()(random(5, 8)))
        yield from snapshot([list(average.parameters()), list(average.buffers())])

    # batch norm that measures calls item(), where dynamo leaves the average to eager
    same(scenario, planned=1)


def test_exponential_moving_average() -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        model = normed()
        run = compile_(model)
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        for step in range(4):
            total(run(random(5, 8) + step)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            average.update_parameters(model)
        yield from snapshot([list(average.parameters()), list(average.buffers())])

    same(scenario)


def test_a_moving_average_of_what_is_folded() -> None:
    def train(folds: bool) -> list[Tensor]:
        torch._dynamo.reset()
        torch.manual_seed(0)
        model = mlp()
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8))
        optimizer: torch.optim.Optimizer
        if folds:
            optimizer = AdamA(model.parameters(), lr=0.01)
            run = unfused(model, optimizer=optimizer)
        else:
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
            run = compiler("aot_eager")(model)
        for step in range(4):
            total(run(random(5, 8) + step)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            average.update_parameters(model)
        return snapshot([list(average.parameters()), list(model.parameters())])

    assert_equal(train(True), train(False))


def test_a_full_graph() -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        model = normed()
        run = compile_(model)
        for _ in range(2):
            out = run(random(5, 8))
            total(out).backward()  # type: ignore[no-untyped-call]
            yield from [*snapshot(out), *grads(model)]

    same(scenario, fullgraph=True)


@pytest.mark.parametrize(
    "options",
    [
        {"lowering": "aten"},
        {"lowering": "aten", "arena": "keep"},
        pytest.param({"lowering": "inductor"}, marks=pytest.mark.slow),
    ],
    ids=["aten", "kept", "inductor"],
)
@pytest.mark.parametrize("folds", [False, True], ids=["stock", "AdamA"])
def test_two_hundred_steps_are_flat(folds: bool, options: dict[str, Any]) -> None:
    """The last step takes what the first ones did, holds nothing and leaves no tensor behind."""
    model = normed()
    optimizer: torch.optim.Optimizer
    if folds:
        optimizer = AdamA(model.parameters(), lr=0.01)
        options = {**options, "optimizer": optimizer}
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    run = torch.compile(model, backend="roam", options=options)
    x = random(50, 8)

    def step() -> None:
        run(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    def objects() -> int:
        gc.collect()
        return sum(issubclass(type(o), Tensor) for o in gc.get_objects())

    def steps(count: int) -> None:
        for _ in range(count):
            step()

    steps(5)
    first, before = roam.measure_peak(step), objects()
    steps(200)
    last, after = roam.measure_peak(step), objects()
    assert last == first
    assert after <= before  # what other tests left may go meanwhile
    assert last.held == 0
    assert_counts(planned=1)
