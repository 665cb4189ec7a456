"""`roam remat`: recomputes as little of any graph as a budget of bytes allows."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from roam.core.atomic_write import check_writable, write_file
from roam.core.sizes import parse_share

SECONDS = 6.0  # of the search; reading, bounds and compiling come on top


def remat(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A graph as node-link JSON.")
    ],
    budget: Annotated[str, typer.Option(help="Share of the given order's peak: 80%.")],
    out: Annotated[Path | None, typer.Option(help="Write the schedule here, as JSON.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Work of the search.")] = SECONDS,
) -> None:
    """Find the schedule of a graph with the least extra time within a budget.

    A node has bytes (cost_ram or out_cost) and a time (cost_cpu or duration). A node may run
    several times. Alive at a step: its result, and earlier ones that this or a later step reads.
    """
    started = time.monotonic()
    from roam.core.node_link import read_node_link
    from roam.core.replay import replay
    from roam.solvers.budget.sequence_search import schedule
    from roam.solvers.work import Work

    share = parse_share(budget)
    if out is not None:
        check_writable(out)
    graph = read_node_link(file)
    given = replay(graph, graph.order)
    limit = int(share * given.peak)
    found = schedule(graph.problem(), limit, Work.worth(seconds))
    nodes = [graph.order[i] for i in found.runs]
    checked = replay(graph, nodes)
    percent = 100 / given.time if given.time else 0.0
    typer.echo(
        f"{graph.name}: peak {checked.peak} of {limit} bytes ({checked.peak / given.peak:.1%} of "
        f"the given order's), {len(nodes) - len(graph.order)} copies, "
        f"extra time {found.extra_time * percent:.3f} %, none below {found.bound * percent:.3f} %; "
        f"{time.monotonic() - started:.1f} s"
    )
    if out is not None:
        content = {
            "schedule": nodes,
            "peak": checked.peak,
            "budget": limit,
            "given_peak": given.peak,
            "cost": checked.time,
            "given_cost": given.time,
            "extra_cost": found.extra_time,
            "extra_cost_bound": found.bound,
        }
        write_file(out, json.dumps(content) + "\n")
