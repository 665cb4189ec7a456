"""`roam bench step`: measures the memory and step times of all contenders on one model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from roam.bench.children import Result
from roam.bench.contender import paired, run
from roam.bench.tables import write_rows
from roam.core.atomic_write import check_writable

SHOWN = ("eager", "aot_eager", "inductor", "roam", "roam aten", "roam keep")


def step_bench(
    only: str = "gpt2-small",
    json_file: Path | None = None,
    *,
    contenders: Sequence[str] = SHOWN,
    rounds: int = 10,
    device: str = "cpu",
    console: Console | None = None,
) -> list[Result]:
    """Measures memory of a step and of the whole loop, and the median step time relative to eager.

    The loop is a step and an update by torch's AdamW.

    Args:
        only: the name of one zoo entry.
        json_file: overwritten with one JSON object a contender.

    Raises:
        ContenderError: a process failed.
    """
    console = console or Console()
    if json_file is not None:
        check_writable(json_file)
    rows: list[Result] = []
    for contender in contenders:
        with console.status(f"{only}, {contender}: memory"):
            rows.append(run(only, contender, steps=1, device=device))
    with console.status(f"{only}: {rounds} steps of each in turns"):
        times = paired(only, contenders, rounds=rounds, device=device)
    for row in rows:
        row["ratio"] = times["ratio"][row["contender"]]
        row["seconds"] = times["seconds"][row["contender"]]
    if json_file is not None:
        write_rows(rows, json_file)
    console.print(table(only, rows))
    return rows


def table(name: str, rows: Sequence[Result]) -> Table:
    """Returns a table of one line a contender. Percentages are of the first line's peak."""
    shown = Table(
        title=f"{name}: transient peaks in MiB, step time by eager's", title_justify="left"
    )
    for column in ("contender", "planned", "step", "", "loop", "", "time"):
        shown.add_column(column, justify="left" if column == "contender" else "right")
    for row in rows:
        cells = [_mib(row.get("planned"))]
        for key in ("measured", "loop"):
            cells += [_mib(row[key]), f"{row[key] / rows[0][key] - 1:+.1%}"]
        shown.add_row(row["contender"], *cells, f"{row['ratio']:.3f}")
    return shown


def _mib(size: int | None) -> str:
    return "" if size is None else f"{size / 2**20:.1f}"
