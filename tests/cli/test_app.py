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
from roam.cli.app import app
from roam.core.errors import OptionError

SMALL = Settings(layers=1, heads=1, width=16, seq=16, batch=1, steps=4, threads=1)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.mark.parametrize("command", [[], ["demo"], ["bench"], ["bench", "zoo"]])
def test_help(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


@pytest.mark.parametrize(
    "command",
    [["nothing"], ["demo", "--layers", "0"], ["bench", "zoo", "--only", "nothing"]],
)
def test_what_typer_does_not_know_exits_2(command: list[str]) -> None:
    assert run(*command).exit_code == 2


def test_a_wrong_size_is_not_blamed_on_the_names() -> None:
    """Every ValueError of a bench was once an invalid `--only`."""
    result = run("bench", "adama", "--only", "gpt2", "--memory", "much")
    assert result.exit_code == 2
    assert "'much' is no size" in result.stderr
    assert "--only" not in result.stderr


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
