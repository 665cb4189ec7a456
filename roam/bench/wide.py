"""`roam bench order --wide`: orders of wide, irregular graphs.

    random layered graphs    beside a plain simulated annealing with four times the planner's time
    networks                 whole plans beside PyTorch's program order (`networks.py`)

All times are CPU seconds, so that a busy machine favours nobody.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.table import Table

from roam.bench import networks
from roam.bench.children import Result
from roam.bench.layered import layered_graph
from roam.bench.order import named
from roam.bench.order_zoo import IRREGULAR
from roam.bench.tables import write_rows
from roam.core.atomic_write import check_writable
from roam.core.lifetime import live_curve, live_peak
from roam.core.node_link import read_node_link
from roam.core.problem import Problem
from roam.solvers.baselines.plain_annealing import plain_annealing
from roam.solvers.order.best_order import best_order
from roam.solvers.order.leaf_stages import Searches
from roam.solvers.work import Work

# ops of a random graph -> its `width`; a graph of another size has the width of the nearest
WIDTHS = {100: 0.27, 250: 0.43, 500: 0.43, 1000: 0.45, 2000: 0.47}
GRAPHS = 10  # of each size
PATIENCE = 4.0  # the time of plain annealing, in times of the planner's
LAYERED = "layered"  # what `only` calls the random graphs


@dataclass(frozen=True)
class Graphs:
    """Which graphs to order.

    Attributes:
        sizes: ops of the random layered graphs.
        each: random graphs of each size.
        instances: a folder of graphs as node-link JSON, which come first.
        networks: names of IRREGULAR, each with gradients kept and with gradients folded.
    """

    sizes: Sequence[int]
    each: int = GRAPHS
    instances: Path | None = None
    networks: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Problem]:
        """Reads the instances and draws the random graphs, one after another."""
        for path in sorted(self.instances.glob("*.json")) if self.instances is not None else ():
            yield read_node_link(path, timed=False).problem()
        for nodes in self.sizes:
            for seed in range(self.each):
                yield layered_graph(nodes, width=WIDTHS[nearest(nodes)], seed=seed)


def wide_graphs(
    only: str | None = None,
    instances: Path | None = None,
    sizes: Sequence[int] = tuple(WIDTHS),
    each: int = GRAPHS,
) -> Graphs:
    """Returns the graphs that `only` names: all of them by default.

    Args:
        only: networks, or "layered" for the random graphs, separated by commas.
        instances: a folder of graphs as node-link JSON, ordered whatever `only` names.
        sizes: ops of the random graphs.
        each: random graphs of each size.

    Raises:
        ValueError: `only` has an unknown name.
    """
    known = [LAYERED, *IRREGULAR]
    wishes = known if only is None else [wish.strip() for wish in only.split(",")]
    chosen = [name for wish in wishes for name in named(wish, known)]
    networks = tuple(name for name in chosen if name != LAYERED)
    return Graphs(sizes if LAYERED in chosen else (), each, instances, networks)


def wide_bench(
    graphs: Graphs,
    json_file: Path | None = None,
    *,
    seconds: float = 20.0,
    console: Console | None = None,
) -> list[Result]:
    """Orders each graph and plans each network. Returns a row a graph, and two a network.

    Args:
        graphs: what is ordered.
        json_file: overwritten with one JSON object a row.
        seconds: the work of the planner for one order, as `Settings.seconds`.

    Raises:
        ContenderError: a network could not be captured.
    """
    console = console or Console(width=max(130, Console().width))
    if json_file is not None:
        check_writable(json_file)
    compile_searches()
    rows: list[Result] = []
    with console.status("ordering"):
        for row in _rows(graphs, seconds):
            rows.append(row)
            if json_file is not None:
                write_rows(rows, json_file)
            console.print(networks.line(row) if "network" in row else line(row))
    if any("graph" in row for row in rows):
        console.print(table([row for row in rows if "graph" in row]))
    if any("network" in row for row in rows):
        console.print(networks.table([row for row in rows if "network" in row]))
    return rows


def _rows(graphs: Graphs, seconds: float) -> Iterator[Result]:
    for problem in graphs:
        yield run(problem, seconds)
    for name in graphs.networks:
        yield from networks.rows(name, seconds)


def run(problem: Problem, seconds: float) -> Result:
    """Returns the row of one graph: its order, and that of the baseline."""
    row = order(problem, seconds)
    annealed = plain_annealing(problem, 0, PATIENCE * row["seconds"])
    return {**row, "annealing": live_peak(problem, annealed) / _given(problem)}


def order(problem: Problem, seconds: float, searches: Searches | None = None) -> Result:
    """Orders one graph. Peak and bound are shares of the given order's peak."""
    start = time.process_time()
    # the work alone ends the searches, and not the clock: a busy machine finds the same
    answer = best_order(problem, Work.worth(seconds, patience=inf), searches=searches)
    took = time.process_time() - start
    given = _given(problem)
    return {
        "graph": problem.name,
        "ops": len(problem.ops),
        "roam": live_peak(problem, answer.found.order) / given,
        "bound": answer.bound / given,
        "method": answer.found.method,
        "seconds": took,
    }


def _given(problem: Problem) -> int:
    """Returns the peak of the given order, with no result written in place, in bytes."""
    return max(live_curve(problem, range(len(problem.ops)), {}))


def line(row: Result) -> str:
    shown = (
        "{graph}: {roam:.4f}, bound {bound:.4f}, {seconds:.1f} s; plain annealing {annealing:.4f}"
    )
    return shown.format(**row)


def table(rows: list[Result]) -> Table:
    """Returns a table of means over the graphs of each size, with wins of planner and baseline."""
    title = "Peak by that of the given order; CPU seconds; gap: the mean and the largest"
    shown = Table(title=title, title_justify="left")
    columns = ("ops", "graphs", "roam", "bound", "gap", "optimal", "s", "annealing")
    for column in (*columns, "lower", "higher"):
        shown.add_column(column, justify="right")
    for ops in sorted({nearest(r["ops"]) for r in rows}):
        some = [r for r in rows if nearest(r["ops"]) == ops]
        gaps = [r["roam"] / r["bound"] - 1 for r in some]
        shown.add_row(
            str(ops),
            str(len(some)),
            *(f"{mean(r[key] for r in some):.4f}" for key in ("roam", "bound")),
            f"{mean(gaps):.1%} {max(gaps):.1%}",
            str(sum(r["roam"] == r["bound"] for r in some)),
            f"{mean(r['seconds'] for r in some):.1f}",
            f"{mean(r['annealing'] for r in some):.4f}",
            str(sum(r["roam"] < r["annealing"] for r in some)),
            str(sum(r["roam"] > r["annealing"] for r in some)),
        )
    return shown


def nearest(ops: int) -> int:
    """Returns the size in WIDTHS that is nearest to a number of ops."""
    return min(WIDTHS, key=lambda n: abs(n - ops))


def compile_searches() -> None:
    """Makes numba compile the searches, so that no row's seconds include compilation.

    The graph has no proven order after the first exact search: the others get their turn. What the
    beams would settle is left to annealing once.
    """
    problem = layered_graph(250, width=WIDTHS[250])
    for searches in (Searches(), Searches(beams=False)):
        best_order(problem, Work.worth(1.0), searches=searches)
    plain_annealing(problem, 0, 0.0)
