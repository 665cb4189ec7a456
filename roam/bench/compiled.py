"""`roam bench compiled`: compares plain Inductor, Inductor's own memory options, and roam."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from roam.bench.children import Result
from roam.bench.paired_runs import BASE, Timing, compare_each
from roam.bench.tables import entry_names, gather
from roam.core.atomic_write import check_writable

LARGER = ("gpt2-small-128", "gpt2-small-512", "gpt2-small")
COMPILED = (
    "eager",
    "inductor",
    "inductor budget 0.5",
    "inductor pools",
    "roam aten",
    "roam inductor",
    "roam aten adama",
    "roam inductor adama",
)


def compiled_bench(
    only: str | None = None,
    json_file: Path | None = None,
    *,
    contenders: Sequence[str] = COMPILED,
    timing: Timing | None = None,
    console: Console | None = None,
) -> list[Result]:
    """Prints a table for each model, and returns a row for each model and contender.

    A contender that fails leaves its error in its row.

    Args:
        only: names of zoo entries, separated by commas; None: GPT-2 small at three lengths and the
            tiny zoo.
        json_file: overwritten with one JSON object a row.
        contenders: rows of the table.
        timing: how step times are compared.
        console: prints the tables.

    Raises:
        ValueError: `only` has an unknown name.
    """
    from roam.bench.zoo import TINY

    console = console or Console()
    names = entry_names(only, (*LARGER, *TINY))
    if json_file is not None:
        check_writable(json_file)
    return gather(compare_each(names, contenders, timing or Timing(), console, table), json_file)


def table(name: str, rows: Sequence[Result]) -> Table:
    """Returns a table of one line a contender. Percentages are of Inductor's memory."""
    title = f"{name}: memory in MiB, step time by inductor's, compiling in seconds"
    columns = ("planned", "transient", "", "total", "", "step", "compile", "blocks")

    def cells(row: Result, base: Result | None) -> list[str]:
        found = [mib(row["planned"]) if "planned" in row else ""]
        for key in ("transient", "total"):
            found += [mib(row[key]), percent(row[key], base[key] if base else None)]
        return [*found, step_ratio(row), f"{row['compile_seconds']:.1f}", blocks(row)]

    return contender_table(title, columns, rows, cells)


def contender_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Result],
    cells: Callable[[Result, Result | None], Sequence[str]],
    failed: Callable[[Result], Sequence[str]] | None = None,
) -> Table:
    """Returns a table of one line a contender; the line of one that failed says why.

    Args:
        title: of the table.
        columns: their heads, the one of the contenders' names left out.
        rows: the results of the contenders.
        cells: returns the cells of a row, given Inductor's row, or None if it has none.
        failed: returns the cells of a row with an error; one with the reason if left out.
    """
    shown = Table(title=title, title_justify="left")
    shown.add_column("contender")
    for column in columns:
        shown.add_column(column, justify="right")
    base = base_row(rows)
    for row in rows:
        if "error" in row:
            rest = [why_failed(row)] if failed is None else failed(row)
        else:
            rest = cells(row, base)
        shown.add_row(row["contender"], *rest)
    return shown


def base_row(rows: Sequence[Result], base: str = BASE) -> Result | None:
    """Returns the row of a contender, Inductor's by default; None if it has none or failed."""
    return next((r for r in rows if r["contender"] == base and "error" not in r), None)


def why_failed(row: Result) -> str:
    """Returns the line of a failed contender's error that names the exception, if one does."""
    lines: list[str] = row["error"].strip().splitlines()
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Failed)\b", line)]
    return (named or lines)[-1]


def step_ratio(row: Result) -> str:
    """Returns the median ratio of the pairs, with their range if there are several."""
    ratios = row.get("ratios", ())
    spread = f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"{statistics.median(ratios):.3f}{spread}" if ratios else ""


def blocks(row: Result) -> str:
    """Returns the number of blocks if the row has it; "-" if Inductor's chunker split nothing."""
    if row.get("chunked") is False:
        return "-"
    return "" if row.get("blocks") is None else str(row["blocks"])


def percent(size: int, base: int | None) -> str:
    """Returns by how many percent `size` is larger than the base, if there is one."""
    return f"{size / base - 1:+.1%}" if base else ""


def mib(size: int) -> str:
    return f"{size / 2**20:.1f}"
