"""Inductor's kernels planned offline: the plan that the backend would run, and no code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import roam
from roam.bench.zoo import TINY
from roam.cli.app import app
from roam.core.errors import OfflineError, UnplannableError
from roam.inspect.step_plan import StepPlan
from roam.lowering.inductor import order
from roam.optim import AdamA
from tests.helpers import fused, mlp, random
from tests.lowering.inductor.test_behaviour import Broken
from tests.models.test_zoo_architectures import CORE
from tests.test_offline import one_number, ran, what_counts

pytestmark = pytest.mark.usefixtures("shared_kernels")
F = torch.float32.itemsize
CASES = [
    pytest.param(n, fold, id=f"{n}-{fold}", marks=pytest.mark.slow)
    for n in CORE
    for fold in (False, True)
]


@pytest.mark.parametrize(("name", "fold"), CASES)
def test_planned_offline_is_planned_at_run_time(name: str, fold: bool) -> None:
    model, batch = TINY[name].build(), TINY[name].batch()
    optimizer = AdamA(model.parameters()) if fold else None
    found = roam.plan(model, loss=one_number, optimizer=optimizer, lowering="inductor", **batch)
    assert found.lowering == "inductor"
    options: dict[str, Any] = {"optimizer": optimizer} if fold else {}
    fused(lambda **b: one_number(model(**b)), **options)(**batch).backward()
    assert roam.report().step.lowering == "inductor"
    assert [what_counts(plan) for _, plan in found.planned] == ran()


def test_graph_breaks_and_inference() -> None:
    model = Broken()
    found = roam.plan(model, random(5, 8), loss=lambda y: y.sum(), lowering="inductor")
    fused(lambda x: model(x).sum())(random(5, 8)).backward()
    assert len(found.planned) == 3  # before the break, after it, and the loss
    # though at run time the last graph's backward is compiled first
    assert [what_counts(plan) for _, plan in found.planned] == ran()


def test_a_local_array_passes_on_no_place() -> None:
    """A kernel that shares only its outer loops writes the gradient beside the logits."""
    labels = torch.zeros(64, dtype=torch.int64)

    def loss(logits: Tensor) -> Tensor:
        capped = torch.tanh(logits / 30) * 30
        return torch.nn.functional.cross_entropy(capped.view(64, 32), labels)

    model = torch.nn.Linear(8, 32, bias=False)
    found = roam.plan(model, random(4, 16, 8), loss=loss, lowering="inductor")
    logits, row = 64 * 32 * F, 64 * F
    # the loss and its gradient, the count of the mean; a maximum, a logarithm and a sum for a row
    assert found.peak == 2 * logits + 3 * F + 3 * row


@pytest.mark.slow
def test_a_chain_of_updates_in_place_ends_where_it_began() -> None:
    """The gradient of Gemma's logits lies where the logits were; what lies between is no buffer."""
    model, batch = TINY["gemma2"].build(), TINY["gemma2"].batch()
    [(problem, plan)] = roam.plan(model, loss=one_number, lowering="inductor", **batch).planned
    [logits, gradient] = (
        b
        for b, buffer in enumerate(problem.buffers)
        if "lm_head" in buffer.where
        and buffer.size == 512 * 512 * F
        and b in {*plan.reuse, *plan.reuse.values()}
    )
    assert plan.reuse[gradient] == logits


def test_nothing_is_left_behind() -> None:
    model = mlp()
    optimizer = AdamA(model.parameters())
    with torch._inductor.config.patch(fx_graph_cache=True):
        roam.plan(
            model, random(5, 8), loss=lambda y: y.sum(), optimizer=optimizer, lowering="inductor"
        )
    assert not optimizer.state  # counted, not made
    assert roam.report().graphs == ()
    assert all(p.grad is None for p in model.parameters())


def test_what_cannot_be_planned_says_so(monkeypatch: Any) -> None:
    def unknown(*_: Any) -> None:
        raise UnplannableError("buf7: a size that depends on data")

    monkeypatch.setattr(order, "read", unknown)
    with pytest.raises(OfflineError, match=r"cannot be planned: .*buf7"):
        roam.plan(mlp(), random(5, 8), loss=lambda y: y.sum(), lowering="inductor")


FACTORY = """
import torch

def step():
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 4))
    return model, torch.ones(5, 8), lambda y: y.square().mean()
"""


@pytest.mark.slow
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no compiler."""
    (tmp_path / "fused_step.py").write_text(FACTORY)
    command = "plan fused_step:step --lowering inductor --out plan.json --json"
    done = subprocess.run(
        [sys.executable, "-c", "from roam.cli.app import main; main()", *command.split()],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[3]),
            "PATH": str(tmp_path),
            "CXX": str(tmp_path / "no-compiler"),
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "kernels"),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["lowering"] == "inductor"
    assert [f for f in (tmp_path / "kernels").rglob("*") if f.is_file()] == []
    monkeypatch.chdir(tmp_path)
    step = StepPlan.from_json(Path("plan.json").read_bytes())
    assert step.lowering == "inductor"
    shown = CliRunner().invoke(app, ["show", "plan.json"])
    assert "; lowering inductor" in shown.stdout
