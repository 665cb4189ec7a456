"""The commands about plans."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import msgspec
import pytest

from roam.core.errors import FigureError, RoamError, UnplannedStepError
from roam.core.problem import Problem
from roam.inspect.export import FORMATS
from roam.inspect.record import GraphRecord
from roam.inspect.step_plan import StepPlan
from tests.cli.commands import run
from tests.core.test_atomic_write import files_no_longer_than
from tests.inspect.steps import chain, step


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


def test_plan_shows_what_smaller_peaks_cost(here: Path) -> None:
    asked = ("plan", "factories:positional", "--lowering", "aten", "--pareto")
    assert "What smaller peaks cost" in run(*asked).stdout
    found = json.loads(run(*asked, "--json").stdout)
    assert found["pareto"][-1]["peak"] == found["breakdown"]["peak"]
    assert found["pareto"][-1]["seconds"] == 0
    refused = run("plan", "factories:positional", "--lowering", "inductor", "--pareto")
    assert refused.exit_code == 2
    assert "lowering='aten'" in refused.stderr


@pytest.mark.parametrize(
    ("budget", "why"),
    [
        ("110%", "at most 100 %"),
        ("0%", "above 0 %"),
        ("twelve", "a size such as '12GiB'"),
        ("12", "a size such as '12GiB'"),
        ("-1GiB", "a size such as '12GiB'"),
        ("900B", "parameters, optimizer state and inputs take by themselves"),
        ("1%", "no recomputation goes below"),
        ("1300B", "no recomputation goes below"),
    ],
)
def test_plan_with_a_budget_that_cannot_be_is_refused(here: Path, budget: str, why: str) -> None:
    asked = ("plan", "factories:positional", "--lowering", "aten", "--budget", budget)
    result = run(*asked, "--out", "out.json")
    assert result.exit_code == 2
    assert why in result.stderr
    assert "TORCHDYNAMO" not in result.stderr
    assert not (here / "out.json").exists()


def test_plan_with_a_budget_says_what_it_costs_and_so_does_its_file(here: Path) -> None:
    result = run("plan", "factories:positional", "--budget", "100%", "--out", "out.json")
    assert result.exit_code == 0, result.stderr
    assert "budget 100%: at most" in result.stdout
    assert run("show", "out.json").stdout == result.stdout
    assert "budget 100%" in run("show", "out.json", "--explain").stdout


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
    assert "4.00 MiB   57%  head" in result.stdout


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


def test_diff_writes_both_plans_as_one_page(here: Path) -> None:
    assert run("diff", "step.json", "grown.json", "--html", "both.html").exit_code == 0
    assert "total 16.00 MiB → 21.00 MiB" in " ".join((here / "both.html").read_text().split())
    golden = run("diff", "golden.json", "step.json", "--html", "none.html")
    assert (golden.exit_code, (here / "none.html").exists()) == (2, False)
    assert "--html is of two plans" in golden.stderr
    assert run("diff", "step.json", "grown.json", "--html", "grown.json").exit_code == 2


def test_show_is_short_enough_for_a_screen(here: Path) -> None:
    shown = run("show", "two.json").stdout.splitlines()
    assert len(shown) <= 25
    assert sum("▅██▆" in line for line in shown) == 1  # of the largest graph, by op


def test_show_timeline(here: Path) -> None:
    made = ("plan", "factories:positional", "--lowering", "aten", "--machine", "h200")
    assert "simulated: h200" in run(*made, "--device", "cpu", "--out", "out.json").stdout
    shown = run("show", "out.json", "--timeline", "--picture", "lanes.svg")
    assert "(simulated: h200), no stall; at most" in shown.stdout
    assert (here / "lanes.svg").exists()
    assert run("show", "step.json", "--timeline").exit_code == 2


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
