"""`roam bench convergence` on a model of no size: that it compares like with like, and says so."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from roam.bench.convergence import BASE, CONTENDERS, Run, Settings, convergence_bench, train
from roam.bench.convergence_report import spread, table, verdict, verdicts
from roam.core.errors import OptionError
from roam.optim import SlimRules

SMALL = Settings(
    layers=1, heads=1, width=16, seq=16, batch=8, steps=4, seeds=2, evaluations=2, rate=1e-2
)


def test_the_whole_bench(tmp_path: Path) -> None:
    json, picture, out = tmp_path / "runs.json", tmp_path / "runs.svg", io.StringIO()
    runs = convergence_bench(SMALL, json, picture, console=Console(file=out, width=160))
    assert [(r.contender, r.seed) for r in runs] == [(c, s) for c in CONTENDERS for s in (0, 1)]
    lines = json.read_bytes().splitlines()
    assert [msgspec.json.decode(line, type=Run) for line in lines] == runs
    assert all(r.steps == [2, 4] for r in runs)
    assert all(r.losses[1] < r.losses[0] < 6 for r in runs)  # a uniform guess is log 256 = 5.5
    assert "</svg>" in picture.read_text()
    printed = out.getvalue()
    for text in (*CONTENDERS, "transformer.h.0.attn.c_attn.weight", "query, key, value", "spread"):
        assert text in printed


def test_contenders_that_are_adamw_come_out_as_adamw() -> None:
    """SlimAdamA without a rule is AdamW on the uncut mini-batch: data, schedule, rate agree."""
    base, rules = train(SMALL, BASE, 1, None)
    nothing = SlimRules("snr", {})
    other, none = train(SMALL, "SlimAdamA, measured rules", 1, nothing)
    assert other.losses == pytest.approx(base.losses, abs=1e-5)
    assert rules is not None
    assert none is None
    assert train(SMALL, BASE, 0, None)[0].losses != pytest.approx(base.losses, abs=1e-3)


def test_verdicts() -> None:
    finals = {BASE: (2.0, 2.2), "in": (2.3, 1.9), "over": (2.2, 2.3), "under": (1.8, 2.0)}
    runs = [
        Run(contender=name, seed=seed, steps=[1], losses=[loss])
        for name, losses in finals.items()
        for seed, loss in enumerate(losses)
    ]
    assert spread(runs) == (2.0, 2.2)
    assert verdict(runs, "in") == "within it"
    assert verdict(runs, "over") == "0.0500 above it (worse)"
    assert verdict(runs, "under") == "0.1000 below it (better)"
    assert len(verdicts(runs)) == 4
    assert table(runs).row_count == 4


@pytest.mark.parametrize("wrong", [{"heads": 3}, {"batch": 12}])
def test_settings_that_cannot_be(wrong: dict[str, int]) -> None:
    with pytest.raises(OptionError, match=r"3 heads|12 sequences"):
        convergence_bench(msgspec.structs.replace(SMALL, **wrong))


def test_pictures_have_a_suffix() -> None:
    with pytest.raises(OptionError, match=r"runs\.pdf"):
        convergence_bench(SMALL, picture=Path("runs.pdf"))
