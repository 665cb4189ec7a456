"""What the commands say of bounds: proven, stated, forged, verified."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from roam.bench.layered import layered_graph
from roam.core.plan import Plan
from roam.core.problem import Problem
from roam.core.proof import MustLive
from roam.inspect.record import GraphRecord
from roam.inspect.step_plan import StepPlan
from roam.planner import plan
from tests.cli.commands import run
from tests.core.strategies import graph
from tests.inspect.steps import step


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
    monkeypatch.setattr("roam.inspect.step_file.prove", _five_mib)
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
    monkeypatch.setattr("roam.inspect.step_file.prove", lambda *given: given[1].with_proof(1))
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
