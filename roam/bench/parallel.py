"""`roam bench parallel`: a model on several ranks, gradients kept and summed by DDP, or folded.

rank 0 ─┐            N backwards, and all ranks meet once: DDP sums gradients, AdamA's ranks
rank 1 ─┴─ gloo      combine m and v
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table

from roam.bench.children import Child, ContenderError, Result
from roam.bench.compiled import mib, why_failed
from roam.bench.tables import entry_names, gather
from roam.bench.teams import team
from roam.core.atomic_write import check_writable

WORKER = "roam.bench.parallel_worker"
CONTENDERS = ("ddp inductor", "ddp roam", "adama roam")
MODELS = ("gpt2-small-128",)


def parallel_bench(
    only: str | None = None,
    json_file: Path | None = None,
    *,
    ranks: int = 2,
    micro_batches: int = 4,
    rounds: int = 5,
    contenders: Sequence[str] = CONTENDERS,
    console: Console | None = None,
) -> list[Result]:
    """Measures the memory of a rank, and times mini-batches in turns. Prints a table a model.

    A contender that fails leaves its error in its row.

    Args:
        only: names of zoo entries, separated by commas; None for `MODELS`.
        json_file: overwritten with one JSON object a row.
        ranks: processes of one thread each.
        micro_batches: of a mini-batch, on each rank.
        rounds: timed mini-batches of each contender.
        contenders: rows of the table.
        console: prints the tables.

    Returns:
        Rows of entry, contender, ranks, and
        total: bytes of parameters, states, buckets and the step at its worst moment, of the rank
            that takes most.
        seconds: of mini-batches, the median.
        ratio: the median of the seconds by those of the first contender in the same round.
        sent: elements that a rank sends in a mini-batch.

    Raises:
        ValueError: `only` has an unknown name.
    """
    console = console or Console()
    names = entry_names(only, MODELS)
    if json_file is not None:
        check_writable(json_file)

    how = ("--micro-batches", str(micro_batches))

    def rows_of(name: str) -> list[Result]:
        with console.status(f"{name} on {ranks} ranks"), ExitStack() as stack:
            rows, teams = [], {}
            for contender in contenders:
                row: Result = {"entry": name, "contender": contender, "ranks": ranks}
                try:
                    members = stack.enter_context(team(WORKER, name, contender, ranks, *how))
                    row["total"] = max(child.read()["total"] for child in members)
                    teams[contender] = members
                except ContenderError as error:
                    row["error"] = str(error)
                rows.append(row)
            _time(rows, teams, rounds)
        console.print(table(name, rows, micro_batches))
        return rows

    return gather(map(rows_of, names), json_file)


def _time(rows: Sequence[Result], teams: dict[str, list[Child]], rounds: int) -> None:
    """Adds seconds, their ratios and the elements that are sent to the rows that ran."""
    seconds: dict[str, list[float]] = {contender: [] for contender in teams}
    sent: dict[str, int] = {}
    for _ in range(rounds):
        for contender, members in teams.items():
            for child in members:
                child.tell("mini-batch")
            answers = [child.read() for child in members]
            seconds[contender].append(max(answer["seconds"] for answer in answers))
            sent[contender] = answers[0]["sent"]
    base = next(iter(seconds.values()), [])
    for row in rows:
        if taken := seconds.get(row["contender"]):
            row["seconds"] = statistics.median(taken)
            row["ratio"] = statistics.median(s / b for s, b in zip(taken, base, strict=True))
            row["sent"] = sent[row["contender"]]


def table(name: str, rows: Sequence[Result], micro_batches: int) -> Table:
    """Returns a table of one line a contender. Percentages are of the first line's memory."""
    ranks = rows[0]["ranks"]
    shown = Table(
        title=f"{name}, {ranks} ranks, {micro_batches} micro-batches: MiB a rank, millions of "
        "elements sent a mini-batch",
        title_justify="left",
    )
    for column in ("contender", "total", "", "seconds", "time", "sent"):
        shown.add_column(column, justify="left" if column == "contender" else "right")
    base = next((row["total"] for row in rows if "total" in row), None)
    for row in rows:
        if "error" in row:
            shown.add_row(row["contender"], why_failed(row)[:80])
            continue
        share = "" if base is None else f"{row['total'] / base - 1:+.1%}"
        shown.add_row(
            row["contender"],
            mib(row["total"]),
            share,
            f"{row['seconds']:.2f}",
            f"{row['ratio']:.3f}",
            f"{row['sent'] / 1e6:.1f}",
        )
    return shown
