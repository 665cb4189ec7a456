"""`roam bench budget --stock`: at peaks that PyTorch's own budget reaches, whose step is faster?

PyTorch's partitioner takes a share of the saved bytes (`activation_memory_budget`) and weighs ops
by a cost model. It is given our measured costs. What its step then allocates is given to roam as a
budget in bytes, and the two steps are timed in turns, in one process.

    share ── inductor ── peak ── roam inductor, budget = inputs + peak ── ratio of the steps
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from roam.bench.children import Result
from roam.bench.compiled import mib, why_failed
from roam.bench.paired_runs import Timing, compare, measured
from roam.bench.tables import entry_names, write_rows
from roam.core.atomic_write import check_writable

SHARES = tuple(range(100, 0, -10))  # percent of the saved bytes
MODELS = ("gpt2-small-128",)


def budget_against_stock(
    only: str | None = None,
    json_file: Path | None = None,
    *,
    shares: Sequence[int] = SHARES,
    timing: Timing | None = None,
    console: Console | None = None,
) -> list[Result]:
    """Compares steps of equal peaks. Returns and prints a row of each share with a new peak.

    A row has the share, the peaks that were measured of both steps, what each recomputes by the
    costs of ops where that is known, and `ratios`: our step's seconds over those of stock Inductor.

    Args:
        only: names of zoo entries, separated by commas; None for `MODELS`.
        json_file: overwritten with one JSON object a row.
        shares: PyTorch's budgets, in percent.
        timing: how step times are compared; base and process follow from the other arguments.

    Raises:
        ValueError: an unknown name.
        ContenderError: a contender ran and failed when it was started again.
    """
    console = console or Console()
    if json_file is not None:
        check_writable(json_file)
    timing = replace(timing or Timing(), together=True, update=False)
    found: list[Result] = []
    for name in entry_names(only, MODELS):
        rows: list[Result] = []
        for stock in _of_new_peaks(name, shares, timing):
            rows.append(_compared(name, stock, timing, console))
            if json_file is not None:
                write_rows([*found, *rows], json_file)
        found += rows
        console.print(_table(name, rows))
    return found


def _of_new_peaks(name: str, shares: Sequence[int], timing: Timing) -> list[Result]:
    """Returns the rows of PyTorch's budgets: of those with one peak the largest, and errors."""
    rows: dict[object, Result] = {}
    for share in shares:
        row = measured(name, f"inductor {share}%", timing)
        rows.setdefault(row.get("transient", share), {**row, "share": share})
    return list(rows.values())


def _compared(name: str, stock: Result, timing: Timing, console: Console) -> Result:
    """Returns the row of a share, with roam's step at its peak beside it."""
    row = {"entry": name, "share": stock["share"]}
    if "error" in stock:
        return {**row, "error": stock["error"]}
    ours = f"roam inductor {stock['inputs'] + stock['transient']}B"
    base = stock["contender"]
    _, step = compare(name, [base, ours], replace(timing, base=base), console)
    if "error" in step:
        return {**row, "stock": stock["transient"], "error": step["error"]}
    return {
        **row,
        "stock": stock["transient"],
        "ours": step["transient"],
        "planned": step["planned"],
        "extra": step.get("extra", 0.0),
        "ratios": step["ratios"],
    }


def _table(name: str, rows: Sequence[Result]) -> Table:
    shown = Table(title=f"{name}: steps of equal peaks, MiB", title_justify="left")
    for column in (
        "share",
        "inductor",
        "roam",
        "planned",
        "extra, by costs",
        "time, roam / inductor",
    ):
        shown.add_column(column, justify="right")
    for row in rows:
        cells = [mib(row[key]) if key in row else "" for key in ("stock", "ours", "planned")]
        if "error" in row:
            cells += ["", why_failed(row)[:60]]
        else:
            cells += [f"{row['extra']:.1%}", f"{statistics.median(row['ratios']):.3f}"]
        shown.add_row(f"{row['share']}%", *cells)
    return shown
