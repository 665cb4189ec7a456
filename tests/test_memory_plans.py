"""The zoo's own memory, held against goldens with the fixture that users have.

Captured but not run: what operators allocate for themselves is then counted only where it is
known, and the figures are the same on every machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roam
from roam.bench.zoo import TINY, loss_of
from roam.inspect.breakdown import breakdown
from roam.inspect.record import GraphRecord
from roam.inspect.step_plan import StepPlan
from roam.offline import problems
from roam.optim import AdamA
from roam.planner import Settings, plan
from roam.pytest_plugin import MemoryPlan
from tests.helpers import some_slow

pytest_plugins = ["pytester"]
ZOO = some_slow({n: n for n in TINY}, ["gpt2"])


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo(name: str, memory_plan: MemoryPlan) -> None:
    model, batch = TINY[name].build(), TINY[name].batch()
    optimizer = AdamA(model.parameters()) if name == "gpt2" else None
    found = problems(model, loss=loss_of, optimizer=optimizer, **batch)
    planned = ((p, plan(p, Settings(seconds=120))) for p in found)
    step = StepPlan(tuple(GraphRecord(p.name, p, made) for p, made in planned))
    memory_plan.check(step, tolerance="1%")


class Twice(nn.Module):
    """Computes, and saves, everything twice."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        once: Tensor = self.act(torch.cat([x, x])).chunk(2)[0]
        return once


@pytest.mark.slow
def test_a_planted_regression_is_named_first(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The activation of one block works, and saves, twice as much."""
    monkeypatch.delenv("CI", raising=False)
    model, batch = TINY["gpt2"].build(), TINY["gpt2"].batch()
    sound = roam.plan(model, loss=loss_of, **batch)
    mlp: Any = model.get_submodule("transformer.h.1.mlp")
    mlp.act = Twice(mlp.act)
    planted = roam.plan(model, loss=loss_of, **batch)

    golden = Path("memory_plans/test_it/test_it.json")
    golden.parent.mkdir(parents=True)
    golden.write_bytes(breakdown(sound).to_json("test_it"))
    pytester.makepyfile(
        test_it="""
        from pathlib import Path
        from roam.inspect.step_plan import StepPlan

        def test_it(memory_plan):
            memory_plan.check(StepPlan.from_json(Path("plan.json").read_bytes()))
        """
    )
    Path("plan.json").write_bytes(sound.to_json())
    pytester.runpytest_inprocess().assert_outcomes(passed=1)
    Path("plan.json").write_bytes(planted.to_json())
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    lines = result.stdout.lines
    first = lines[lines.index("by module, what grew most first") + 1]
    assert first.strip().startswith("transformer.h.1.mlp.act"), first
