"""`roam bench budget`: extra time of node-link graphs within budgets, and a bound beside it.

Every schedule is replayed by `roam.core.replay`, which knows nothing of the search.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from roam.bench.children import Result
from roam.bench.layered import layered_graph
from roam.bench.tables import write_rows
from roam.core.atomic_write import check_writable
from roam.core.errors import BudgetError, FileFormatError
from roam.core.node_link import read_node_link
from roam.core.replay import replay
from roam.core.sizes import show_size
from roam.solvers.budget.sequence_search import SECONDS, schedule
from roam.solvers.work import Work

SHARES = (90, 80, 70)  # percent of the given order's peak
Published = dict[str, dict[str, float]]  # name of a graph -> percent of its peak -> best figure


def budget_bench(
    instances: Path,
    json_file: Path | None = None,
    *,
    published: Path | None = None,
    shares: Sequence[int] = SHARES,
    seconds: float = SECONDS,
    console: Console | None = None,
) -> list[Result]:
    """Schedules every graph of a folder within every budget. Returns and prints a row of each.

    Args:
        instances: a folder of graphs as node-link JSON.
        json_file: overwritten with one JSON object a row.
        published: JSON with other planners' extra time in percent: {"rl100": {"70": 2.2}}.
        shares: budgets in percent of the given order's peak.
        seconds: the work of a row's search.

    Raises:
        FileFormatError: a file is no graph, or `published` no such table.
    """
    console = console or Console(width=max(100, Console().width))
    best = read_published(published) if published is not None else {}
    if json_file is not None:
        check_writable(json_file)
    compile_search()
    rows: list[Result] = []
    for path in sorted(instances.glob("*.json")):
        for share in shares:
            with console.status(f"{path.stem} within {share} %"):
                row = run(path, share, seconds)
            if (known := best.get(path.stem, {}).get(str(share))) is not None:
                row["published"] = known
            rows.append(row)
            if json_file is not None:
                write_rows(rows, json_file)
    console.print(table(rows))
    return rows


def run(path: Path, share: int, seconds: float) -> Result:
    """Returns the row of one graph and budget: extra time and its bound in percent."""
    graph = read_node_link(path)
    given = replay(graph, graph.order)
    limit = given.peak * share // 100
    row: Result = {"graph": path.stem, "ops": len(graph.order), "share": share, "budget": limit}
    start = time.perf_counter()
    try:
        found = schedule(graph.problem(), limit, Work.worth(seconds))
    except BudgetError as error:
        row |= {"error": str(error), "least": error.least, "found": error.found}
        return row | {"seconds": time.perf_counter() - start}
    row["seconds"] = time.perf_counter() - start
    checked = replay(graph, [graph.order[i] for i in found.runs])
    percent = 100 / given.time if given.time else 0.0
    return row | {
        "extra": (checked.time - given.time) * percent,
        "bound": found.bound * percent,
        "peak": checked.peak,
        "verified": checked.peak <= limit,
    }


def read_published(path: Path) -> Published:
    """Reads other planners' figures. Raises FileFormatError."""
    try:
        found: Any = json.loads(path.read_text())
        return {
            str(graph): {str(share): float(extra) for share, extra in rows.items()}
            for graph, rows in found.items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise FileFormatError(
            f'{path} is no table such as {{"rl100": {{"70": 2.2}}}}: {error!r}'
        ) from None


def table(rows: Sequence[Result]) -> Table:
    shown = Table(title="Extra time by that of running every op once, in %", title_justify="left")
    for column in ("graph", "ops", "budget %", "extra", "bound", "published", "s", "verified"):
        shown.add_column(column, justify="left" if column == "graph" else "right")
    for row in rows:
        if "error" in row:
            least = show_size(row["least"])
            found = "none" if row["found"] is None else show_size(row["found"])
            figures = (f"found {found}", f"least {least}")
        else:
            figures = (f"{row['extra']:.3f}", f"{row['bound']:.3f}")
        shown.add_row(
            row["graph"],
            str(row["ops"]),
            str(row["share"]),
            *figures,
            f"{row['published']:g}" if "published" in row else "",
            f"{row['seconds']:.1f}",
            {True: "yes", False: "NO", None: ""}[row.get("verified")],
        )
    return shown


def compile_search() -> None:
    """Makes numba compile the searches, so that no row's seconds include compilation."""
    from msgspec.structs import replace

    from roam.core.lifetime import live_peak

    graph = layered_graph(60, width=0.27)
    graph = replace(graph, ops=tuple(replace(op, cost=1.0) for op in graph.ops))
    try:
        schedule(graph, int(0.6 * live_peak(graph, range(len(graph.ops)))), Work.worth(0.5))
    except BudgetError:
        return  # compiled all the same
