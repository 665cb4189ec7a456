"""Folds by kernels of the graph itself, for CUDA graphs and C++ code: no Python between kernels."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._inductor import config

import roam
from roam.core.problem import Kind
from roam.lowering.inductor import kernels
from roam.optim import AdamA, absorbing
from roam.optim.folding import FoldingOptimizer
from tests.helpers import assert_equal, averaging, random

pytestmark = pytest.mark.usefixtures("shared_kernels")
GRAPHED = {"mode": "reduce-overhead"}
Step = Callable[[], Tensor]


def net(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 4), nn.Tanh()).to(dtype)


def dropped_in(model: nn.Module, optimizer: FoldingOptimizer, x: Tensor, **options: Any) -> Step:
    def loss_of(x: Tensor) -> Tensor:
        return model(x).square().mean()

    run = torch.compile(loss_of, backend="roam", options={"optimizer": optimizer, **options})

    def step() -> Tensor:
        for _ in range(optimizer.micro_batches):
            loss = run(x)
            loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def whole(model: nn.Module, optimizer: FoldingOptimizer, x: Tensor, **options: Any) -> Step:
    def train(x: Tensor) -> Tensor:
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    compiled = roam.compile_step(train, optimizer, lowering="inductor", **options)
    return lambda: compiled(x)


@pytest.mark.parametrize(
    ("way", "mode"),
    [
        (dropped_in, "accumulate"),
        (whole, "release"),
        pytest.param(dropped_in, "release", marks=pytest.mark.slow),
        pytest.param(whole, "accumulate", marks=pytest.mark.slow),
    ],
)
def test_the_weights_are_those_of_calls(
    way: Callable[..., Step], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    micro_batches = 2 if mode == "accumulate" and way is dropped_in else 1
    trained, folds = [], []
    for options in ({}, GRAPHED):
        torch._dynamo.reset()
        model = net(torch.float64)
        optimizer = AdamA(model.parameters(), lr=1e-2, mode=mode, micro_batches=micro_batches)
        called = count_calls(monkeypatch)
        step = way(model, optimizer, random(8, 16).double(), **options)
        losses = []
        for t in range(3):
            optimizer.param_groups[0]["lr"] = 1e-2 / (1 + t)
            losses.append(step())
        assert all(s["step"] == 3 for s in optimizer.state.values())
        states = [t for s in optimizer.state.values() for t in s.values()]
        trained.append([*losses, *model.parameters(), *states])
        folds.append(len(called))
    torch.testing.assert_close(*trained, rtol=1e-12, atol=1e-12)
    assert folds == [3 * micro_batches * 2, 0]  # two parameters


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Gets an entry for each gradient that an optimizer's code absorbs."""
    called: list[None] = []
    absorb = absorbing.AbsorbingOptimizer._absorb

    def counted(self: Any, gradients: Any, *how: Any) -> None:
        called.extend([None] * len(gradients))
        absorb(self, gradients, *how)

    monkeypatch.setattr(absorbing.AbsorbingOptimizer, "_absorb", counted)
    return called


@pytest.mark.parametrize(
    ("way", "entries", "needs_python"),
    [
        (whole, 1, False),
        pytest.param(dropped_in, 2, False, marks=pytest.mark.slow),  # a forward and a backward
        pytest.param(dropped_in, 2, True, marks=pytest.mark.slow),
    ],
)
def test_no_python_runs_between_the_kernels(
    way: Callable[..., Step], entries: int, needs_python: bool
) -> None:
    """C++ code is one call; a CUDA graph would be one too. With clipping, folds call Python."""
    model = net()
    optimizer = AdamA(model.parameters(), max_norm=1.0 if needs_python else None)
    with config.patch(cpp_wrapper=True):
        step = way(model, optimizer, random(8, 16))
        for _ in range(2):
            step()
        with calls_inside() as calls:
            step()
    assert calls["entries"] == entries
    assert (calls["inside"] > 0) is needs_python


@contextmanager
def calls_inside() -> Iterator[dict[str, int]]:
    """Counts entries into compiled C++ code, and Python functions that run before it returns."""
    entry, depth, found = "inductor_entry_cpp", [0], {"entries": 0, "inside": 0}

    def look(frame: FrameType, event: str, argument: Any) -> None:
        here = getattr(argument, "__name__", "") == entry
        if here and event == "c_call":
            depth[0] += 1
            found["entries"] += 1
        elif here:
            depth[0] -= 1
        elif depth[0] and event == "call":
            found["inside"] += 1

    sys.setprofile(look)
    try:
        yield found
    finally:
        sys.setprofile(None)


