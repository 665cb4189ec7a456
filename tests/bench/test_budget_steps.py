"""The table of training steps within budgets."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from roam.bench import budget_steps, paired_runs
from roam.bench.children import Result
from roam.bench.compilers import BUDGETS, CONTENDERS


def test_every_share_has_a_contender() -> None:
    for base in ("roam aten", "roam aten adama", "roam inductor", "roam inductor adama"):
        for share in BUDGETS:
            found = CONTENDERS[f"{base} {share}%"]
            assert found.options["budget"] == f"{share}%"
            assert found.folds == ("adama" in base)


@pytest.mark.parametrize("wrong", [{"lowering": "triton"}, {"shares": (33,)}, {"only": "nobody"}])
def test_unknown_names_and_shares_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"nobody|lowerings are"):
        budget_steps.budget_steps(**wrong)


def test_a_refused_budget_says_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    mebi = 2**20
    step = {"planned": 8 * mebi, "transient": 7 * mebi, "compile_seconds": 1.0}
    rows: list[Result] = [
        {"contender": "roam aten", **step, "ratios": [1.0]},
        {"contender": "roam aten 75%", **step, "limit": 9 * mebi, "extra": 0.02}
        | {"extra_bound": 0.01, "ratios": [1.03]},
        {"contender": "roam aten 25%", "error": "BudgetError: no", "found": 5 * mebi}
        | {"least": 4 * mebi},
    ]
    monkeypatch.setattr(paired_runs, "compare", lambda *_: rows)
    console = Console(file=io.StringIO(), width=200)
    assert budget_steps.budget_steps("gpt2", shares=(75, 25), console=console) == rows
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for words in ("9.0", "2.00%", "1.00%", "+3.0%", "refused", "5.0 total", "at least 4.0"):
        assert words in shown
