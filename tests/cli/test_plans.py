"""The commands about plans."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from roam.bench.layered import layered_graph
from roam.cli.app import app
from roam.core.errors import FigureError, RoamError, UnplannedStepError
from roam.core.plan import Plan
from roam.core.problem import Problem
from roam.core.proof import MustLive
from roam.inspect.breakdown import breakdown
from roam.inspect.export import FORMATS
from roam.inspect.record import GraphRecord
from roam.inspect.step_plan import StepPlan
from roam.planner import plan
from tests.core.strategies import graph
from tests.core.test_atomic_write import files_no_longer_than
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


@pytest.mark.parametrize("measured", [True, False])
def test_plan_says_what_the_ops_cost(here: Path, measured: bool) -> None:
    how = ["--measure-costs"] if measured else []
    made = run("plan", "factories:positional", "--lowering", "aten", "--out", "out.json", *how)
    (line,) = (line for line in made.stdout.splitlines() if "the step's ops take" in line)
    for arguments in ((), ("--explain",)):
        assert line in run("show", "out.json", *arguments).stdout
    found = json.loads(run("show", "out.json", "--json").stdout)["time"]
    assert 0 <= found["estimated"] <= found["seconds"]
    assert (found["estimated"] < found["seconds"]) or not measured
    assert json.loads(run("show", "step.json", "--json").stdout)["time"] is None


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
        ("nowhere:f", "ModuleNotFoundError: No module named 'nowhere'\n"),
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


def forged(here: Path, **fields: object) -> None:
    """Writes forged.json: the step with other figures than its own."""
    [[problem, plan]] = step().planned
    wrong = msgspec.structs.replace(plan, **fields)  # type: ignore[arg-type]
    (here / "forged.json").write_bytes(StepPlan((GraphRecord("step", problem, wrong),)).to_json())


def _five_mib(problem: Problem, plan: Plan, seconds: float) -> Plan:
    return plan.with_proof(5 << 20)


def test_a_bound_without_a_proof_is_shown_as_stated(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is proven beyond 5 MiB here: of the file's 6 MiB the rest is its own word."""
    monkeypatch.setattr("roam.inspect.step_plan.prove", _five_mib)
    shown = " ".join(run("show", "step.json").stdout.split())
    assert "stated bound 6.00 MiB, not proven here" in shown
    assert "at least 5.00 MiB; 6.00 MiB stated, not proven" in shown
    assert "6.00 MiB stated, not proven" in run("show", "step.json", "--explain").stdout
    assert f"stated={6 << 20}" in run("show", "step.json", "--text").stdout
    [graph] = json.loads(run("show", "step.json", "--json").stdout)["graphs"]
    assert (graph["lower_bound"], graph["stated"]) == (5 << 20, 6 << 20)
    assert run("show", "step.json", "--html", "p.html", "--picture", "p.svg").exit_code == 0
    assert "6.00 MiB stated, not proven" in (here / "p.html").read_text()
    assert "(before and after: stated, not proven)" in run("diff", "step.json", "grown.json").stdout


def test_a_golden_proves_nothing(here: Path) -> None:
    assert "(before: stated, not proven)" in run("diff", "golden.json", "step.json").stdout
    assert "stated" not in run("diff", "step.json", "grown.json").stdout


@pytest.mark.parametrize("bound", [-1, 2**40, step().peak, step().planned[0][1].live_peak])
def test_a_forged_bound_is_refused_in_one_line(here: Path, bound: int) -> None:
    forged(here, lower_bound=bound)
    for command in (("show",), ("diff", "step.json"), ("export",)):
        more = ("chrome",) if command == ("export",) else ()
        result = run(*command, "forged.json", *more)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert f"roam: forged.json: the plan states a lower bound of {bound} bytes" in result.stderr


def test_names_are_shown_as_they_are(here: Path) -> None:
    """Rich would take [/] for markup, and matplotlib dollars for mathematics."""
    text = (here / "step.json").read_bytes()
    text = text.replace(b'"mm"', b'"[/]$"').replace(b'"step"', b'"[/]$\\\\f$"')
    problem = msgspec.json.decode(text)["graphs"][0]["problem"]
    made = msgspec.convert(problem, Problem)
    old = step().planned[0][0].fingerprint
    (here / "odd.json").write_bytes(text.replace(old.encode(), made.fingerprint.encode()))
    result = run("show", "odd.json", "--picture", "odd.svg", "--html", "odd.html")
    assert result.exit_code == 0
    assert "op 1, [/]$ in head" in result.stdout


