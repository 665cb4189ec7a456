"""`roam bench order --wide`: compares orders of wide, irregular graphs with plain annealing's.

The baseline is a plain simulated annealing with four times the planner's time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.table import Table

from roam.bench.children import Result
from roam.bench.layered import layered_graph, read_graph
from roam.bench.tables import write_rows
from roam.core.atomic_write import check_writable
from roam.core.lifetime import live_curve, live_peak
from roam.core.problem import Problem
from roam.solvers.baselines.plain_annealing import plain_annealing
from roam.solvers.order.best_order import best_order
from roam.solvers.order.local_search import Effort, local_search
from roam.solvers.work import Work

SIZES = {100: 0.27, 250: 0.43, 500: 0.43, 1000: 0.45, 2000: 0.47}  # number of ops -> width
GRAPHS = 10  # of each size
PATIENCE = 4.0  # the time of plain annealing, in times of the planner's


def wide_bench(
    json_file: Path | None = None,
    *,
    instances: Path | None = None,
    sizes: Mapping[int, float] = SIZES,
    graphs: int = GRAPHS,
    seconds: float = 30.0,
    console: Console | None = None,
) -> list[Result]:
    """Plans each graph. Returns a row a graph: peaks as shares of the given order's, and the bound.

    Args:
        instances: a folder of graphs as node-link JSON, which come first.
        sizes: ops of the random graphs, and the width of each.
        graphs: random graphs of each size.
        seconds: the work of the planner for one order, as `Settings.seconds`.
    """
    console = console or Console(width=max(100, Console().width))
    if json_file is not None:
        check_writable(json_file)
    _compile_searches()
    rows: list[Result] = []
    for problem in _graphs(instances, sizes, graphs):
        with console.status(problem.name):
            rows.append(run(problem, seconds))
        if json_file is not None:
            write_rows(rows, json_file)
        console.print(
            "{graph}: {roam:.4f}, bound {bound:.4f}, {seconds:.1f} s; "
            "plain annealing {annealing:.4f}".format(**rows[-1])
        )
    console.print(table(rows))
    return rows


def run(problem: Problem, seconds: float) -> Result:
    """Plans the order of one graph, and runs the baseline on it."""
    given = max(live_curve(problem, range(len(problem.ops)), {}))
    start = time.monotonic()
    answer = best_order(problem, Work.worth(seconds))
    took = time.monotonic() - start
    annealed = plain_annealing(problem, 0, PATIENCE * took)
    return {
        "graph": problem.name,
        "ops": len(problem.ops),
        "roam": live_peak(problem, answer.found.order) / given,
        "bound": answer.bound / given,
        "method": answer.found.method,
        "seconds": took,
        "annealing": live_peak(problem, annealed) / given,
    }


def table(rows: list[Result]) -> Table:
    """Returns a table of means over the graphs of each size, with wins of planner and baseline."""
    shown = Table(title="Peak by that of the given order", title_justify="left")
    columns = ("ops", "graphs", "roam", "bound", "optimal", "s", "annealing", "lower", "higher")
    for column in columns:
        shown.add_column(column, justify="right")
    for ops in sorted({_size(r) for r in rows}):
        some = [r for r in rows if _size(r) == ops]
        shown.add_row(
            str(ops),
            str(len(some)),
            *(f"{mean(r[key] for r in some):.4f}" for key in ("roam", "bound")),
            str(sum(r["roam"] == r["bound"] for r in some)),
            f"{mean(r['seconds'] for r in some):.1f}",
            f"{mean(r['annealing'] for r in some):.4f}",
            str(sum(r["roam"] < r["annealing"] for r in some)),
            str(sum(r["roam"] > r["annealing"] for r in some)),
        )
    return shown


def _size(row: Result) -> int:
    return min(SIZES, key=lambda n: abs(n - row["ops"]))


def _compile_searches() -> None:
    """Makes numba compile both searches, so that no row's seconds include compilation."""
    problem = layered_graph(20)
    local_search(problem, 0, list(range(len(problem.ops))), effort=Effort(1, 1))
    plain_annealing(problem, 0, 0.0)


def _graphs(instances: Path | None, sizes: Mapping[int, float], graphs: int) -> Iterator[Problem]:
    for path in sorted(instances.glob("*.json")) if instances is not None else ():
        yield read_graph(path)
    for nodes, width in sizes.items():
        for seed in range(graphs):
            yield layered_graph(nodes, width=width, seed=seed)
