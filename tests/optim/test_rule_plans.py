"""What every optimizer allocates is what is planned, in one graph too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roam
from roam.optim.scratch import SCALARS
from tests.helpers import unfused
from tests.optim.cases import CASES, all_cases


@all_cases
@pytest.mark.parametrize("shape", [(300, 40), (40, 300), (300,)])
def test_what_an_update_allocates_is_known(name: str, shape: tuple[int, ...]) -> None:
    case = CASES[name]
    p, grad = nn.Parameter(torch.ones(shape)), torch.ones(shape)
    optimizer = case.make([p], **{**case.values, **case.worst})
    optimizer.state_of(p)
    found = roam.measure_peak(lambda: optimizer.absorb(p, grad)).peak
    assert 0 <= found - optimizer.scratch(p, grad) <= SCALARS


class Chain(nn.Module):
    """A layer for each optimizer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(40, 40) for _ in CASES)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x).tanh()
        return x.square().mean()


@pytest.mark.usefixtures("everything_placed")
def test_one_graph_folds_for_all_of_them() -> None:
    """As planned, and with the bits of the hooks."""
    models, x = (Chain(), Chain()), torch.randn(7, 40)
    for model in models:
        optimizers = [
            case.make(layer.parameters(), **{**case.values, **case.worst})
            for case, layer in zip(CASES.values(), model.layers, strict=True)
        ]
        run = unfused(model, optimizer=optimizers[0]) if model is models[0] else model

        def step(run: Any = run, optimizers: Any = optimizers) -> None:
            run(x).backward()
            for optimizer in optimizers:
                optimizer.step()

        step()
        if model is models[0]:
            plan = roam.report().graphs[-1].plan
            assert plan is not None
            assert not roam.report().unfolded
            assert abs(roam.measure_peak(step).peak - plan.peak) <= SCALARS
        else:
            step()
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(p, q)
