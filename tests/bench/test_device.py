"""`roam bench device`: a fault in a row is in the table, and the rows after it run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import torch
from rich.console import Console

from roam.bench import device
from roam.bench.children import ContenderError, Result
from roam.bench.device import LATE, device_bench, table, wrong
from roam.bench.device_rows import PARTS, SUBJECTS, Row, usual_rows
from roam.bench.device_worker import bits, memory

MODEL = "tiny gpt2 fp32"
ROWS = [Row("memory", MODEL, name) for name in ("eager", "inductor", "roam aten")]
SOUND = {"transient": 2**20, "seconds": 0.5, "compile_seconds": 1.0}


class Process:
    """A worker that answers, and ends at the rows that are named."""

    def __init__(self, rows: list[str], ends_at: str) -> None:
        self.rows, self.ends_at, self.process = rows, ends_at, self

    def kill(self) -> None:
        return None

    def read(self) -> Result:
        return {"ready": True}

    def ask(self, line: str) -> Result:
        if self.ends_at in (row := self.rows[int(line)]):
            raise ContenderError(f"{row} ended with exit status 1:\nValueError: planted")
        return {**SOUND, **({"planned": 2**20} if "roam" in row else {})}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The rows that each worker was started for; each ends when it is asked for Inductor's."""
    every: list[list[str]] = []

    @contextmanager
    def process(module: str, entry: str, first: str, *more: str) -> Iterator[Process]:
        rows = [first, *(b for a, b in pairwise(more) if a == "--contender")]
        every.append(rows)
        yield Process(rows, "inductor")

    monkeypatch.setattr(device, "process", process)
    return every


def test_the_row_after_a_failed_one_runs_in_a_new_process(started: list[list[str]]) -> None:
    console = Console(width=200, record=True, quiet=True)
    found = device_bench("cpu", rows=ROWS, console=console)
    assert [row.get("failed") for row in found] == [None, "ValueError: planted", None]
    assert found[2]["planned"] == 2**20
    assert len(started) == 2


def test_what_there_was_no_time_for_is_named(started: list[list[str]]) -> None:
    found = device_bench("cpu", rows=ROWS, seconds=0.0, console=Console(quiet=True))
    assert [row["late"] for row in found] == [LATE] * 3
    assert started == []


@pytest.mark.parametrize(
    ("figures", "complaint"),
    [
        ({"planned": 100, "transient": 100}, None),
        ({"planned": 90, "transient": 100}, "-10.0% planned"),
        ({"part": "budget", "planned": 100, "transient": 100, "limit": 50}, "above the budget"),
        ({"part": "budget", "found": 2, "least": 1}, None),
        ({"part": "bits", "different": 2, "parameters": 28}, "2 of 28 gradients"),
        ({"unplanned": 1, "reasons": ["a loop"]}, "without a plan: a loop"),
    ],
)
def test_figures_that_are_not_as_promised_are_faults(
    figures: dict[str, Any], complaint: str | None
) -> None:
    said = wrong({"part": "memory", **figures})
    assert (said is None) == (complaint is None)
    assert complaint is None or (said is not None and complaint in said)


def test_the_table_shows_faults_and_figures() -> None:
    row = {"part": "memory", "model": MODEL, "contender": "roam aten"}
    console = Console(width=200)
    with console.capture() as captured:
        console.print(
            table(
                "cuda",
                [
                    {**row, "contender": "inductor", **SOUND},
                    {**row, **SOUND, "seconds": 0.25, "allocated": 90, "reserved": 100},
                    {**row, "failed": "ValueError: planted"},
                ],
            )
        )
    text = captured.get()
    assert "ValueError: planted" in text
    assert "10.0%" in text
    assert "0.500" in text


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="no part 'speed', only: memory, bits"):
        device_bench("cpu", only="speed")
    with pytest.raises(ValueError, match="no device 'abacus'"):
        device_bench("abacus")


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_every_row_has_a_model_and_a_part(where: str) -> None:
    rows = usual_rows(where)
    assert {row.part for row in rows} == set(PARTS)
    assert {row.model for row in rows} <= set(SUBJECTS)


def test_the_worker_measures_what_was_planned() -> None:
    cpu = torch.device("cpu")
    found = memory(SUBJECTS[MODEL], "roam aten", cpu)
    assert wrong({"part": "memory", **found}) is None
    assert found["simulated"] >= found["planned"]
    assert bits(SUBJECTS[MODEL], "roam aten", cpu)["different"] == 0
