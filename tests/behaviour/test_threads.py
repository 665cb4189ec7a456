"""Training in several threads at once gives what each gives alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import (
    assert_counts,
    assert_equal,
    both_arenas,
    compiler,
    grads,
    random,
    snapshot,
    total,
)

pytestmark = pytest.mark.usefixtures("everything_placed")
STEPS = 20


def together(jobs: Sequence[Callable[[], list[Any]]]) -> list[list[Any]]:
    start = Barrier(len(jobs))

    def run(job: Callable[[], list[Any]]) -> list[Any]:
        start.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return [f.result() for f in [pool.submit(run, job) for job in jobs]]


def training(run: Any, model: nn.Module, x: Tensor) -> list[Any]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    seen: list[Any] = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        out = run(x)
        total(out).backward()  # type: ignore[no-untyped-call]
        seen += [*snapshot(out), *grads(model)]
        optimizer.step()
    return seen


def deep(width: int) -> nn.Module:
    torch.manual_seed(width)
    return nn.Sequential(nn.Linear(8, width), nn.GELU(), nn.LayerNorm(width), nn.Linear(width, 4))


@both_arenas
def test_two_models_in_two_threads(arena: str) -> None:
    compile_ = compiler(arena)
    x = random(6, 8)
    alone = [training(m, m, x) for m in (deep(8), deep(8))]
    models = [deep(8), deep(8)]
    runs = [compile_(model) for model in models]
    for run in runs:
        total(run(x)).backward()  # type: ignore[no-untyped-call]
    both = together([lambda i=i: training(runs[i], models[i], x) for i in (0, 1)])  # type: ignore[misc]
    for found, expected in zip(both, alone, strict=True):
        assert_equal(found, expected)


@both_arenas
def test_two_models_compiled_in_two_threads(arena: str) -> None:
    x = random(6, 8)
    alone = [training(m, m, x) for m in (deep(8), deep(16))]
    compile_ = compiler(arena)
    both = together([lambda m=m: training(compile_(m), m, x) for m in (deep(8), deep(16))])  # type: ignore[misc]
    for found, expected in zip(both, alone, strict=True):
        assert_equal(found, expected)
    assert_counts(planned=2)


@both_arenas
def test_one_model_in_two_threads(arena: str) -> None:
    """Gradients by torch.autograd.grad, so that the threads share nothing but the plan."""
    model = deep(8)
    run = compiler(arena)(model)
    inputs = [random(6, 8), random(6, 8) * 2]

    def differentiate(run: Any, x: Tensor) -> list[Any]:
        seen: list[Any] = []
        for _ in range(STEPS):
            out = run(x)
            seen += [out, *torch.autograd.grad(total(out), list(model.parameters()))]
        return seen

    alone = [differentiate(model, x) for x in inputs]
    run(inputs[0])  # two threads that come at once are two compilations to dynamo
    both = together([lambda x=x: differentiate(run, x) for x in inputs])  # type: ignore[misc]
    for found, expected in zip(both, alone, strict=True):
        assert_equal(found, expected)
    assert_counts(planned=1)


@both_arenas
def test_forwards_in_two_threads_then_one_backward(arena: str) -> None:
    model = deep(8)
    run = compiler(arena)(model)
    inputs = [random(6, 8), random(6, 8) * 2]
    torch.autograd.backward([total(model(x)) for x in inputs])
    expected = grads(model)
    for _ in range(3):
        model.zero_grad()
        both = together([lambda x=x: [total(run(x))] for x in inputs])  # type: ignore[misc]
        torch.autograd.backward([loss for (loss,) in both])
        assert_equal(grads(model), expected)
