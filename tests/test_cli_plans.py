"""The commands about plans."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from roam.cli import app
from roam.core.errors import FigureError, RoamError
from roam.inspect.breakdown import breakdown
from roam.inspect.export import FORMATS
from roam.inspect.report import GraphRecord
from roam.inspect.step_plan import StepPlan
from tests.inspect.steps import chain, step

FACTORIES = """
import torch
from torch import nn
from roam.optim import AdamA

def model():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

def positional():
    return model(), torch.randn(5, 8), lambda y: y.sum()

def by_name():
    return model(), {"input": torch.randn(5, 8)}, lambda y: y.sum()

def folded():
    made = model()
    return made, (torch.randn(5, 8),), lambda y: y.sum(), AdamA(made.parameters())

def broken():
    raise ValueError("no such layer")

def nothing():
    return None

def short():
    return model(), torch.randn(5, 8)

def wide():
    return model(), torch.randn(5, 9), lambda y: y.sum()

def no_loss():
    return model(), torch.randn(5, 8), 3

def detached():
    return model(), torch.randn(5, 8), lambda y: y.detach().sum()

def unreduced():
    return model(), torch.randn(5, 8), lambda y: y

number = 3
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


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


@pytest.mark.parametrize("command", ["plan", "show", "diff", "export"])
def test_help(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout
    assert run(command).exit_code == 2


def test_plan(here: Path) -> None:
    result = run("plan", "factories:positional", "--out", "out.json", "--fits", "1MiB")
    assert result.exit_code == 0, result.stderr
    assert "1 graph, total" in result.stdout
    read = StepPlan.from_json((here / "out.json").read_bytes())
    assert len(read.planned) == 1
    shown = run("show", "out.json")
    assert shown.stdout == result.stdout


@pytest.mark.parametrize("name", ["by_name", "folded"])
def test_plan_what_factories_may_return(here: Path, name: str) -> None:
    found = json.loads(run("plan", f"factories:{name}", "--json").stdout)
    kinds = {part["kind"] for part in found["breakdown"]["parts"]}
    assert ("state" in kinds) == (name == "folded")
    breakdown = found["breakdown"]
    assert found["total"] == breakdown["peak"] + breakdown["persistent"]
    [graph] = found["graphs"]
    assert graph["peak"] == breakdown["peak"] >= graph["lower_bound"]


def test_plan_that_does_not_fit(here: Path) -> None:
    result = run("plan", "factories:positional", "--fits", "1KiB", "--out", "out.json")
    assert result.exit_code == 1
    assert "roam: does not fit into 1KiB: 1.12 KiB missing" in result.stderr
    assert (here / "out.json").exists()


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("factories", "write pkg.module:factory"),
        ("nowhere:f", "'nowhere' cannot be imported: ModuleNotFoundError"),
        ("factories:missing", "has no function 'missing'"),
        ("factories:number", "has no function 'number'"),
        ("factories:broken", "no such layer (FOLDER/factories.py, line 20, in broken: raise "),
        ("factories:nothing", "no tuple (model, batch, loss), but NoneType"),
        ("factories:short", "no tuple (model, batch, loss), but (Sequential, Tensor)"),
        ("factories:wide", "does not run, RuntimeError: a and b must have same reduction dim"),
        ("factories:no_loss", "no_loss does not run, TypeError: 'int' object is not callable"),
        ("factories:detached", "the loss trains nothing"),
        ("factories:unreduced", "the loss is no scalar but torch.float32 [5, 4]"),
    ],
)
def test_a_bad_factory_is_one_line(here: Path, target: str, complaint: str) -> None:
    result = run("plan", target)
    assert result.exit_code == 2
    assert complaint.replace("FOLDER", str(here)) in result.stderr
    assert result.stderr.count("\n") == 1
    assert isinstance(run("--traceback", "plan", target).exception, RoamError)


def test_a_bad_size_is_said_before_the_work(here: Path) -> None:
    assert "'3XB' is no size" in run("plan", "nowhere:f", "--fits", "3XB").stderr


def test_show_names_the_worst_op_and_what_it_holds(here: Path) -> None:
    result = run("show", "step.json")
    assert result.exit_code == 0
    assert "op 1, mm in head" in result.stdout
    assert "3.00 MiB  temporary, outside, head" in result.stdout


def test_show_text(here: Path) -> None:
    assert "run mm_1" in run("show", "step.json", "--text").stdout
    assert "run backward_0" in run("show", "two.json", "--text", "--graph", 2).stdout


