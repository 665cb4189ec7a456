"""Costs of Inductor's kernels: operators as measured, fused kernels by the bytes they move."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import roam
from roam.capture.cost_table import CostTable, Site
from roam.core.problem import Op
from roam.inspect.step_plan import StepPlan
from roam.optim import AdamA

CALL, BANDWIDTH, FLOPS = 1e-3, 1e6, 1e9
N = 100


@pytest.fixture(autouse=True)
def _known_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No probe runs: a call takes a millisecond, a byte a microsecond."""
    monkeypatch.setenv("ROAM_CACHE_DIR", str(tmp_path))
    table = CostTable.open(Site.here(), tmp_path)
    rates = {"cpu call": CALL, "cpu bandwidth": BANDWIDTH, "cpu flops float32": FLOPS}
    table.rates |= rates
    table.save()


class Scaled(nn.Module):
    """Fused kernels around a product."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(N))
        self.linear = nn.Linear(N, N, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x * self.weight).exp()


def planned(**how: bool) -> StepPlan:
    model = Scaled()
    optimizer = AdamA(model.parameters())
    x = torch.ones(N, N)
    loss = lambda y: y.sum()  # noqa: E731
    return roam.plan(model, x, loss=loss, optimizer=optimizer, lowering="inductor", **how)


def costs(step: StepPlan) -> dict[str, Op]:
    ((problem, _),) = step.planned
    return {op.name: op for op in problem.ops}


def test_fused_kernels_and_products() -> None:
    found = costs(planned())
    matrix, vector = 4 * N * N, 4 * N
    seconds = [op.cost for op in found.values() if "fold" not in op.name and op.cost]
    scale = CALL + (2 * matrix + vector) / BANDWIDTH
    product = CALL + 3 * matrix / BANDWIDTH  # longer than its arithmetic at these rates
    assert seconds[0] == pytest.approx(scale)
    assert seconds[1] == pytest.approx(product)


def test_folds() -> None:
    """AdamA reads the gradient, and reads and writes the parameter and two moments."""
    folds = {n: op.cost for n, op in costs(planned()).items() if "fold" in n}
    steps = 2 * 4  # the number of the step, a float32
    moved = {"fold_linear.weight": 7 * 4 * N * N + steps, "fold_weight": 7 * 4 * N + steps}
    assert folds == {n: pytest.approx(CALL + b / BANDWIDTH) for n, b in moved.items()}


def test_only_products_are_measured() -> None:
    step = planned(measure_costs=True)
    (graph,) = step.graphs
    measured = {n for n, op in costs(step).items() if op.cost} - set(graph.estimated_costs)
    assert len(measured) == 3  # forward, gradients of the weight and of the input
    assert not {n for n in measured if "fold" in n}
