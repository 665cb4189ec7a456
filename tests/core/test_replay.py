"""Reading node-link graphs, and replaying their schedules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from roam.core.errors import CycleError, FileFormatError, MissingCostError, ScheduleError
from roam.core.node_link import read_node_link
from roam.core.replay import replay

NODES = [{"id": n, "cost_ram": 10 * (n + 1), "cost_cpu": n + 1} for n in range(4)]
LINKS = [{"source": a, "target": b} for a, b in ((0, 1), (1, 2), (2, 3), (0, 3))]


def written(folder: Path, **content: Any) -> Path:
    path = folder / "small.json"
    path.write_text(json.dumps({"nodes": NODES, "links": LINKS, "graph": {}, **content}))
    return path


def test_a_schedule_is_measured(tmp_path: Path) -> None:
    graph = read_node_link(written(tmp_path))
    assert graph.order == (0, 1, 2, 3)
    assert replay(graph, graph.order) == (80, 10)  # 0, 2 and 3 while 3 runs
    assert replay(graph, (0, 1, 2, 0, 3)) == (80, 11)  # 2 and the second 0 and 3
    assert graph.problem().ops[3].reads == (0, 2)


def test_the_latest_run_is_read(tmp_path: Path) -> None:
    nodes = [{"name": n, "out_cost": 10, "duration": 1} for n in range(4)]
    links = [{"0": a, "1": b} for a, b in ((0, 1), (1, 2), (0, 3), (2, 3))]
    graph = read_node_link(written(tmp_path, nodes=nodes, links=links))
    assert replay(graph, graph.order).peak == 30
    # the first 0 dies at 1: 1 and 2 are alone then
    assert replay(graph, (0, 1, 2, 0, 3)) == (30, 5)


@pytest.mark.parametrize(
    ("schedule", "why"),
    [
        ((1, 0, 2, 3), "before 0"),
        ((0, 1, 2), "never runs 3"),
        ((0, 1, 2, 3, 9), "no node"),
    ],
)
def test_what_is_no_schedule_is_refused(
    tmp_path: Path, schedule: tuple[int, ...], why: str
) -> None:
    with pytest.raises(ScheduleError, match=why):
        replay(read_node_link(written(tmp_path)), schedule)


@pytest.mark.parametrize(
    ("content", "error", "why"),
    [
        ({"links": [*LINKS, {"source": 3, "target": 0}]}, CycleError, "remove an edge"),
        ({"nodes": [{"id": 0}], "links": []}, MissingCostError, "cost_ram"),
        ({"nodes": [{"id": 0, "cost_ram": 1}], "links": []}, MissingCostError, "cost_cpu"),
        (
            {"nodes": [{"id": 0, "cost_ram": -1}], "links": []},
            MissingCostError,
            "-1",
        ),
        ({"links": [{"source": 7, "target": 0}]}, FileFormatError, "KeyError"),
        ({"nodes": NODES * 2}, FileFormatError, "same id"),
        ({"graph": {"order": [1, 0, 2, 3]}}, FileFormatError, "where it stands"),
        ({"graph": {"order": [0, 1]}}, FileFormatError, "2 of 4"),
    ],
)
def test_a_bad_file_is_named(
    tmp_path: Path, content: dict[str, Any], error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why) as raised:
        read_node_link(written(tmp_path, **content))
    assert "small.json" in str(raised.value)


def test_a_given_order_is_taken(tmp_path: Path) -> None:
    links = [{"source": 0, "target": 3}]
    graph = read_node_link(written(tmp_path, links=links, graph={"order": [2, 0, 3, 1]}))
    assert graph.order == (2, 0, 3, 1)
