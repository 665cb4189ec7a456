"""Inductor's caches: what they give back in another process has the plan that was made for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from roam.lowering.inductor_notes import find

STEP = """
import json, torch, roam
from torch._dynamo.utils import counters
from roam.optim import AdamA

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 4))
options = {"lowering": "inductor"}
if FOLDED:
    options["optimizer"] = AdamA(model.parameters())
run = torch.compile(model, backend="roam", options=options)
run(torch.ones(5, 8)).sum().backward()
[graph] = roam.report().graphs
print(json.dumps({
    "autograd": counters["aot_autograd"]["autograd_cache_hit"],
    "graphs": counters["inductor"]["fxgraph_cache_hit"],
    "plan": [graph.problem.fingerprint, graph.plan.order, graph.plan.peak],
    "folds": sum("fold" in op.name for op in graph.problem.ops),
}))
"""


def step(folded: bool, cache: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", STEP.replace("FOLDED", str(folded))],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "TORCHINDUCTOR_CACHE_DIR": str(cache),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("folded", [False, True], ids=["plain", "folded"])
def test_a_second_process_finds_the_plan(folded: bool, tmp_path: Path) -> None:
    """AOTAutograd's cache keeps pairs of graphs; folds are put into the backward after it."""
    first, second = step(folded, tmp_path), step(folded, tmp_path)
    assert (first["autograd"], first["graphs"]) == (0, 0)
    assert second["autograd"] == (0 if folded else 1)
    assert not folded or second["graphs"] == 2
    assert second["plan"] == first["plan"]
    assert second["folds"] == first["folds"] == (4 if folded else 0)


def test_code_without_a_note_has_none() -> None:
    assert find("buf0 = empty_strided_cpu((5, 8), (8, 1), torch.float32)") is None
