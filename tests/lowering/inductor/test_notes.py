"""Inductor's caches: what they give back in another process has the plan that was made for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from roam.lowering.inductor.notes import find
from roam.lowering.inductor.order import SOURCES
from roam.optim import AdamA
from tests.helpers import fused, mlp, random

STEPS = """
import json, os, sys, torch, roam, roam.solvers.layout.saved_layout as solver
from torch._dynamo.utils import counters
from torch._inductor import compile_fx, cpu_vec_isa
from roam.optim import AdamA

cpu_vec_isa.pick_vec_isa()  # compiles several programs, which the usual cache may have
os.environ["TORCHINDUCTOR_CACHE_DIR"] = sys.argv[1]

# so small a model has no segment to save: whatever may lie in a block does
solver.simulate, solver.WORTH = lambda *given: (-len(given[3]), len(given[4])), 0

def step(folded):
    torch.manual_seed(0)
    counters.clear()
    roam.reset_report()
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 4))
    optimizer = (AdamA if folded else torch.optim.SGD)(model.parameters())
    options = {"optimizer": optimizer} if folded else {}
    run = torch.compile(model, backend="roam", options={"lowering": "inductor", **options})
    inside = []
    for _ in range(2):
        out = run(torch.ones(5, 8)).tanh()
        found = out.grad_fn.next_functions[0][0].saved_tensors
        inside.append(sum(hasattr(t.untyped_storage(), "is_roam_block") for t in found))
        out.sum().backward()
        optimizer.step()
    [graph] = roam.report().graphs
    return {
        "hits": counters["aot_autograd"]["autograd_cache_hit"],
        "graphs": counters["inductor"]["fxgraph_cache_hit"],
        "plan": [graph.problem.fingerprint, graph.plan.order, graph.plan.peak],
        "folds": sum("fold" in op.name for op in graph.problem.ops),
        "inside": inside,
    }

# two processes, one after the other, that have nothing but modules from this one
for _ in range(2):
    child = os.fork()
    if not child:
        print(json.dumps([step(False), step(True)]), flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise SystemExit(1)
"""


def steps(cache: Path, wrapper: str) -> list[list[dict[str, Any]]]:
    """Of each of two processes: two steps that fold no gradients, and two that do."""
    done = subprocess.run(
        [sys.executable, "-c", STEPS, str(cache)],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[3]),
            "TORCHINDUCTOR_CPP_WRAPPER": str(int(wrapper == "C++")),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("wrapper", ["Python", pytest.param("C++", marks=pytest.mark.slow)])
def test_a_second_process_finds_the_plans(tmp_path: Path, wrapper: str) -> None:
    """AOTAutograd's cache keeps pairs of graphs; folds are put into the backward after it.

    A forward saves in blocks once its backward is there: from the second step on, or where the
    cache has both from the first. C++ wrappers save by themselves.
    """
    first, second = steps(tmp_path, wrapper)
    assert [s["hits"] for s in second] == [1, 0]
    assert second[1]["graphs"] == 2
    for before, now, folds in zip(first, second, (0, 4), strict=True):
        assert before["hits"] == 0
        assert now["plan"] == before["plan"]
        assert now["folds"] == before["folds"] == folds
        assert before["inside"][0] == 0
        assert (before["inside"][1] > 0) is (wrapper == "Python")
        assert now["inside"] == ([before["inside"][1]] * 2 if now["hits"] else before["inside"])


def test_code_without_a_note_has_none() -> None:
    assert find("buf0 = empty_strided_cpu((5, 8), (8, 1), torch.float32)") is None


@pytest.mark.usefixtures("shared_kernels")
def test_what_planned_is_part_of_the_key() -> None:
    """Change any module that may have had a hand in a plan, and the caches miss."""
    model = mlp()
    fused(model, optimizer=AdamA(model.parameters()))(random(5, 8)).sum().backward()
    names = [name for name in sys.modules if name.partition(".")[0] == "roam"]
    used = {str(Path(sys.modules[name].__file__ or "").resolve()) for name in names}
    assert "planner.py" in {Path(file).name for file in used}
    assert used <= {str(Path(file).resolve()) for file in SOURCES}
