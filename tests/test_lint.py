"""Style, types and the fences between the rooms, as pyproject.toml has them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHECKS = {
    "ruff": ("ruff", "check", "."),
    "format": ("ruff", "format", "--check", "."),
    "types": ("mypy",),
}


@pytest.mark.parametrize("check", CHECKS)
def test_checks(check: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *CHECKS[check]], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def imports(*modules: str) -> str:
    """The source of a program that says which of torch and ortools the modules bring in."""
    lines = ["import sys", *(f"import {m}" for m in modules)]
    return "\n".join([*lines, "print(sorted({'torch', 'ortools'} & set(sys.modules)))"])


@pytest.mark.parametrize(
    "module", ["problem", "plan", "lifetime", "bounds", "check", "text", "files"]
)
def test_the_core_stands_on_nothing(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", imports(f"roam.core.{module}")],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_the_optimizers_come_when_asked_for() -> None:
    """`import roam` alone brings no torch; its names do, `roam.optim` among them."""
    lines = (
        "import sys, roam",
        "assert 'torch' not in sys.modules",
        "assert 'optim' in roam.__all__",
        "print(roam.optim.AdamA.__name__)",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "AdamA"


def test_no_arrow_runs_back_up() -> None:
    """Nothing in passes/ or solvers/ knows the planner, a lowering or the backend."""
    upper = (
        "roam.planner",
        "roam.lowering",
        "roam.backend",
        "roam.capture.fx_problem",
        "roam.cli.app",
    )
    for file in (
        *ROOT.glob("passes/**/*.py"),
        *ROOT.glob("solvers/**/*.py"),
        *ROOT.glob("roam/core/*.py"),
    ):
        text = file.read_text()
        assert not [u for u in upper if f"import {u}" in text or f"from {u}" in text], file


@pytest.mark.parametrize("room", ["passes", "solvers"])
def test_the_bare_names_are_refused(room: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {room}"], cwd=ROOT, capture_output=True, text=True
    )
    assert f"this package is roam.{room}" in done.stderr
