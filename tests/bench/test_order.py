"""`roam bench order`: the models, their Problems, and the figures of a row."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from rich.console import Console
from torch import nn

import roam
from roam.bench import branching, vision
from roam.bench.order import PUBLISHED, baselines, order_bench, order_names, row
from roam.bench.order_tables import plan_table, print_rows, verdict
from roam.bench.order_zoo import BRANCHING, ORDER, captured
from roam.bench.zoo import TINY, loss_of
from roam.core.errors import OfflineError
from roam.core.lifetime import live_peak
from roam.core.plan import Status
from roam.core.problem import Kind, Problem
from roam.core.text import parse_problem
from roam.offline import problems
from roam.optim import AdamA
from roam.planner import Settings, plan, replaced_peak
from roam.solvers.simulate.caching_allocator import Span, requests
from tests.core.strategies import graph


@pytest.mark.parametrize(
    ("build", "parameters"),  # as torchvision documents them
    [
        (vision.alexnet, 61_100_840),
        (vision.vgg11, 132_863_336),
        (vision.mnasnet, 4_383_312),
        (branching.densenet121, 7_978_856),
    ],
)
def test_models_have_the_parameters_of_their_papers(
    build: Callable[[], nn.Module], parameters: int
) -> None:
    with torch.device("meta"):
        model = build()
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("build", [vision.alexnet, vision.vgg11, vision.mnasnet])
def test_models_give_a_loss(build: Callable[[], nn.Module]) -> None:
    with torch.device("meta"):
        out = build()(torch.empty(2, 3, 224, 224), torch.zeros(2, dtype=torch.long))
    assert out["loss"].shape == ()
    assert out["logits"].shape == (2, 1000)


@pytest.mark.parametrize(
    "entry",
    [
        "unet-b4",
        pytest.param("randwire-b8", marks=pytest.mark.slow),
        pytest.param("recurrent-b16", marks=pytest.mark.slow),
    ],
)
def test_graphs_that_branch_are_ordered_as_well_as_may_be(entry: str) -> None:
    """Nothing here was made with them in mind."""
    for fold in (False, True):
        problem = captured(BRANCHING[entry], folds=fold)
        assert plan(problem, Settings(60)).status is Status.OPTIMAL


def test_the_models_of_the_bench() -> None:
    batches = {"bert-base": [1, 32], "gpt2-small": [1], "gpt2-xl": [1, 2, 4]}
    for model in {*PUBLISHED, "resnet-50", "gpt2-small"}:
        names = [f"{model}-b{n}" for n in batches.get(model, [1, 32])]
        assert order_names(model) == names
        for name in names:
            sizes = {len(t) for t in ORDER[name].batch().values()}
            assert sizes == {int(name.rpartition("-b")[2])}
    assert ORDER["gpt2-xl-b2"].batch()["input_ids"].shape == (2, 1024)
    assert ORDER["bert-base-b1"].batch()["input_ids"].shape == (1, 512)
    assert order_names(None) == list(ORDER)
    assert order_names("unet") == ["unet-b4"]
    assert order_names("vgg11-b32, alexnet") == ["vgg11-b32", "alexnet-b1", "alexnet-b32"]
    with pytest.raises(ValueError, match=r"'elephant'.*alexnet-b1"):
        order_names("elephant")


def test_a_model_whose_graph_breaks_cannot_be_ordered() -> None:
    with pytest.raises(OfflineError, match="wav2vec2 has 4 graphs"):
        captured(TINY["wav2vec2"], folds=False)


@pytest.fixture(scope="module")
def alexnet() -> tuple[Problem, Problem]:
    entry = ORDER["alexnet-b1"]
    return captured(entry, folds=False), captured(entry, folds=True)


def size_of(problem: Problem, kind: Kind) -> int:
    return sum(b.size for b in problem.buffers if b.kind is kind)


def test_captured_without_data(alexnet: tuple[Problem, Problem]) -> None:
    dropped_in, whole = alexnet
    weights = 4 * 61_100_840
    for problem in alexnet:
        assert size_of(problem, Kind.PARAMETER) == weights
        assert len(problem.phases) == 2
    assert size_of(dropped_in, Kind.GRADIENT) == weights
    assert size_of(dropped_in, Kind.STATE) == 0
    assert size_of(whole, Kind.GRADIENT) == 0
    assert size_of(whole, Kind.RELEASED) == weights
    assert size_of(whole, Kind.STATE) >= 2 * weights
    folds = [op for op in whole.ops if op.name.startswith("fold")]
    assert len(folds) == 16


@pytest.mark.parametrize("fold", [pytest.param(False, marks=pytest.mark.slow), True])
def test_problems_are_those_that_would_be_planned_but_for_measured_scratch(fold: bool) -> None:
    entry = TINY["gpt2"]
    model, batch = entry.build(), entry.batch()
    optimizer = AdamA(model.parameters()) if fold else None
    [problem] = problems(model, loss=loss_of, optimizer=optimizer, **batch)
    step = roam.plan(model, loss=loss_of, optimizer=optimizer, lowering="aten", **batch)
    [(planned, _)] = step.planned
    assert problem.buffers == planned.buffers
    assert [replace(op, scratch=0, cost=0.0) for op in problem.ops] == [
        replace(op, scratch=0, cost=0.0) for op in planned.ops
    ]
    assert all(a.scratch <= b.scratch for a, b in zip(problem.ops, planned.ops, strict=True))


def test_a_row(alexnet: tuple[Problem, Problem]) -> None:
    dropped_in, whole = alexnet
    found = row(whole, dropped_in, planning=5.0, program=0.0)
    assert found["pytorch"] == replaced_peak(dropped_in) > 4 * 61_100_840 * 0.99
    assert found["bound"] <= found["live_peak"] <= found["peak"]
    assert found["saved"] == 1 - found["peak"] / found["pytorch"]
    assert 0 < found["saved_of_all"] < found["saved"]
    assert set(found["baselines"]) == {"program", "lpmf", "bfs", "dfs", "lescea"}
    assert min(b["peak"] for b in found["baselines"].values()) >= found["bound"]
    assert found["pytorch_reserved"] > 0
    assert found["reserved"] > 0
    json.dumps(found)


def test_baselines_are_granted_writing_in_place() -> None:
    problem = graph("in_place")
    assert baselines(problem, 0.0)["program"]["peak"] == 80
    assert live_peak(problem, range(len(problem.ops))) == 80
    assert replaced_peak(problem) == 128
    assert {"modelilp", "roam rings"} <= baselines(problem, 1.0).keys()


TEXT = """
problem spans
buffer x size=10 kind=input home=user
buffer a size=100
buffer b size=100 home=external
buffer out size=1 kind=output home=external
op make reads=x creates=a scratch=7
op use reads=a creates=b
op end reads=b creates=out
"""


def test_spans_of_program_order() -> None:
    problem = parse_problem(TEXT)
    spans = requests(problem, range(len(problem.ops)), {}, (), ())
    assert spans == [Span(0, 2, 100), Span(1, 3, 100), Span(2, 3, 1), Span(0, 1, 7)]


def test_spans_of_a_plan_are_its_blocks_and_what_lies_outside() -> None:
    problem = parse_problem(TEXT)
    found = plan(problem, Settings())
    spans = requests(problem, found.order, found.reuse, found.offsets, found.blocks)
    inside = [Span(b.lower, b.upper, b.size) for b in found.blocks]
    assert spans[: len(inside)] == inside
    assert Span(1, 3, 100) in spans
    assert Span(0, 1, 7) in spans
    held = [sum(s.size for s in spans if s.lower <= t < s.upper) for t in range(3)]
    assert max(held) == found.peak


def some_row(**figures: object) -> dict[str, object]:
    base = {
        "entry": "m-b1", "step": "whole", "ops": 10, "buffers": 20, "pytorch": 3 << 20,
        "pytorch_reserved": 4 << 20, "baselines": {"program": {"peak": 2 << 20, "seconds": 0.0}},
        "peak": 2 << 20, "live_peak": 2 << 20, "bound": 2 << 20, "gap": 0.0, "status": "OPTIMAL",
        "method": "", "seconds": 0.5, "published_seconds": None, "reserved": 2 << 20,
        "saved": 1 / 3, "saved_of_all": 0.2, "reserved_saved": 0.5, "reserved_saved_of_all": 0.3,
    }  # fmt: skip
    return base | figures


def test_the_verdict_names_the_rows_that_fail() -> None:
    good = some_row()
    assert "orders above a baseline: none" in verdict([good])
    assert "optimal: 1 of 1" in verdict([good])
    layout = some_row(entry="l-b1", peak=(2 << 20) + (1 << 19))
    assert "orders above a baseline: none" in verdict([layout])
    assert "l-b1 whole (program by 0.5 MiB)" in verdict([layout])
    bad = some_row(entry="b-b1", live_peak=3 << 20, gap=0.5, status="FEASIBLE")
    text = verdict([good, bad])
    assert "orders above a baseline: b-b1 whole (program by 1.0 MiB)" in text
    assert "mean 25.00%, worst 50.00% (b-b1 whole)" in text
    assert "optimal: 1 of 2" in text


def test_the_table_ends_with_means_and_what_roam_published() -> None:
    out = io.StringIO()
    console = Console(file=out, width=220)
    synthetic = {
        "entry": "synthetic 1000", "step": "synthetic", "ops": 1000, "buffers": 1, "program": 1,
        "peak": 1, "bound": 1, "gap": 0.0, "status": "OPTIMAL", "seconds": 1.0, "resident": 9 << 20,
    }  # fmt: skip
    print_rows([some_row(), some_row(saved=2 / 3), synthetic], console)
    text = out.getvalue()
    assert "50.0%" in text
    assert "16.0%" in text
    assert "35.7%" in text
    assert "1000 " in text
    assert len(plan_table([some_row()]).columns) == 17


@pytest.mark.slow
def test_the_bench_itself(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    console = Console(file=io.StringIO(), width=220)
    rows = order_bench("alexnet-b1", file, program_seconds=1.0, sizes=(200,), console=console)
    assert [(r["entry"], r["step"]) for r in rows] == [
        ("alexnet-b1", "drop-in"),
        ("alexnet-b1", "whole"),
        ("synthetic 200", "synthetic"),
    ]
    assert [json.loads(line) for line in file.read_text().splitlines()] == rows
