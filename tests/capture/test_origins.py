"""Where the ops and buffers of a plan come from, in words that the author of a model knows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import roam
from roam.capture.origins import importable
from roam.core.origins import by_name


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.up(x))
        return self.down(h)


@pytest.mark.parametrize("lowering", ["aten", "inductor"])
def test_ops_have_lines_of_the_model_and_buffers_have_shapes(lowering: str) -> None:
    step = roam.plan(Net(), torch.randn(16, 8), loss=lambda y: y.sum(), lowering=lowering)
    [graph] = roam.StepPlan.from_json(step.to_json()).graphs
    assert graph.problem is not None
    lines = by_name(graph.origins.lines)
    tanh = {name for name, line in lines.items() if line.endswith("h = torch.tanh(self.up(x))")}
    assert tanh
    assert {op.name for op in graph.problem.ops} >= tanh
    assert all("test_origins.py:" in lines[name] and "in forward" in lines[name] for name in tanh)
    hidden = {b.name for b in graph.problem.buffers if b.size == 16 * 32 * 4}
    shapes = by_name(graph.origins.tensors)
    assert {shapes[name] for name in hidden if name in shapes} == {"float32[16, 32]"}
    called = {c for calls in graph.origins.calls.values() for c in calls}
    assert ("tanh" in called) == (lowering == "inductor")


def test_a_file_is_named_from_the_folder_that_it_is_imported_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "package" / "net.py"
    assert importable(str(file)) == "net.py"
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert importable(str(file)) == "package/net.py"
