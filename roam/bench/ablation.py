"""`roam bench order --wide --ablate`: which search closes what on the random layered graphs.

Every graph is ordered with all searches, and again with each of `Searches` switched off.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.table import Table

from roam.bench.children import Result
from roam.bench.tables import write_rows
from roam.bench.wide import compile_searches, nearest, order
from roam.core.atomic_write import check_writable
from roam.core.problem import Problem
from roam.solvers.order.leaf_stages import Searches

ALL = "all"


def variants() -> Mapping[str, Searches]:
    """Returns all searches together, and one set without each, by name."""
    every = Searches()
    names = [field.name for field in fields(every)]
    without = {f"no {name.replace('_', ' ')}": replace(every, **{name: False}) for name in names}
    return {ALL: every, **without}


def ablation(
    graphs: Iterable[Problem],
    json_file: Path | None = None,
    *,
    seconds: float = 20.0,
    console: Console | None = None,
) -> list[Result]:
    """Orders each graph with each set of searches. Returns a row for each.

    Args:
        graphs: Problems of one phase.
        json_file: overwritten with one JSON object a row.
        seconds: the work of the planner for one order, as `Settings.seconds`.
    """
    console = console or Console()
    if json_file is not None:
        check_writable(json_file)
    compile_searches()
    rows: list[Result] = []
    with console.status("ordering"):
        for problem in graphs:
            for name, searches in variants().items():
                rows.append({"searches": name, **order(problem, seconds, searches)})
                console.print(
                    "{graph}, {searches}: {roam:.4f}, bound {bound:.4f}, {seconds:.1f} s, "
                    "{method}".format(**rows[-1])
                )
                if json_file is not None:
                    write_rows(rows, json_file)
    console.print(table(rows))
    return rows


def table(rows: list[Result]) -> Table:
    """Returns a table of means: a line for each size of graph and set of searches."""
    title = "Peak and bound by the peak of the given order, means; CPU seconds"
    shown = Table(title=title, title_justify="left")
    for column in ("ops", "searches", "graphs", "roam", "bound", "optimal", "s"):
        shown.add_column(column, justify="left" if column == "searches" else "right")
    for ops in sorted({nearest(r["ops"]) for r in rows}):
        for name in dict.fromkeys(r["searches"] for r in rows):
            some = [r for r in rows if nearest(r["ops"]) == ops and r["searches"] == name]
            shown.add_row(
                str(ops),
                name,
                str(len(some)),
                *(f"{mean(r[key] for r in some):.4f}" for key in ("roam", "bound")),
                str(sum(r["roam"] == r["bound"] for r in some)),
                f"{mean(r['seconds'] for r in some):.1f}",
            )
        shown.add_section()
    return shown
