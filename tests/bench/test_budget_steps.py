"""The tables of training steps within budgets, alone and beside PyTorch's own budgets."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from roam.bench import budget_steps, budget_stock, paired_runs
from roam.bench.children import Result
from roam.bench.compilers import BUDGETS, find


def test_every_share_has_a_contender() -> None:
    for base in ("roam aten", "roam aten adama", "roam inductor", "roam inductor adama"):
        for share in BUDGETS:
            found = find(f"{base} {share}%")
            assert found.options["budget"] == f"{share}%"
            assert found.folds == ("adama" in base)


@pytest.mark.parametrize("wrong", [{"lowering": "triton"}, {"only": "nobody"}])
def test_unknown_names_are_refused(wrong: dict[str, Any]) -> None:
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


def test_pytorchs_budgets_that_reach_one_peak_are_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest of them, with roam's step at that peak beside it; who fails says so."""
    mebi = 2**20
    peaks = {"inductor 100%": 9 * mebi, "inductor 60%": 9 * mebi, "inductor 30%": 6 * mebi}

    def measured(entry: str, contender: str, *_: Any) -> Result:
        if contender not in peaks:
            return {"contender": contender, "error": "no such budget"}
        return {"contender": contender, "transient": peaks[contender], "inputs": 5 * mebi}

    def compare(entry: str, contenders: list[str], timing: Any, *_: Any) -> list[Result]:
        base, ours = contenders
        assert timing.base == base
        assert ours == f"roam inductor {peaks[base] + 5 * mebi}B"
        step = {"transient": peaks[base] - 1, "planned": peaks[base] - 1, "ratios": [0.9]}
        return [{}, {"contender": ours, **step, "extra": 0.02}]

    monkeypatch.setattr(budget_stock, "measured", measured)
    monkeypatch.setattr(budget_stock, "compare", compare)
    console = Console(file=io.StringIO(), width=200)
    rows = budget_stock.budget_against_stock("gpt2", shares=(100, 60, 30, 1), console=console)
    assert [(row["share"], row.get("stock")) for row in rows] == [
        (100, 9 * mebi), (30, 6 * mebi), (1, None),
    ]  # fmt: skip
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for words in ("9.0", "6.0", "2.0%", "0.900", "no such budget"):
        assert words in shown


def test_contenders_with_a_budget_in_their_names() -> None:
    assert find("roam aten 1024B").options["budget"] == "1024B"
    assert find("inductor 60%").backend == "inductor"
    for wrong in ("eager 60%", "inductor 60B", "nobody", "roam aten 60"):
        with pytest.raises(ValueError, match="no contender"):
            find(wrong)