def test_plan_looks_at_its_options_first(here: Path) -> None:
    result = run("plan", "factories:positional", "--out", "nowhere/out.json")
    assert "cannot write nowhere/out.json: there is no folder nowhere" in result.stderr
    assert run("plan", "factories:positional", "--device", "meta").exit_code == 0
    assert run("plan", "factories:positional", "--device", "moon").exit_code == 2


def test_show_one_graph(here: Path) -> None:
    both, second = (
        json.loads(run("show", "two.json", *a, "--json").stdout)["graphs"]
        for a in ((), ("--graph", 2))
    )
    assert second == both[1:]
    assert "no such graph" in run("show", "two.json", "--graph", 7).stderr


def test_show_explains_the_peak(here: Path) -> None:
    step = StepPlan.from_json((here / "step.json").read_bytes())
    assert run("show", "step.json", "--explain").stdout == f"{step.explain()}\n"


def test_show_files(here: Path) -> None:
    assert run("show", "step.json", "--picture", "p.svg", "--html", "p.html").exit_code == 0
    assert (here / "p.svg").read_bytes().startswith(b"<?xml")
    assert (here / "p.html").read_text().startswith("<!doctype html>")


def test_show_json(here: Path) -> None:
    found = json.loads(run("show", "two.json", "--json").stdout)
    assert [g["name"] for g in found["graphs"]] == ["step", "chain"]


def test_show_unplanned(here: Path) -> None:
    unplanned = StepPlan((GraphRecord("odd", reason="an op [of] no size"),))
    (here / "odd.json").write_bytes(unplanned.to_json())
    assert "odd: unplanned, an op [of] no size" in run("show", "odd.json").stdout
    assert json.loads(run("show", "odd.json", "--json").stdout)["graphs"][0]["unplanned"]
    assert "no planned graphs" in run("show", "odd.json", "--text").stderr


def test_a_bad_file_is_one_line(here: Path) -> None:
    (here / "bad.json").write_bytes(b"\xff not json")
    result = run("show", "bad.json")
    assert result.exit_code == 2
    assert result.stderr.startswith("roam: bad.json: not a whole step plan file")
    assert result.stderr.count("\n") == 1


def test_a_plan_that_is_not_valid_is_refused(here: Path) -> None:
    [[problem, plan]] = step().planned
    wrong = GraphRecord("step", problem, msgspec.structs.replace(plan, peak=1))
    (here / "bad.json").write_bytes(StepPlan((wrong,)).to_json())
    assert run("show", "bad.json").exit_code == 2
    assert isinstance(run("--traceback", "show", "bad.json").exception, FigureError)


def test_diff(here: Path) -> None:
    result = run("diff", "step.json", "grown.json")
    assert result.exit_code == 0
    assert "by module, what grew most first" in result.stdout
    found = json.loads(run("diff", "golden.json", "grown.json", "--json").stdout)
    mib = 2**20
    assert found["modules"] == [{"name": "encoder", "before": 2 * mib, "after": 7 * mib}]


@pytest.mark.parametrize(("tolerance", "code"), [("1%", 1), ("5MiB", 0), ("4MiB", 1), ("90%", 0)])
def test_diff_tolerance(here: Path, tolerance: str, code: int) -> None:
    result = run("diff", "step.json", "grown.json", "--tolerance", tolerance)
    assert result.exit_code == code
    assert run("diff", "grown.json", "step.json", "--tolerance", tolerance).exit_code == 0


@pytest.mark.parametrize("name", FORMATS)
def test_export(here: Path, name: str) -> None:
    assert run("export", "step.json", name).exit_code == 0
    assert run("export", "two.json", name, "--graph", 2, "--out", "x").exit_code == 0
    for path, made in ((f"step{FORMATS[name].suffix}", step()), ("x", chain(2))):
        written, expected = (here / path).read_bytes(), FORMATS[name].write(*made.planned[0])
        if name == "memory_viz":  # equal pickles may differ in which strings they share
            assert pickle.loads(written) == pickle.loads(expected)
        else:
            assert written == expected


def test_export_complaints(here: Path) -> None:
    assert "the formats are memory_viz" in run("export", "step.json", "jpeg").stderr
    result = run("export", "two.json", "chrome", "--graph", 3)
    assert "no such graph: there are 1 step, 2 chain" in result.stderr
