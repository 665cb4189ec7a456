"""`roam bench budget --model`: training steps within budgets, beside the step without one.

planned, measured <= limit       predicted extra time, the bound below it, and the measured one

Costs of ops know nothing of the pages that the kernel maps anew in every step, of which fewer are
needed within a budget; so the kernel's processor seconds stand beside the measured time.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from roam.bench.children import Result
from roam.bench.compiled import contender_table, mib, why_failed
from roam.bench.compilers import BUDGETS
from roam.bench.paired_runs import Timing, compare_each
from roam.bench.tables import entry_names, gather
from roam.core.atomic_write import check_writable
from roam.options import LOWERINGS

MODELS = ("gpt2-small", "bert-base", "vit-b-16", "resnet-50")


def budget_steps(
    only: str | None = None,
    json_file: Path | None = None,
    *,
    lowering: str = "aten",
    folded: bool = False,
    shares: Sequence[int] = BUDGETS,
    timing: Timing | None = None,
    console: Console | None = None,
) -> list[Result]:
    """Trains models within shares of what they allocate. Returns and prints a row of each.

    A budget that is refused leaves its error in its row. Step times are compared with those of the
    same kernels without a budget, in turns, in one process: two of them differ by some percent.

    Args:
        only: names of zoo entries, separated by commas; None for `MODELS`.
        json_file: overwritten with one JSON object a row.
        lowering: whose kernels.
        folded: whether AdamA takes each gradient inside the backward.
        shares: budgets in percent of what a step allocates without one.
        timing: how step times are compared; base and process follow from the other arguments.
        console: prints the tables.

    Raises:
        ValueError: an unknown name or lowering.
    """
    if lowering not in LOWERINGS:
        raise ValueError(f"lowerings are {', '.join(LOWERINGS)}")
    console = console or Console()
    if json_file is not None:
        check_writable(json_file)
    base = f"roam {lowering}{' adama' if folded else ''}"
    timing = replace(timing or Timing(), base=base, together=True)
    contenders = (base, *(f"{base} {share}%" for share in shares))
    found = compare_each(entry_names(only, MODELS), contenders, timing, console, _table)
    return gather(found, json_file)


def _table(name: str, rows: Sequence[Result]) -> Table:
    title = f"{name}: memory in MiB, extra time by the costs of ops and measured"
    columns = (
        "limit",
        "planned",
        "measured",
        "extra",
        "proven",
        "measured extra",
        "system, s",
        "compile, s",
    )

    def cells(row: Result, _: Result | None) -> list[str]:
        ratios = row.get("ratios", ())
        return [
            mib(row["limit"]) if "limit" in row else "",
            mib(row["planned"]),
            mib(row["transient"]),
            *(f"{row[key]:.2%}" if key in row else "" for key in ("extra", "extra_bound")),
            f"{statistics.median(ratios) - 1:+.1%}" if ratios else "",
            f"{row['system']:.2f}" if "system" in row else "",
            f"{row['compile_seconds']:.1f}",
        ]

    return contender_table(title, columns, rows, cells, _refused)


def _refused(row: Result) -> Sequence[str]:
    """Returns the cells of a row without a step: what it would take, weights included, or why."""
    if row.get("least"):
        return ("refused", f"{mib(row['found'])} total", f"at least {mib(row['least'])}")
    return ("", why_failed(row)[:60])
