"""What the README says is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import roam

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_ci_runs_the_test_command() -> None:
    [command] = [b.strip() for b in blocks("sh") if "pytest" in b]
    assert command in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_examples_run(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    torch._dynamo.reset()
    roam.reset_report()
    exec(compile(blocks("python")[number], f"README example {number}", "exec"), {})
    assert roam.report().planned >= 1
    assert roam.report().unplanned == 0


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_options_are_listed() -> None:
    from roam.options import Options

    for name in Options.__dataclass_fields__:
        assert f"`{name}`" in README or f'"{name}"' in README
