"""`roam bench offload --rules`: how near the bound each rule for what moves comes, simulated.

Models are captured on tensors without data and priced as on a usual machine, so that the rows are
the same everywhere. A link is named by the share of the saved bytes that it writes while the
forward runs. No time is held in reserve. A cell is the peak by the bound of that link.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from roam.bench.children import Result
from roam.bench.offload import MODELS
from roam.bench.tables import WIDTH, entry_names, gather
from roam.bench.zoo import find, loss_of
from roam.core.atomic_write import check_writable
from roam.core.described_machines import Machine
from roam.core.machine import USUAL_CPU
from roam.offline import plan
from roam.solvers.offload.bound import least_live
from roam.solvers.offload.choose import choose_moves
from roam.solvers.offload.contenders import RULES, Rule
from roam.solvers.offload.movable import Movable, Timed
from roam.solvers.offload.timeline import Link, peak_with, transfers

SHARES = (0.05, 0.2, 0.4, 0.8, 1.6)


def rules_bench(
    only: str | None = None, json_file: Path | None = None, console: Console | None = None
) -> list[Result]:
    """Chooses what moves by every rule. Returns and prints a row of each model and link.

    Args:
        only: names of zoo entries, separated by commas; None for those of `roam bench offload`.
        json_file: overwritten with one JSON object a row.

    Raises:
        ValueError: an unknown name.
    """
    console = console or Console(width=max(WIDTH, Console().width))
    names = entry_names(only, MODELS)
    if json_file is not None:
        check_writable(json_file)
    rows = gather((rows_of(name) for name in names), json_file)
    table = Table(title="peak by the bound of the link, simulated", title_justify="left")
    for column in ("model", "link", "bound, MiB", *CHOICES):
        table.add_column(column, justify="left" if column == "model" else "right")
    for row in rows:
        ratios = (f"{row[rule] / row['bound']:.3f}" for rule in CHOICES)
        bound = f"{row['bound'] / 2**20:,.1f}"
        table.add_row(row["entry"], f"{row['share']:.0%}", bound, *ratios)
    console.print(table)
    return rows


def rows_of(name: str) -> list[Result]:
    """Returns for each link the bound and the peak by every rule, in bytes."""
    entry = find(name)
    usual = Machine("usual", "cpu", USUAL_CPU, 1.0, 1.0)
    options = {"lowering": "aten", "recompute": False}
    how: dict[str, Any] = {**entry.batch(), "machine": usual, "options": options}
    made = plan(entry.build(), loss=loss_of, **how)
    assert made.largest is not None
    problem, found = made.largest
    problem = problem.in_order(found.order)
    step = Timed.of(problem, problem.spans[1].start)
    movable = step.movable()
    saved, forward = sum(m.size for m in movable), float(step.starts[step.boundary])
    rows: list[Result] = []
    for share in SHARES:
        link = Link(share * saved / forward, share * saved / forward)
        peaks = {
            rule: peak_with(step, transfers(step, choose(step, movable, link), link))
            for rule, choose in CHOICES.items()
        }
        bound = least_live(step, movable, link)
        rows.append({"entry": name, "share": share, "bound": bound, **peaks})
    return rows


def _chosen(step: Timed, movable: Sequence[Movable], link: Link) -> list[Movable]:
    return [t.moved for t in choose_moves(step, movable, link, caution=1.0)]


CHOICES: dict[str, Rule] = {**RULES, "roam": _chosen}
