"""The command line, and the demo behind it."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from roam.bench import text_corpus
from roam.bench.demo import demo
from roam.bench.demo_worker import Outcome, Settings
from roam.cli import app
from roam.core.errors import OptionError, PlanError
from roam.core.files import problem_to_json
from roam.core.plan import Plan
from roam.core.problem import Buffer, Home, Kind, Op, Problem

SMALL = Settings(layers=1, heads=1, width=16, seq=16, batch=1, steps=4, threads=1)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A plan file and its problem file."""
    problem = Problem(
        "tiny",
        (Buffer("x", 64, Kind.INPUT, Home.USER), Buffer("y", 64, Kind.OUTPUT, Home.EXTERNAL)),
        (Op("copy", reads=(0,), creates=(1,)),),
    )
    plan = Plan("tiny", problem.fingerprint, (0,), {}, {}, (), 64, 64, 64, 64, "hand")
    (tmp_path / "plan.json").write_bytes(plan.to_json())
    (tmp_path / "problem.json").write_bytes(problem_to_json(problem))
    return tmp_path / "plan.json", tmp_path / "problem.json"


@pytest.mark.parametrize("command", [[], ["demo"], ["show"], ["bench"], ["bench", "zoo"]])
def test_help(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


@pytest.mark.parametrize(
    "command",
    [["nothing"], ["show"], ["demo", "--layers", "0"], ["bench", "zoo", "--only", "nothing"]],
)
def test_what_typer_does_not_know_exits_2(command: list[str]) -> None:
    assert run(*command).exit_code == 2


def test_show(files: tuple[Path, Path]) -> None:
    result = run("show", files[0])
    assert result.exit_code == 0
    assert "tiny" in result.stdout
    assert "OPTIMAL" in result.stdout


def test_show_with_the_problem_names_the_worst_op(files: tuple[Path, Path]) -> None:
    result = run("show", files[0], "--problem", files[1])
    assert result.exit_code == 0
    assert "op 0, copy" in result.stdout


def test_show_text(files: tuple[Path, Path]) -> None:
    result = run("show", files[0], "--problem", files[1], "--text")
    assert result.exit_code == 0
    assert "run copy" in result.stdout


def test_show_picture(files: tuple[Path, Path], tmp_path: Path) -> None:
    assert (
        run("show", files[0], "--problem", files[1], "--picture", tmp_path / "p.svg").exit_code == 0
    )
    assert (tmp_path / "p.svg").stat().st_size > 0


def test_a_bad_plan_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(b"\xff not json")
    result = run("show", tmp_path / "plan.json")
    assert result.exit_code == 1
    assert result.stderr.startswith("roam: not a whole plan file")
    assert result.stderr.count("\n") == 1


def test_show_text_without_the_problem_says_what_to_add(files: tuple[Path, Path]) -> None:
    result = run("show", files[0], "--text")
    assert result.exit_code == 1
    assert "--problem" in result.stderr


def test_a_plan_that_is_not_valid_is_refused(files: tuple[Path, Path]) -> None:
    plan = Plan.from_json(files[0].read_bytes())
    files[0].write_bytes(msgspec.structs.replace(plan, peak=1).to_json())
    assert run("show", files[0], "--problem", files[1]).exit_code == 1


def test_traceback_lets_the_error_through(files: tuple[Path, Path]) -> None:
    plan = Plan.from_json(files[0].read_bytes())
    files[0].write_bytes(msgspec.structs.replace(plan, peak=1).to_json())
    result = run("--traceback", "show", files[0], "--problem", files[1])
    assert isinstance(result.exception, PlanError)


def test_the_corpus_is_the_same_every_time() -> None:
    one = text_corpus.text(100_000)
    assert len(one) == 100_000
    assert one == text_corpus.text(100_000)
    assert text_corpus.text(5_000) == one[:5_000]


def test_the_demo_ends_with_a_table(tmp_path: Path) -> None:
    screen = io.StringIO()
    eager, unknown = demo(
        SMALL, tmp_path, ["eager", "no-such-backend"], Console(file=screen, width=100)
    )
    assert eager.error == ""
    assert len(eager.losses) == SMALL.steps
    assert eager.whole >= eager.passes > 0
    assert "no-such-backend" in unknown.error
    shown = screen.getvalue()
    assert f"{eager.losses[-1]:.6f}" in shown
    assert "no-such-backend failed: InvalidBackend" in shown
    stored = msgspec.json.decode(
        (tmp_path / "results.json").read_bytes(), type=tuple[Settings, list[Outcome]]
    )
    assert stored == (SMALL, [eager, unknown])


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [({"heads": 3}, "3 heads"), ({"steps": 3}, "3 steps"), ({"vocab": 255}, "255")],
)
def test_settings_that_make_no_model_are_refused(
    tmp_path: Path, wrong: dict[str, int], complaint: str
) -> None:
    with pytest.raises(OptionError, match=complaint):
        demo(msgspec.structs.replace(SMALL, **wrong), tmp_path, [])
