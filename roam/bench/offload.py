"""`roam bench offload`: training steps whose saved tensors move to a file, beside the same steps
without.

without a tier     planned and measured
with one           planned and measured, the bound below it, bytes moved, seconds stalled, step time
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from roam.bench.children import Result
from roam.bench.compiled import base_row, contender_table, mib
from roam.bench.compilers import PACES
from roam.bench.paired_runs import Timing, compare_each
from roam.bench.tables import entry_names, gather
from roam.core.atomic_write import check_writable

MODELS = ("gpt2-small-dropout", "bert-base", "vit-b-16", "resnet-50")
BASE = "roam aten"


def offload_bench(
    only: str | None = None,
    json_file: Path | None = None,
    *,
    paces: Sequence[int] = (),
    timing: Timing | None = None,
    console: Console | None = None,
) -> list[Result]:
    """Trains models with tensors in a file of the folder for temporary files (TMPDIR).

    Returns and prints a row of each. Step times are compared with those of the same kernels without
    a tier, in turns, in one process.

    Args:
        only: names of zoo entries, separated by commas; None for `MODELS`.
        json_file: overwritten with one JSON object a row.
        paces: MB/s of slower disks to try too, some of `PACES`.
        timing: how step times are compared; base and process follow from the other arguments.
        console: prints the tables.

    Raises:
        ValueError: an unknown name or pace.
    """
    if not set(paces) <= set(PACES):
        raise ValueError(f"paces are {PACES}")
    console = console or Console()
    if json_file is not None:
        check_writable(json_file)
    timing = replace(timing or Timing(), base=BASE, together=True)
    slower = (f"{BASE} offload {pace}MB/s" for pace in paces)
    contenders = (BASE, f"{BASE} offload", *slower)
    found = compare_each(entry_names(only, MODELS), contenders, timing, console, _table)
    return gather(found, json_file)


def _table(name: str, rows: Sequence[Result]) -> Table:
    title = f"{name}: memory in MiB; stalls and steps in seconds"
    columns = ("planned", "measured", "bound", "saved", "moved", "stalled", "step", "by base")
    base = base_row(rows, BASE)

    def cells(row: Result, _: Result | None) -> list[str]:
        ratios = row.get("ratios", ())
        less = "" if base is None else f"{1 - row['transient'] / base['transient']:.1%}"
        return [
            mib(row["planned"]),
            mib(row["transient"]),
            mib(row["least"]) if "least" in row else "",
            less,
            mib(row["moved"]) if "moved" in row else "",
            f"{row['stalled']:.3f}" if "stalled" in row else "",
            f"{row['seconds']:.3f}" if "seconds" in row else "",
            f"{statistics.median(ratios):.3f}" if ratios else "",
        ]

    return contender_table(title, columns, rows, cells)
