"""`roam show --tree`."""

from __future__ import annotations

from pathlib import Path

from roam.inspect.record import GraphRecord
from roam.inspect.step_plan import StepPlan
from tests.cli.commands import run
from tests.inspect.steps import MIB, chain
from tests.inspect.test_tree_view import EXPECTED


def test_the_tree_of_a_saved_plan(here: Path) -> None:
    result = run("show", "step.json", "--tree")
    assert (result.exit_code, result.stdout) == (0, EXPECTED)


def test_the_tree_of_one_graph(here: Path) -> None:
    shown = run("show", "two.json", "--tree", "--graph", 2).stdout
    assert shown.startswith("chain: 4 ops")
    assert run("show", "two.json", "--tree").stdout == EXPECTED  # the largest
    wrong = run("show", "two.json", "--tree", "--graph", 7)
    assert (wrong.exit_code, wrong.stderr.count("\n")) == (2, 1)
    assert "no such graph: there are 1 step, 2 chain" in wrong.stderr


def test_the_depth_of_the_tree(here: Path) -> None:
    (here / "chain.json").write_bytes(chain(3).to_json())
    shown = run("show", "chain.json", "--tree", "--depth", 1).stdout
    assert len(shown.splitlines()) == 3
    assert run("show", "chain.json", "--tree", "--depth", 0).exit_code == 2
    assert "--depth is of the tree: add --tree" in run("show", "chain.json", "--depth", 1).stderr


def test_without_a_planned_graph_there_is_no_tree(here: Path) -> None:
    (here / "odd.json").write_bytes(StepPlan((GraphRecord("odd", reason="no size"),)).to_json())
    result = run("show", "odd.json", "--tree")
    assert result.exit_code == 2
    assert "no planned graphs" in result.stderr


def test_lines_do_not_break(here: Path) -> None:
    """A terminal of 80 columns would cut them."""
    shown = run("show", "step.json", "--tree").stdout
    assert max(map(len, shown.splitlines())) > 80 - len(str(MIB))
