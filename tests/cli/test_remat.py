"""`roam remat` and `roam bench budget` on small graphs in files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from roam.core.node_link import read_node_link
from roam.core.replay import replay
from tests.cli.commands import run

NODES = [
    {"id": n, "cost_ram": size, "cost_cpu": time}
    for n, (size, time) in enumerate([(10, 3), (1, 1), (10, 1), (1, 1), (1, 1)])
]
LINKS = [{"source": a, "target": b} for a, b in ((0, 1), (1, 2), (2, 3), (3, 4), (0, 4))]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "graphs" / "two_uses.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"nodes": NODES, "links": LINKS, "graph": {}}))
    return path


def test_a_schedule_is_written_and_keeps_the_budget(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "schedule.json"
    result = run("remat", file, "--budget", "60%", "--out", out, "--seconds", "0.2")
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    graph = read_node_link(file)
    assert replay(graph, found["schedule"]) == (found["peak"], found["cost"])
    assert found["schedule"].count(0) == 2
    assert found["peak"] <= found["budget"] == 12 < found["given_peak"] == 21
    assert 0 < found["extra_cost_bound"] <= found["extra_cost"] == 3
    assert "1 copies" in result.output


@pytest.mark.parametrize(
    ("budget", "why"),
    [("110%", "up to 100"), ("0%", "above 0"), ("half", "'80%'"), ("40%", "raise the budget")],
)
def test_a_wrong_budget_is_one_line(file: Path, budget: str, why: str) -> None:
    result = run("remat", file, "--budget", budget)
    assert result.exit_code == 2
    assert why in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_bench_tells_extra_time_and_bound(file: Path, tmp_path: Path) -> None:
    published, rows = tmp_path / "published.json", tmp_path / "rows.jsonl"
    published.write_text('{"two_uses": {"60": 42.9}}')
    result = run(
        *("bench", "budget", "--instances", file.parent, "--published", published),
        *("--share", "60", "--share", "30", "--json", rows, "--seconds", "0.2"),
    )
    assert result.exit_code == 0, result.output
    fits, refused = (json.loads(line) for line in rows.read_text().splitlines())
    assert (fits["extra"], fits["verified"]) == (pytest.approx(300 / 7), True)
    assert fits["bound"] <= fits["extra"] <= fits["published"]
    assert "least" in refused


@pytest.mark.parametrize(
    ("nodes", "links", "why"),
    [
        (NODES, [*LINKS, {"source": 4, "target": 1}], "wait for one another"),
        ([{"id": n, "cost_ram": 1} for n in range(5)], LINKS, "'cost_cpu' or 'duration'"),
        ([{"id": n, "cost_cpu": 1} for n in range(5)], LINKS, "'cost_ram' or 'out_cost'"),
        ([{"id": n, "cost_ram": -1, "cost_cpu": 1} for n in range(5)], LINKS, "at least 0"),
        (NODES, [*LINKS, {"source": 9, "target": 1}], "no graph in node-link JSON"),
    ],
)
def test_a_graph_that_is_none_is_one_line(
    file: Path, nodes: list[object], links: list[object], why: str
) -> None:
    file.write_text(json.dumps({"nodes": nodes, "links": links}))
    result = run("remat", file, "--budget", "60%")
    assert result.exit_code == 2
    assert why in result.stderr
    assert file.name in result.stderr
    assert result.stderr.count("\n") == 1
