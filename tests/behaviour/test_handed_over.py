"""What one graph of a step hands to the next counts once, and so does its gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import roam
from roam.inspect.measure import measure_peak
from tests.helpers import random

pytestmark = pytest.mark.usefixtures("shared_kernels")


class InThree(nn.Module):
    """Three graphs. The user gets what is between them, and keeps it until the backward is done."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(32, 256), nn.Sigmoid())
        self.second = nn.Sequential(nn.Linear(256, 64), nn.Sigmoid(), nn.Linear(64, 128))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        y = self.first(x) * mask
        torch._dynamo.graph_break()
        z = self.second(y)
        torch._dynamo.graph_break()
        return z.square().mean(), y, z


@pytest.mark.parametrize("lowering", ["aten", "inductor"])
def test_a_step_of_three_graphs_takes_what_is_planned(lowering: str) -> None:
    torch.manual_seed(0)
    model, x, mask = InThree(), random(512, 32), random(512, 1)
    run = torch.compile(model, backend="roam", options={"lowering": lowering})

    def step() -> None:
        loss, *_kept = run(x, mask)
        loss.backward()
        model.zero_grad()

    step()
    measured = measure_peak(step, warm_up=step).peak
    there = sum(p.nbytes for p in model.parameters()) + x.nbytes + mask.nbytes
    offline = roam.plan(model, x, mask, loss=lambda out: out[0], lowering=lowering)
    for planned in (roam.report().step, offline):
        assert len(planned.graphs) == 3
        assert planned.persistent == there
        assert planned.peak == pytest.approx(measured, rel=0.01)
        read = roam.StepPlan.from_json(planned.to_json())
        assert read.total == planned.total
