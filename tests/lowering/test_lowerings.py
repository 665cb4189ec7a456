"""Which lowering a graph gets, and what happens where Inductor cannot have it."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest
import torch
import torch._inductor.compile_fx  # before a test takes a name away that it imports
import torch._inductor.config
from torch import nn
from torch._inductor.scheduler import Scheduler

import roam
from roam.core.errors import UnplannedWarning
from roam.lowering.inductor import needs
from roam.lowering.table import say_missing
from roam.optim import AdamA
from roam.step.pending_forwards import Claims
from tests.helpers import assert_counts
from tests.helpers import mlp as unseeded

pytestmark = pytest.mark.usefixtures("shared_kernels")


X = torch.linspace(-1, 1, 40).reshape(5, 8)


def mlp(width: int = 16) -> nn.Sequential:
    torch.manual_seed(0)
    return unseeded(width)


def lowerings(model: Any, **options: Any) -> list[str]:
    """Of the graphs of one step."""
    run = torch.compile(model, backend="roam", options=options)
    run(X).sum().backward()
    return [g.lowering for g in roam.report().graphs]


def test_inductors_kernels_are_the_default() -> None:
    assert lowerings(mlp()) == ["inductor"]


def test_what_is_asked_for_is_done() -> None:
    assert lowerings(mlp(), lowering="aten") == ["aten"]


def test_an_arena_that_is_kept_is_atens() -> None:
    assert lowerings(mlp(), arena="keep") == ["aten"]


def test_without_a_compiler_atens_kernels_run(caplog: pytest.LogCaptureFixture) -> None:
    say_missing.cache_clear()
    none = torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)})
    with none, caplog.at_level(logging.WARNING, "roam"):
        assert lowerings(mlp()) == ["aten"]
        assert lowerings(mlp(3)) == ["aten", "aten"]
    assert [r.getMessage().partition(":")[0] for r in caplog.records] == ["no C++ compiler"]


def test_an_inductor_that_lacks_what_roam_knows_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """torch 2.11 has no CustomSchedulerPass, whose import once ended the user's training there."""
    for name in ("kernels", "order"):  # loaded by another test, or not yet
        monkeypatch.delitem(sys.modules, f"roam.lowering.inductor.{name}", raising=False)
    monkeypatch.delattr(torch._inductor.scheduler, "BaseSchedulerNode")
    needs.unknown_names.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, "roam"):
            assert lowerings(mlp()) == ["aten"]
            assert lowerings(mlp(3), lowering="inductor") == ["aten", "aten"]
            assert roam.plan(mlp(), X, loss=lambda y: y.sum()).largest is not None
    finally:
        needs.unknown_names.cache_clear()
    [said] = caplog.records
    assert "BaseSchedulerNode" in said.getMessage()


def test_a_device_that_inductor_is_not_planned_for() -> None:
    assert needs.missing([torch.device("cpu"), torch.device("mps")]) == (
        "Inductor's kernels are not planned on mps"
    )


def test_offline_the_same_is_planned() -> None:
    model = mlp()
    found = roam.plan(model, X, loss=lambda y: y.sum())
    torch.compile(lambda x: model(x).sum(), backend="roam")(X).backward()
    [ran] = roam.report().step.planned
    assert [p.fingerprint for p, _ in found.planned] == [ran[0].fingerprint]
    assert found.largest is not None
    assert found.largest[1].order == ran[1].order
    kept = roam.plan(model, X, loss=lambda y: y.sum(), options={"arena": "keep"})
    assert kept.lowering == "aten"


def gradients(model: nn.Module, optimizer: AdamA | None = None) -> list[torch.Tensor]:
    """What two steps leave: gradients, or with an optimizer weights."""
    options = {} if optimizer is None else {"optimizer": optimizer}
    run = torch.compile(model, backend="roam", options=options)
    for _ in range(2):
        run(X).square().sum().backward()
        if optimizer is not None:
            optimizer.step()
    found = [p.grad if optimizer is None else p for p in model.parameters()]
    return [t.detach().clone() for t in found if t is not None]


def eager_gradients(model: nn.Module) -> list[torch.Tensor]:
    for _ in range(2):
        model(X).square().sum().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Inductor's code generation fails, of the graphs whose turn says so."""
    turns: list[bool] = []
    codegen = Scheduler.codegen

    def fails(self: Scheduler) -> None:
        if turns.pop(0):
            raise NotImplementedError("no code today")
        codegen(self)

    monkeypatch.setattr(Scheduler, "codegen", fails)
    return turns


def test_a_graph_that_inductor_cannot_compile_runs_atens_kernels(failing: list[bool]) -> None:
    failing[:] = [True]
    with pytest.warns(UnplannedWarning, match="cannot compile Sequential 0/0.*ATen.*no code today"):
        found = gradients(mlp())
    torch.testing.assert_close(found, eager_gradients(mlp()))
    assert [g.lowering for g in roam.report().graphs] == ["aten"]
    assert_counts(planned=1)


@pytest.mark.parametrize("folds", [False, True])
def test_a_backward_that_inductor_cannot_compile_runs_unplanned(
    failing: list[bool], folds: bool
) -> None:
    failing[:] = [False, True]
    model = mlp()
    optimizer = AdamA(model.parameters()) if folds else None
    with pytest.warns(UnplannedWarning, match="backward of Sequential 0/0.*no code today"):
        found = gradients(model, optimizer)
    if folds:
        expected = mlp()
        failing[:] = [False, False]
        torch._dynamo.reset()
        torch.testing.assert_close(found, gradients(expected, AdamA(expected.parameters())))
        assert optimizer is not None
        assert dict(Claims.of(optimizer).unfolded(optimizer)) == {}
    else:
        torch.testing.assert_close(found, eager_gradients(mlp()))
    assert roam.report().unplanned == 1


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune-no-cudagraphs"])
def test_a_mode_is_inductors(mode: str) -> None:
    found = []
    for backend in ("inductor", "roam"):
        model = mlp()
        run = torch.compile(model, backend=backend, mode=mode)
        run(X).sum().backward()
        found.append([p.grad for p in model.parameters()])
        torch._dynamo.reset()
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))  # type: ignore[arg-type]
    assert_counts(planned=1)
