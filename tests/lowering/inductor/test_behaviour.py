"""The inductor lowering beyond a plain step: the same bits as Inductor's, and its errors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._inductor import config

import roam
from roam.optim import AdamA
from tests.behaviour.test_threads import together
from tests.helpers import (
    Compile,
    assert_counts,
    assert_equal,
    fused,
    grads,
    mlp,
    random,
    same_as_inductor,
    snapshot,
    total,
    train,
)

pytestmark = pytest.mark.usefixtures("shared_kernels")


# rows of a batch: a net that is trained on as many in all tests has its kernels compiled once
ROWS = 5


def deep() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 4))


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = mlp(), nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        torch._dynamo.graph_break()
        return self.second(x)


def sizes(*batches: int) -> Callable[[Compile], Iterator[Any]]:
    """Steps with batches of several sizes."""

    def scenario(compile_: Compile) -> Iterator[Any]:
        model = deep()
        run = compile_(model)
        for batch in batches:
            out = run(random(batch, 8))
            total(out).backward()  # type: ignore[no-untyped-call]
            yield from snapshot(out)
            yield from grads(model)
            model.zero_grad()

    return scenario


def test_dynamic_shapes() -> None:
    """Planned once, with the sizes that Inductor met first."""
    same_as_inductor(sizes(6, 9, 12), dynamic=True)


@pytest.mark.slow
def test_sizes_that_change() -> None:
    same_as_inductor(sizes(6, 9, 12), planned=2)  # of one size, then of any


@pytest.mark.slow
def test_what_dynamic_shapes_take() -> None:
    """At the size that was planned for as planned; at others no more than Inductor's order."""
    model = deep()

    def loss(x: Tensor) -> Tensor:
        return model(x).square().mean()

    def peaks(run: Any) -> list[int]:
        def step() -> None:
            run(x).backward()
            model.zero_grad()

        found = []
        for batch in (64, 512):
            x = random(batch, 8)
            found.append(roam.measure_peak(step, warm_up=step).peak)
        return found

    theirs = peaks(torch.compile(loss, dynamic=True))
    torch._dynamo.reset()
    ours = peaks(fused(loss, dynamic=True))
    plan = roam.report().graphs[0].plan
    assert plan is not None
    assert abs(plan.peak - ours[0]) <= 0.01 * ours[0]
    assert all(mine <= their for mine, their in zip(ours, theirs, strict=True))


