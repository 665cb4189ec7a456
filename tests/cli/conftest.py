"""A folder for the commands about plans."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from roam.inspect.breakdown import breakdown
from roam.inspect.step_plan import StepPlan
from tests.cli.commands import FACTORIES
from tests.inspect.steps import chain, step


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two plans and a module of factories, which is the current one."""
    (tmp_path / "step.json").write_bytes(step().to_json())
    (tmp_path / "grown.json").write_bytes(step(saved=7).to_json())
    (tmp_path / "two.json").write_bytes(StepPlan((*step().graphs, *chain(2).graphs)).to_json())
    (tmp_path / "golden.json").write_bytes(breakdown(step()).to_json("test"))
    (tmp_path / "factories.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "factories", raising=False)
    return tmp_path
