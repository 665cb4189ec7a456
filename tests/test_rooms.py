"""Draws who imports whom: no arrow up, no circle between files, and few rooms known to any."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import networkx
import pytest

ROOT = Path(__file__).parents[1]

# from the ground up: a room imports from those before it, and from itself
ROOMS = (
    ("core",),
    ("passes", "solvers"),
    ("inspect", "runtime"),
    ("optim",),
    ("options", "planner"),
    ("capture",),
    ("lowering",),
    ("step",),
    ("backend",),
    ("offline", "whole_step"),
    ("__init__",),
    ("pytest_plugin",),
    ("bench",),
    ("cli",),
)
HEIGHT = {room: height for height, rooms in enumerate(ROOMS) for room in rooms}
MOST = 6  # other rooms that one may import


def modules() -> dict[str, Path]:
    """Every module of the package, by its name without `roam.`."""
    found: dict[str, Path] = {}
    for folder in ("roam", "passes", "solvers"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            parts = parts[1:] if folder == "roam" else parts
            if parts[0] in ("passes", "solvers") and folder == "roam":
                continue  # links to the folders beside
            if parts[-1] == "__init__" and len(parts) > 1:
                parts = parts[:-1]
            found[".".join(parts)] = file
    return found


def imports(file: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules that a file imports when it runs, inside functions too."""
    tree = ast.parse(file.read_text())
    for_types = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and "TYPE_CHECKING" in ast.dump(test.test)
        for node in ast.walk(test)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names if a.name.partition(".")[0] == "roam"]
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = [f"{node.module}.{a.name}" for a in node.names]
            names = [w if w.removeprefix("roam.") in known else node.module for w in whole]
        else:
            continue
        for name in names:
            if name == "roam":
                yield "__init__"
            elif name.startswith("roam."):
                yield name.removeprefix("roam.")


@pytest.fixture(scope="module")
def arrows() -> set[tuple[str, str]]:
    known = modules()
    return {(a, b) for a, file in known.items() for b in imports(file, known) if a != b}


def room(module: str) -> str:
    return module.partition(".")[0]


def test_every_module_lies_in_a_room(arrows: set[tuple[str, str]]) -> None:
    assert {room(m) for m in modules()} == set(HEIGHT)
    assert len(arrows) > 300  # of a drawing that sees nothing every claim would hold


def test_no_arrow_runs_back_up(arrows: set[tuple[str, str]]) -> None:
    up = {
        (a, b)
        for a, b in arrows
        if room(a) != room(b) and HEIGHT[room(b)] >= HEIGHT[room(a)] and a != "__init__"
    }
    assert up == set()


def test_no_circle_of_files(arrows: set[tuple[str, str]]) -> None:
    drawing = networkx.DiGraph(arrows)
    circles = [c for c in networkx.strongly_connected_components(drawing) if len(c) > 1]
    assert circles == []


def test_no_room_knows_more_than_six_others(arrows: set[tuple[str, str]]) -> None:
    """The single files beside the rooms (planner, options, backend...) count as one room."""
    known = defaultdict(set)
    for a, b in arrows:
        if room(a) != room(b):
            folder = (ROOT / "roam" / room(b)).is_dir()
            known[room(a)].add(room(b) if folder else "roam")
    assert {a: sorted(rooms) for a, rooms in known.items() if len(rooms) > MOST} == {}