def folds_as_adamw_does(
    ours: nn.Module,
    dynamic: bool,
    *batches: Tensor,
    loss: Callable[[Tensor], Tensor],
    same: Callable[[Iterable[Tensor], Iterable[Tensor]], None] = assert_equal,
) -> None:
    """A step a batch: every gradient is folded, and the weights are those of Inductor and AdamW."""
    theirs = copy.deepcopy(ours)
    folding = AdamA(ours.parameters(), lr=1e-2)
    usual = torch.optim.AdamW(theirs.parameters(), lr=1e-2, fused=True)
    ways = (
        (fused(ours, dynamic, optimizer=folding), folding),
        (torch.compile(theirs, dynamic=dynamic), usual),
    )
    for batch in batches:
        for run, optimizer in ways:
            loss(run(batch)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
    same(ours.parameters(), theirs.parameters())
    folds = [
        op for g in roam.report().graphs if g.problem for op in g.problem.ops if "fold" in op.name
    ]
    assert len(folds) == len(list(ours.parameters()))


def close(found: Iterable[Tensor], expected: Iterable[Tensor]) -> None:
    torch.testing.assert_close(list(found), list(expected), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dynamic", [pytest.param(False, marks=pytest.mark.slow), True])
def test_folds_across_a_graph_break(dynamic: bool) -> None:
    torch.manual_seed(0)
    batches = random(ROWS, 8), random(ROWS + 2 if dynamic else ROWS, 8)
    folds_as_adamw_does(Broken(), dynamic, *batches, loss=lambda out: out.square().sum())
    assert_counts(planned=2)


def test_a_graph_break_and_inference() -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        model = Broken()
        run = compile_(model)
        with torch.no_grad():
            yield run(random(ROWS, 8))
        model.eval()
        yield from train(lambda: model, (random(ROWS, 8),), lambda _: run)
        with torch.inference_mode():
            yield run(random(ROWS, 8)).clone()

    same_as_inductor(scenario, planned=6)


@pytest.mark.slow
def test_a_reset_plans_the_same_again() -> None:
    plans = []
    for _ in range(2):
        torch._dynamo.reset()
        roam.reset_report()
        fused(deep())(random(ROWS, 8)).sum().backward()
        [graph] = roam.report().graphs
        assert graph.problem is not None
        assert graph.plan is not None
        plans.append((graph.problem.fingerprint, graph.plan.order, graph.plan.peak))
    assert plans[0] == plans[1]


class Attention(nn.Module):
    """Its products of batches are what Inductor tunes on the CPU while training."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.into(x).chunk(3, -1)
        return self.out((q @ k.transpose(1, 2)).softmax(-1) @ v)


SETTINGS = pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"max_autotune": True}, marks=pytest.mark.slow),
        {"triton.cudagraphs": True},
        pytest.param({"cpp_wrapper": True}, marks=pytest.mark.slow),
    ],
    ids=lambda s: next(iter(s)),
)


@pytest.mark.slow
@SETTINGS
def test_inductors_settings(settings: dict[str, Any]) -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        return train(Attention, (random(4, 64, 8),), compile_)

    with config.patch(settings):
        same_as_inductor(scenario)
        model, x = Attention(), random(4, 64, 8)
        run = fused(lambda x: model(x).square().mean())

        def step() -> None:
            torch.autograd.grad(run(x), list(model.parameters()))

        measured = roam.measure_peak(step, warm_up=step).peak
    plan = roam.report().graphs[-1].plan
    assert plan is not None
    assert abs(plan.peak - measured) <= 0.01 * measured


@pytest.mark.slow
@SETTINGS
@pytest.mark.parametrize("dynamic", [False, True])
def test_folds_with_inductors_settings(settings: dict[str, Any], dynamic: bool) -> None:
    torch.manual_seed(0)
    batches = [random(4, 64, 8), random(6 if dynamic else 4, 64, 8)]
    # Folds that are kernels of the graph round otherwise than torch's fused AdamW. In float64,
    # because the keys' bias has no gradient but rounding, which Adam divides by its own size.
    in_graph = settings.keys() & {"triton.cudagraphs", "cpp_wrapper"}
    same = close if in_graph else assert_equal
    model, batches = Attention().double(), [batch.double() for batch in batches]
    with config.patch(settings):
        folds_as_adamw_does(model, dynamic, *batches, loss=lambda x: x.square().mean(), same=same)


@pytest.mark.slow
def test_freezing() -> None:
    """Weights that Inductor turned into constants, where no gradients are wanted."""

    def scenario(compile_: Compile) -> Iterator[Any]:
        model = Attention()
        run = compile_(model)
        with torch.no_grad():
            yield run(random(4, 64, 8))
        yield from train(lambda: model, (random(4, 64, 8),), lambda _: run)

    with config.patch(freezing=True):
        same_as_inductor(scenario, planned=2)
    frozen = roam.report().graphs[0].problem
    assert frozen is not None
    assert [b.name for b in frozen.buffers if "frozen" in b.name]


def backward_twice(loss: Tensor) -> Iterator[str]:
    try:
        loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        loss.backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:  # donated buffers
        yield str(error)


def test_retain_graph() -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        model = deep()
        run = compile_(model)
        for _ in range(2):
            yield from backward_twice(run(random(ROWS, 8)).square().sum())
            yield from grads(model)

    same_as_inductor(scenario)


def test_a_double_backward_raises_as_inductors_does() -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        model = deep()
        x = random(ROWS, 8).requires_grad_()
        loss = compile_(model)(x).square().sum()
        with pytest.raises(RuntimeError) as caught:
            torch.autograd.grad(loss, x, create_graph=True)[0].sum().backward()
        yield str(caught.value)

    same_as_inductor(scenario)


def test_two_models_in_two_threads() -> None:
    x = random(ROWS, 8)

    def training(run: Any, model: nn.Module) -> list[Any]:
        seen = []
        for _ in range(3):
            out = run(x)
            total(out).backward()  # type: ignore[no-untyped-call]
            seen += [*snapshot(out), *grads(model)]
        return seen

    torch.manual_seed(0)
    models = [deep(), mlp()]
    alone = []
    for m in models:
        other = copy.deepcopy(m)
        alone.append(training(torch.compile(other), other))
    torch._dynamo.reset()
    jobs = [lambda m=m: training(fused(m), m) for m in models]
    for found, expected in zip(together(jobs), alone, strict=True):
        assert_equal(found, expected)
    assert_counts(planned=2)
