"""The benchmark of wide graphs: its rows, its instances, and what it reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from roam.bench.layered import layered_graph, read_graph
from roam.bench.wide import wide_bench
from roam.core.errors import CycleError, FileFormatError
from roam.core.lifetime import live_peak

DIAMOND = {
    "graph": {"order": ["a", "c", "b", "d"]},
    "nodes": [{"id": n, "out_cost": size} for n, size in zip("abcd", (1, 20, 3, 4), strict=True)],
    "links": [{"source": s, "target": t} for s, t in ("ab", "ac", "bd", "cd")],
}


def written(folder: Path, graph: object) -> Path:
    path = folder / "diamond.json"
    path.write_text(json.dumps(graph))
    return path


def test_a_row_for_every_graph(tmp_path: Path) -> None:
    written(tmp_path, DIAMOND)
    out = tmp_path / "rows.jsonl"
    rows = wide_bench(
        out, instances=tmp_path, sizes={30: 0.3}, graphs=2, seconds=5.0, console=Console(quiet=True)
    )
    assert [row["graph"] for row in rows] == ["diamond", "layered 30, 0", "layered 30, 1"]
    assert all(row["bound"] <= row["roam"] <= min(1.0, row["annealing"]) for row in rows)
    assert len(out.read_text().splitlines()) == 3


def test_a_graph_is_read_in_its_given_order(tmp_path: Path) -> None:
    problem = read_graph(written(tmp_path, DIAMOND))
    assert [op.name for op in problem.ops] == ["na", "nc", "nb", "nd"]
    assert live_peak(problem, range(4)) == 27  # b and c while d is made


def test_a_graph_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"diamond\.json is no graph"):
        read_graph(written(tmp_path, {"nodes": [{"id": 1}], "links": []}))
    cycle = {**DIAMOND, "links": [{"source": "a", "target": "b"}, {"source": "b", "target": "a"}]}
    with pytest.raises(CycleError, match="wait for one another"):
        read_graph(written(tmp_path, cycle))


def test_the_same_seed_the_same_graph() -> None:
    assert layered_graph(50, seed=3).fingerprint == layered_graph(50, seed=3).fingerprint
    assert layered_graph(50, seed=3).fingerprint != layered_graph(50, seed=4).fingerprint
