"""`roam bench offload --states`: training with the optimizer's states in memory, and in a file.

Each contender trains in a process of its own that may take so many bytes of memory. After two steps
that compile and fill caches, some are timed, and the memory of one is measured.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from roam.bench.children import ContenderError, Result, process
from roam.bench.tables import WIDTH, entry_names, write_rows
from roam.core.atomic_write import check_writable
from roam.core.sizes import parse_size
from roam.inspect.moved import DAY

WORKER = "roam.bench.folding_worker"
ENTRIES = ("gpt2-small-128",)
CONTENDERS = ("adama roam", "adama states", "adama both", "slim roam", "slim states")
TERA = 10**12


def states_bench(
    only: str | None = None,
    json_file: Path | None = None,
    *,
    memory: str = "10GiB",
    rounds: int = 3,
    contenders: Sequence[str] = CONTENDERS,
    console: Console | None = None,
) -> list[Result]:
    """Prints a table for each model, and returns a row for each model and contender.

    Args:
        only: names of zoo entries, separated by commas; None for `ENTRIES`.
        json_file: overwritten with one JSON object a row.
        memory: of a process (RLIMIT_DATA).
        rounds: steps that are timed.
        contenders: some of the folding worker's. "states" has them in a file, "both" saved tensors
            too.
        console: prints the tables.

    Raises:
        ValueError: a name that the zoo does not have.
    """
    console = console or Console(width=max(WIDTH, Console().width))
    names, limit = entry_names(only, ENTRIES), parse_size(memory)
    if json_file is not None:
        check_writable(json_file)
    rows: list[Result] = []
    for name in names:
        found = []
        for contender in contenders:
            with console.status(f"{name}: {contender}"):
                found.append(_measured(name, contender, limit, rounds))
        rows += found
        if json_file is not None:
            write_rows(rows, json_file)
        console.print(_table(f"{name} in {memory}", found))
    return rows


def _measured(name: str, contender: str, limit: int, rounds: int) -> Result:
    row: Result = {"entry": name, "contender": contender}
    try:
        with process(WORKER, name, contender, "--limit", str(limit)) as child:
            row |= child.read()
            steps = [child.ask("step") for _ in range(rounds)]
            row |= {"steps": steps, **child.ask("measure")}
    except ContenderError as error:
        return row | {"error": str(error)}
    row["resident"] = max(step["resident"] for step in steps)
    row["losses"] += [step["loss"] for step in steps]
    for figure in ("seconds", "stalled", "read", "written"):
        row[figure] = statistics.median(step[figure] for step in steps)
    return row


def _table(title: str, rows: Sequence[Result]) -> Table:
    """Returns the table. A loss is right if it has the bits of the first row with its optimizer."""
    table = Table(title=f"{title}; MiB, seconds", title_justify="left")
    for column in (
        "contender", "persistent", "transient", "planned", "resident", "step", "waited", "planned",
        "read", "written", "TB a day", "losses",
    ):  # fmt: skip
        table.add_column(column, justify="left" if column == "contender" else "right")
    losses: dict[str, list[float]] = {}
    for row in rows:
        if "error" in row:
            table.add_row(row["contender"], row["error"].splitlines()[-1])
            continue
        same = losses.setdefault(row["contender"].split()[0], row["losses"]) == row["losses"]
        table.add_row(
            row["contender"],
            *(_mib(row[key]) for key in ("persistent", "transient", "planned", "resident")),
            f"{row['seconds']:.2f}",
            f"{row['stalled']:.2f}",
            f"{row['planned_stall']:.2f}" if "planned_stall" in row else "",
            _mib(row["read"]),
            _mib(row["written"]),
            f"{row['written'] / row['seconds'] * DAY / TERA:.1f}",
            "same" if same else "differ",
        )
    return table


def _mib(size: float) -> str:
    return f"{size / 2**20:,.0f}"
