"""The benchmark of wide graphs: its rows, its instances, and what it reads."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from roam.bench import networks
from roam.bench.ablation import ablation, variants
from roam.bench.layered import layered_graph
from roam.bench.wide import LAYERED, WIDTHS, Graphs, wide_bench, wide_graphs
from roam.core.errors import CycleError, FileFormatError
from roam.core.lifetime import live_peak
from roam.core.node_link import read_node_link
from roam.planner import replaced_peak

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
    graphs = Graphs(sizes=(30,), each=2, instances=tmp_path)
    rows = wide_bench(graphs, out, seconds=5.0, console=Console(quiet=True))
    assert [row["graph"] for row in rows] == ["diamond", "layered 30, 0", "layered 30, 1"]
    assert all(row["bound"] <= row["roam"] <= min(1.0, row["annealing"]) for row in rows)
    assert len(out.read_text().splitlines()) == 3


def test_which_graphs_are_named() -> None:
    every = wide_graphs()
    assert every.sizes == tuple(WIDTHS)
    assert {"nasnet-a-b2", "randwire-3-b2", "lstm-200-b20", "two-tower-b512"} < {*every.networks}
    assert wide_graphs(LAYERED, sizes=(100,)) == Graphs(sizes=(100,))
    some = wide_graphs("darts, randwire-1-b2", each=3)
    assert some == Graphs(sizes=(), each=3, networks=("darts-b4", "randwire-1-b2"))
    with pytest.raises(ValueError, match=r"'elephant'.*layered.*nasnet-a-b2"):
        wide_graphs("layered, elephant")


@pytest.mark.slow
def test_a_network_has_a_row_with_gradients_kept_and_one_with_them_folded(tmp_path: Path) -> None:
    out, screen = tmp_path / "rows.jsonl", io.StringIO()
    graphs = Graphs(sizes=(), networks=("two-tower-b512",))
    kept, folded = wide_bench(graphs, out, seconds=5.0, console=Console(file=screen, width=160))
    assert [json.loads(line) for line in out.read_text().splitlines()] == [kept, folded]
    assert (kept["step"], folded["step"]) == ("drop-in", "whole")
    assert folded["bound"] <= folded["peak"] < kept["peak"] <= kept["pytorch"] == folded["pytorch"]
    assert f"{folded['peak'] / 2**20:.1f}" in screen.getvalue()


def test_the_table_of_networks() -> None:
    problem = layered_graph(30)
    figures = networks.run(problem, seconds=1.0)
    assert figures["bound"] <= figures["live_peak"] <= figures["peak"]
    row = {"network": "some", "step": "whole", "pytorch": replaced_peak(problem), **figures}
    assert networks.line(row).startswith("some, whole: 30 ops, gap 0.00%")
    screen = io.StringIO()
    Console(file=screen, width=160).print(networks.table([row]))
    assert figures["method"] in screen.getvalue()


def test_every_search_is_switched_off_once(tmp_path: Path) -> None:
    out, screen = tmp_path / "rows.jsonl", io.StringIO()
    graphs = Graphs(sizes=(30,), each=2)
    rows = ablation(graphs, out, seconds=5.0, console=Console(file=screen, width=120))
    names = list(variants())
    assert {"all", "no tree", "no local search"} <= {*names}
    assert [row["searches"] for row in rows] == 2 * names
    assert [json.loads(line) for line in out.read_text().splitlines()] == rows
    assert all(name in screen.getvalue() for name in names)
    assert not variants()["no tree"].tree
    assert variants()["no tree"].local_search


def test_a_graph_is_read_in_its_given_order(tmp_path: Path) -> None:
    problem = read_node_link(written(tmp_path, DIAMOND), timed=False).problem()
    assert [op.name for op in problem.ops] == ["na", "nc", "nb", "nd"]
    assert live_peak(problem, range(4)) == 27  # b and c while d is made


def test_a_graph_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"diamond\.json is no graph"):
        read_node_link(written(tmp_path, {"nodes": [{"id": 1}], "links": []}), timed=False)
    cycle = {**DIAMOND, "links": [{"source": "a", "target": "b"}, {"source": "b", "target": "a"}]}
    with pytest.raises(CycleError, match="wait for one another"):
        read_node_link(written(tmp_path, cycle), timed=False)


def test_the_same_seed_the_same_graph() -> None:
    assert layered_graph(50, seed=3).fingerprint == layered_graph(50, seed=3).fingerprint
    assert layered_graph(50, seed=3).fingerprint != layered_graph(50, seed=4).fingerprint
