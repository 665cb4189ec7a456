"""A byte budget with Inductor's kernels: measured within it, the same gradients, or refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roam
from roam.core.errors import BudgetError, UnplannedWarning
from roam.core.problem import Kind
from roam.inspect.measure import measure_peak
from roam.inspect.step_plan import StepPlan
from roam.optim import AdamA
from tests.behaviour.small_nets import (
    Block,
    Checkpointed,
    Convolutional,
    Loss,
    blocks,
    image,
    rows,
)
from tests.helpers import snapshot

pytestmark = pytest.mark.usefixtures("shared_kernels")


def convolutional() -> nn.Module:
    return Convolutional(3)


def pair() -> nn.Module:
    return nn.Sequential(Block(), Block())


def plain_blocks() -> nn.Module:
    return nn.Sequential(*(Block(0.0) for _ in range(3)))


def trained(
    make: Callable[[], nn.Module], x: Tensor, folded: bool = False, **options: Any
) -> tuple[list[Tensor], int]:
    """Returns what two steps leave, and the measured peak of a third."""
    torch._dynamo.reset()
    roam.reset_report()
    model = Loss(make)
    optimizer = AdamA(model.parameters(), lr=1e-3) if folded else None
    options |= {} if optimizer is None else {"optimizer": optimizer}
    run = torch.compile(model, backend="roam", options={"lowering": "inductor", **options})
    found: list[Tensor] = []

    def step() -> None:
        model.zero_grad(set_to_none=True)
        run(x).backward()
        if optimizer is not None:
            optimizer.step()

    torch.manual_seed(1)
    for _ in range(2):
        step()
        found += snapshot([p.grad for p in model.parameters() if p.grad is not None])
    model.zero_grad(set_to_none=True)
    peak = measure_peak(step).peak
    return found + snapshot([*model.parameters(), *model.buffers()]), peak


@cache
def without_budget() -> StepPlan:
    return roam.plan(Loss(pair), rows(), lowering="inductor")


def planned(share: int) -> StepPlan:
    return roam.plan(Loss(pair), rows(), lowering="inductor", budget=f"{share}%")


@pytest.mark.parametrize(
    ("make", "x", "share", "folded"),
    [
        pytest.param(blocks, rows, 75, False, marks=pytest.mark.slow),
        pytest.param(blocks, rows, 50, True, marks=pytest.mark.slow),
        pytest.param(blocks, rows, 50, False, marks=pytest.mark.slow),
        pytest.param(convolutional, image, 80, False, marks=pytest.mark.slow),
        pytest.param(convolutional, image, 80, True, marks=pytest.mark.slow),
        pytest.param(Checkpointed, rows, 90, False, marks=pytest.mark.slow),
    ],
)
def test_the_measured_peak_keeps_the_budget(
    make: Callable[[], nn.Module], x: Callable[[], Tensor], share: int, folded: bool
) -> None:
    expected, without = trained(make, x(), folded)
    found, peak = trained(make, x(), folded, budget=f"{share}%")
    [graph] = roam.report().step.graphs
    assert graph.lowering == "inductor"
    assert graph.plan is not None
    assert graph.recomputed is not None
    assert graph.recomputed.modules
    assert graph.plan.peak <= graph.recomputed.limit == graph.recomputed.without * share // 100
    assert peak <= graph.recomputed.limit < without
    for a, b in zip(found, expected, strict=True):  # fused otherwise: not the same bits
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_as_close_to_float64_as_without() -> None:
    x = rows()
    model = Loss(plain_blocks).double()
    model(x.double()).backward()
    exact = [p.grad for p in model.parameters()]
    errors = []
    for options in ({}, {"budget": "70%"}):
        found, _ = trained(plain_blocks, x, **options)
        pairs = zip(found, exact, strict=False)
        errors.append([float((a - b).norm() / b.norm()) for a, b in pairs])  # type: ignore[operator, union-attr]
    assert max(errors[1]) <= 2 * max(errors[0])


def test_a_size_is_of_all_that_there_is() -> None:
    without = without_budget()
    budget = without.total - without.peak // 4
    found = roam.plan(Loss(pair), rows(), lowering="inductor", budget=budget)
    assert found.total <= budget < without.total


def test_a_budget_that_cannot_be_kept_is_refused_before_a_step_runs() -> None:
    model = Loss(pair)
    run = torch.compile(model, backend="roam", options={"budget": "5%", "lowering": "inductor"})
    with pytest.raises(BudgetError, match=r"smallest total found .* alone make") as caught:
        run(rows())
    assert caught.value.found is not None
    assert caught.value.budget < caught.value.least <= caught.value.found
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.slow
def test_the_smallest_total_that_is_found_is_a_budget_that_is_kept() -> None:
    with pytest.raises(BudgetError) as caught:
        planned(5)
    smallest = caught.value.found
    found = roam.plan(Loss(pair), rows(), lowering="inductor", budget=smallest)
    assert found.total <= smallest


def test_a_budget_below_the_parameters_names_them() -> None:
    with pytest.raises(BudgetError, match="parameters, optimizer state and inputs take"):
        roam.plan(Loss(pair), rows(), lowering="inductor", budget="1KiB")


@pytest.mark.slow
def test_a_larger_budget_costs_no_more() -> None:
    found = [planned(share) for share in (75, 90, 100)]
    seconds = [step.extra_time for step in found]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] > 0
    assert seconds[-1] == 0
    for graph in (g for step in found for g in step.graphs):
        assert graph.plan is not None
        assert graph.recomputed is not None
        assert graph.plan.peak <= graph.recomputed.limit


def test_the_plan_saves_less_and_says_what_runs_again_by_module() -> None:
    def saved(step: Any) -> int:
        [(problem, _)] = step.planned
        return sum(b.size for b in problem.buffers if b.kind is Kind.SAVED)

    step = roam.plan(Loss(pair), rows(), budget="70%")
    assert step.lowering == "inductor"  # the default
    [graph] = step.graphs
    assert graph.recomputed is not None
    assert all("model" in m.module for m in graph.recomputed.modules if m.ops)
    assert graph.recomputed.saved > 0
    assert "run again" in str(step.explain())
    assert saved(step) < saved(without_budget())


def test_dynamic_sizes_go_to_aten_s_kernels() -> None:
    torch._dynamo.reset()
    roam.reset_report()
    model = Loss(pair)
    options = {"budget": "75%", "lowering": "inductor"}
    run = torch.compile(model, backend="roam", dynamic=True, options=options)
    with pytest.warns(UnplannedWarning, match="sizes that are not fixed"):
        run(rows()).backward()
    [graph] = roam.report().step.graphs
    assert graph.lowering == "aten"
    assert graph.plan is not None
    assert graph.recomputed is not None
    assert graph.plan.peak <= graph.recomputed.limit


@pytest.mark.slow
def test_a_graph_without_a_backward_keeps_a_share_of_itself() -> None:
    torch._dynamo.reset()
    roam.reset_report()
    run = torch.compile(
        Loss(pair), backend="roam", options={"budget": "75%", "lowering": "inductor"}
    )
    with torch.no_grad():
        run(rows())
    [graph] = roam.report().step.graphs
    assert graph.planned


CACHED = """
import json, sys, torch, roam
from torch._dynamo.utils import counters
sys.path.insert(0, "")
from tests.behaviour.small_nets import Loss, blocks, rows
from roam.inspect.measure import measure_peak
from roam.inspect.step_plan import StepPlan

run = torch.compile(Loss(blocks), backend="roam", options={"budget": "60%"})
x = rows()
run(x).backward()
peak = measure_peak(lambda: run(x).backward()).peak
[graph] = roam.report().step.graphs
print(json.dumps({
    "hits": counters["inductor"]["fxgraph_cache_hit"],
    "plan": [graph.problem.fingerprint, graph.plan.peak],
    "within": max(peak, graph.plan.peak) <= graph.recomputed.limit,
    "ops": sum(m.ops for m in graph.recomputed.modules),
}))
"""


@pytest.mark.slow
def test_a_process_with_warm_caches_keeps_the_budget(tmp_path: Path) -> None:
    env = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
    }
    found = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", CACHED], env=env, capture_output=True, text=True, check=True
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
    first, second = found
    assert (first["hits"], second["hits"]) == (0, 2)
    assert first["within"]
    assert second["within"]
    assert first["plan"] == second["plan"]
    assert first["ops"] == second["ops"] > 0
