"""The notebooks run, and what is stored of them is what people see on the web."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers import some_slow

ROOT = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(ROOT.glob("*.ipynb"))
QUICK = ("1_plan_by_hand",)  # the others take half a minute of a core each
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", some_slow({p.stem: p for p in NOTEBOOKS}, QUICK))
def test_it_runs(path: Path) -> None:
    """Raises CellExecutionError where a cell does."""
    book = read(path)
    client = NotebookClient(book, timeout=300, resources={"metadata": {"path": str(ROOT)}})
    client.execute()
    kinds = {o.output_type for c in book.cells if c.cell_type == "code" for o in c.outputs}
    assert "stream" in kinds


@each
def test_its_outputs_are_stored(path: Path) -> None:
    book = read(path)
    nbformat.validate(book)
    code = [c for c in book.cells if c.cell_type == "code"]
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    assert any(c.outputs for c in code)
    assert path.stat().st_size < 500_000
    text = path.read_text()
    assert '"output_type": "error"' not in text
    assert re.findall(r"(?:/home|/root|/tmp|/Users|/work)/[^\"\s]+", text) == []


@each
def test_its_links_lead_somewhere(path: Path) -> None:
    told = "\n".join(c.source for c in read(path).cells if c.cell_type == "markdown")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", told):
        assert (ROOT / target).exists(), target