def test_what_cuda_graphs_have_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only inputs at fixed addresses may be changed in a CUDA graph: parameters and states."""
    seen: list[Mapping[str, Any]] = []
    inner = kernels.compile_fx_inner

    def look(gm: Any, inputs: Any, **how: Any) -> Any:
        if how.get("is_backward"):
            seen.append({**how, "on": config.triton.cudagraphs, "count": len(inputs)})
        return inner(gm, inputs, **how)

    monkeypatch.setattr(kernels, "compile_fx_inner", look)
    for more in ({}, {"max_norm": 1.0}):
        torch._dynamo.reset()
        model = net()
        dropped_in(model, AdamA(model.parameters(), **more), random(8, 16), **GRAPHED)()
    graphed, called = seen
    assert graphed["on"]
    moving = set(range(graphed["count"])) - set(graphed["static_input_idxs"])
    assert moving == {called["count"] - 1, graphed["count"] - 1}  # the tangent, the step's numbers
    # two parameters that the backward did not need, four moments, and the numbers
    assert graphed["count"] == called["count"] + 2 + 4 + 1
    assert not called["on"]
    assert not called["cudagraphs"].value


@pytest.mark.parametrize("way", [dropped_in, whole])
def test_the_plan_has_these_folds_and_is_true(way: Callable[..., Step]) -> None:
    model = nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256))
    optimizer = AdamA(model.parameters())
    step = way(model, optimizer, random(64, 256), **GRAPHED)
    step()  # makes the states
    measured = roam.measure_peak(step).peak
    [(problem, plan)] = roam.report().step.planned
    assert 0 <= measured - plan.peak <= 8  # the loss, which the user gets
    names = [problem.ops[i].name for i in plan.order]
    assert {"fold_0.weight", "fold_2.weight"} <= set(names)
    released = [b for b in problem.buffers if b.kind is Kind.RELEASED]
    assert 1024 * 256 * 4 in [b.size for b in released]
    assert not [b for b in problem.buffers if b.kind is Kind.GRADIENT]
    states = {b.name for b in problem.buffers if b.kind is Kind.STATE}
    assert {"0.weight.exp_avg", "0.weight.exp_avg_sq"} <= states


def test_a_copy_that_convolutions_prefer_is_not_the_parameter() -> None:
    """Inductor's forward saves weights of convolutions in channels_last, under their own names."""
    trained = []
    for options in ({}, GRAPHED):
        torch._dynamo.reset()
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 4, 3, bias=False))
        step = dropped_in(model, AdamA(model.parameters(), lr=1e-2), random(2, 3, 8, 8), **options)
        for _ in range(2):
            step()
        trained.append([*model.parameters()])
    torch.testing.assert_close(*trained, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_parameter_is_updated_and_not_a_copy_that_was_saved() -> None:
    def copied(t: Tensor) -> Tensor:
        return t.clone()

    model = nn.Sequential(nn.Linear(16, 4), nn.Tanh(), nn.Linear(4, 4))  # saves a weight
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = AdamA(model.parameters())
    run = torch.compile(model, backend="roam", options={"optimizer": optimizer, **GRAPHED})
    with torch.autograd.graph.saved_tensors_hooks(copied, lambda t: t):
        loss = run(random(8, 16)).square().mean()
    loss.backward()
    for p, old in zip(model.parameters(), before, strict=True):
        assert not torch.equal(p, old)


@pytest.mark.slow
def test_an_optimizer_of_a_graph_may_have_nothing_to_fold() -> None:
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    folding, waiting = AdamA(first.parameters()), roam.optim.SGD(second.parameters(), lr=0.1)
    second.weight.register_hook(lambda grad: grad)
    options = {"optimizer": folding, **GRAPHED}
    run = torch.compile(nn.Sequential(first, second), backend="roam", options=options)
    run(random(8, 4)).square().mean().backward()
    for optimizer in (folding, waiting):
        optimizer.step()
        assert [s["step"].item() for s in optimizer.state.values()] == [1]


def test_a_weight_that_is_used_after_its_update_is_left_to_parts() -> None:
    model = net()
    optimizer = AdamA(model.parameters())
    average = torch.zeros(4, 16)
    train = averaging(model, optimizer, average, 0.5)
    compiled = roam.compile_step(train, optimizer, lowering="inductor", **GRAPHED)
    with pytest.warns(roam.UnplannedWarning, match="used after its update"):
        compiled(random(8, 16))
    assert_equal([average], [model[0].weight.detach() / 2])
