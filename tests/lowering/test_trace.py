"""What is said about plans: logging, TORCH_LOGS and TORCH_TRACE."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from torch.testing._internal.distributed.fake_pg import FakeStore

import roam
from roam.core.errors import CutShortWarning
from roam.inspect.record import GraphRecord
from roam.inspect.step_plan import StepPlan
from roam.lowering.trace import tell
from tests.helpers import mlp, random

PROGRAM = """
import torch, roam
from tests.helpers import mlp, random
model = torch.compile(mlp(), backend="roam")
model(random(5, 8)).sum().backward()
"""


def test_the_logger_is_called_roam(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "roam"):
        step = roam.plan(mlp(), random(5, 8), loss=lambda y: y.sum())
    assert [r.getMessage() for r in caplog.records if r.name == "roam"] == [
        str(step.graphs[0]),
        str(step),
    ]
    assert [r.levelname for r in caplog.records if r.name == "roam"] == ["INFO", "DEBUG"]


@pytest.mark.slow
def test_torch_logs_and_torch_trace(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    env = {**os.environ, "TORCH_LOGS": "roam", "TORCH_TRACE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=root, env=env, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    [said] = re.findall(r"Sequential 0/0: \d+ ops, peak .*", done.stderr)
    [file] = tmp_path.iterdir()
    # a line of torch's log, a JSON object, and behind it the payload, indented
    entries = re.split(r"^V\d{4} .*?\] (?=\{)", file.read_text(), flags=re.MULTILINE)
    [(head, payload)] = [e.split("\n", 1) for e in entries if '"roam_plan"' in e]
    told = json.loads(head)
    assert told["artifact"] == {"name": "roam_plan", "encoding": "json"}
    assert (told["frame_id"], told["frame_compile_id"]) == (0, 0)
    step = StepPlan.from_json(payload.strip())
    assert str(step.graphs[0]) == said


def cut_short(graph: GraphRecord, *, cut: bool) -> GraphRecord:
    assert graph.plan is not None
    return replace(graph, plan=msgspec.structs.replace(graph.plan, cut_short=cut))


@pytest.mark.parametrize(
    ("ranks", "cut", "warns"), [(1, True, False), (2, False, False), (2, True, True)]
)
def test_several_ranks_are_warned_of_a_plan_that_the_clock_cut_short(
    ranks: int, cut: bool, warns: bool
) -> None:
    [graph] = roam.plan(mlp(), random(5, 8), loss=lambda y: y.sum()).graphs
    graph = cut_short(graph, cut=cut)
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        if warns:
            with pytest.warns(CutShortWarning, match=rf"{graph.name} short: the 2 ranks"):
                tell(graph, None)
        else:
            tell(graph, None)
    finally:
        torch.distributed.destroy_process_group()
