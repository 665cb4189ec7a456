"""Graphs nested in each other take no more than their plans say, which is less than their sum."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import roam
from roam.optim import AdamA
from tests.helpers import random

pytestmark = pytest.mark.usefixtures("shared_kernels")


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(32, 256), nn.Sigmoid())
        self.second = nn.Sequential(nn.Linear(256, 64), nn.Sigmoid(), nn.Linear(64, 128))
        self.third = nn.Sequential(nn.Linear(128, 16), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        torch._dynamo.graph_break()
        x = self.second(x)
        torch._dynamo.graph_break()
        return self.third(x).square().sum()


@pytest.mark.parametrize(
    ("rows", "lowering", "fold"),  # weights, or what is saved, take most
    [
        *((rows, "aten", fold) for rows in (8, 512) for fold in (False, True)),
        (512, "inductor", True),
        pytest.param(512, "inductor", False, marks=pytest.mark.slow),
        pytest.param(8, "inductor", False, marks=pytest.mark.slow),
        pytest.param(8, "inductor", True, marks=pytest.mark.slow),
    ],
)
def test_what_several_graphs_take(rows: int, lowering: str, fold: bool) -> None:
    torch.manual_seed(0)
    model = Broken()
    optimizer = AdamA(model.parameters()) if fold else None
    options = {"lowering": lowering, "optimizer": optimizer}
    run = torch.compile(model, backend="roam", options=options)
    x = random(rows, 32)

    def step() -> None:
        run(x).backward()
        if optimizer is not None:
            optimizer.step()
        model.zero_grad()

    step()
    measured = roam.measure_peak(step, warm_up=step).peak
    planned = roam.report().step
    assert [g.name.split()[-1] for g in planned.graphs] == ["0/0", "1/0", "2/0"]
    assert measured <= planned.peak < sum(plan.peak for _, plan in planned.planned)