def test_a_guard_refuses_what_nobody_knows(here: Path) -> None:
    odd = GraphRecord("odd", reason="a size that depends on data")
    (here / "odd.json").write_bytes(StepPlan((*step().graphs, odd)).to_json())
    (here / "none.json").write_bytes(StepPlan(()).to_json())
    for file, reason in (("odd.json", "odd: unplanned, a size"), ("none.json", "no graphs")):
        for pair in (("step.json", file), (file, "step.json")):
            result = run("diff", *pair, "--tolerance", "1%")
            assert result.exit_code == 2
            assert f"{file}: nobody knows what the step takes" in result.stderr
            assert reason in result.stderr
        assert run("diff", "step.json", file).exit_code == 0
        with pytest.raises(UnplannedStepError, match=reason):
            StepPlan.from_json((here / file).read_bytes()).fits("1TiB")


def test_nothing_is_written_over_the_plan(here: Path) -> None:
    before = (here / "step.json").read_bytes()
    (here / "plan.csv").write_bytes(before)
    (here / "link.svg").symlink_to("step.json")
    for arguments in (
        ("export", "step.json", "chrome", "--out", "step.json"),
        ("export", "step.json", "chrome", "--out", "./../" + here.name + "/step.json"),
        ("export", "plan.csv", "minimalloc"),
        ("show", "step.json", "--html", "step.json"),
        ("show", "step.json", "--picture", "link.svg"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2
        assert "is the plan file itself" in result.stderr
    assert (here / "step.json").read_bytes() == before == (here / "plan.csv").read_bytes()


def test_a_full_disk_leaves_the_plan_that_was_there(here: Path) -> None:
    (here / "out.json").write_text("old")
    with files_no_longer_than(100):
        written = (
            run("export", "step.json", "chrome", "--out", "out.json"),
            run("show", "step.json", "--html", "out.json"),
        )
    for result in written:
        assert result.exit_code == 2
        assert "roam: cannot write out.json: File too large" in result.stderr
    assert (here / "out.json").read_text() == "old"
    assert not [p.name for p in here.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize(
    ("command", "no"),
    [
        ("plan", "1: it takes more than --fits"),
        ("show", ""),
        ("diff", "1: it grew by more than --tolerance"),
        ("export", ""),
        ("layout", "1: proven not to fit"),
        ("demo", "1: a contender failed"),
    ],
)
def test_exit_codes_are_told(command: str, no: str) -> None:
    shown = " ".join(run(command, "--help").stdout.split())
    assert "Exit codes. 0: done, or the answer is yes." in shown
    assert "2: an error (command line, file, model)" in shown
    assert no in shown


def test_an_answer_and_an_error_have_codes_of_their_own(here: Path) -> None:
    assert run("diff", "step.json", "grown.json", "--tolerance", "1%").exit_code == 1
    for second in ("nowhere.json", str(here), "golden.json\x00", "factories.py"):
        assert run("diff", "step.json", second, "--tolerance", "1%").exit_code == 2
    assert run("diff", "step.json", "grown.json", "--tolerance", "much").exit_code == 2


def written(here: Path, problem: Problem, found: Plan) -> str:
    file = here / "made.json"
    file.write_bytes(StepPlan((GraphRecord(problem.name, problem, found),)).to_json())
    return file.name


def test_a_bound_is_verified_by_networkx(here: Path) -> None:
    problem = layered_graph(30)
    file = written(here, problem, plan(problem))
    result = run("show", file, "--verify")
    assert result.exit_code == 0
    assert result.stdout.startswith("layered 30, 0: lower bound ")
    assert result.stdout.endswith(": verified by networkx\n")


def test_a_forged_proof_is_refused_in_one_line(here: Path) -> None:
    problem = graph("training_step")
    found = plan(problem)
    assert found.proof != MustLive(0)
    forgery = msgspec.structs.replace(found, proof=MustLive(0))
    result = run("show", written(here, problem, forgery), "--verify")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "roam: made.json: the plan states a lower bound of 344 bytes" in result.stderr


def test_a_bound_that_is_not_proven_again_has_its_exit_code(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = graph("diamond")
    file = written(here, problem, plan(problem))
    found = run("show", file, "--verify")
    assert (found.exit_code, "by roam's own search" in found.stdout) == (0, True)
    monkeypatch.setattr("roam.inspect.step_plan.prove", lambda *given: given[1].with_proof(1))
    unproven = run("show", file, "--verify")
    assert (unproven.exit_code, "not proven again" in unproven.stdout) == (3, True)


@pytest.mark.parametrize("cut_short", [False, True])
def test_what_proved_the_bound_and_who_cut_it_short_are_shown(here: Path, cut_short: bool) -> None:
    problem = graph("training_step")
    found = msgspec.structs.replace(plan(problem), cut_short=cut_short)
    file = written(here, problem, found)
    shown = " ".join(run("show", file).stdout.split())
    assert "proven by must-live at linear_2_backward" in shown
    assert ("s, cut short by the clock" in shown) == cut_short
    [figures] = json.loads(run("show", file, "--json").stdout)["graphs"]
    assert figures["cut_short"] is cut_short
    assert figures["proof"] == {"type": "must-live", "op": 3}
