"""`roam bench offload --shapes`: SSDTrain's nine configurations, planned and simulated.

nothing runs: captured on tensors without data, priced by a described machine
kept        peak of the activations: all that the step allocates but the gradients of parameters
planned     the peak with the transfers that roam chooses, and the bound below all of them
prefix      the peak if SSDTrain's rule chooses what moves, layer by layer, on the same graph

The rule's transfers are timed as roam's: read as late as possible, not two modules ahead. It keeps
what SSDTrain keeps: tensors of less than 8 Mi elements, the last scope, and the head with the loss.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table

from roam.bench.children import Result
from roam.bench.ssdtrain_models import CONFIGS, Config
from roam.bench.tables import WIDTH, gather
from roam.core.atomic_write import check_writable
from roam.core.described_machines import Machine
from roam.core.machine import Bytes
from roam.core.problem import Kind
from roam.offline import plan
from roam.solvers.offload.bound import least_live
from roam.solvers.offload.choose import choose_moves
from roam.solvers.offload.contenders import prefix
from roam.solvers.offload.movable import Movable, Timed
from roam.solvers.offload.moved import stall_with
from roam.solvers.offload.timeline import Link, peak_with, transfers

GIB = 2**30
LARGE: Bytes = 2**24  # 8 Mi elements of float16: SSDTrain keeps what is smaller


def shapes_bench(
    only: str | None = None,
    json_file: Path | None = None,
    *,
    machine: str | Machine = "a100-ssdtrain",
    console: Console | None = None,
) -> list[Result]:
    """Plans and simulates the configurations. Returns and prints a row of each.

    Args:
        only: names of configurations, separated by commas; None for all.
        json_file: overwritten with one JSON object a row.
        machine: the machine that is simulated.

    Raises:
        ValueError: an unknown configuration.
        OptionError: an unknown machine.
    """
    console = console or Console(width=max(WIDTH, Console().width))
    chosen = Machine.of(machine)
    names = list(CONFIGS) if only is None else [n.strip() for n in only.split(",")]
    if unknown := sorted(set(names) - set(CONFIGS)):
        raise ValueError(f"{unknown[0]!r} is no configuration: they are {', '.join(CONFIGS)}")
    if json_file is not None:
        check_writable(json_file)
    rows = gather(([row_of(CONFIGS[name], chosen)] for name in names), json_file)
    console.print(_table(rows, chosen))
    return rows


def row_of(config: Config, machine: Machine) -> Result:
    """Plans one configuration.

    Returns:
        entry, machine, seconds: the configuration, the machine, and the time of its step.
        kept, planned, bound, prefix: peaks of the activations, and the lower bound, in bytes.
        unreserved: as `planned`, if transfers are taken to be as fast as the machine says.
        moved: bytes that are written in each step by the plan.
        planned_stall, unreserved_stall, prefix_stall: seconds, simulated.
    """
    model, batch = config.build()
    with warnings.catch_warnings():  # a torch without CUDA says that it plans the CPU's operators
        warnings.simplefilter("ignore", UserWarning)
        options = {"recompute": False, "lowering": "aten"}
        (graph,) = plan(model, *batch, machine=machine, options=options).graphs
    assert graph.problem is not None
    assert graph.plan is not None
    problem = graph.problem.in_order(graph.plan.order)
    gradients = {b for b, buffer in enumerate(problem.buffers) if buffer.kind is Kind.GRADIENT}
    step = Timed.of(problem, problem.spans[1].start, without=gradients)
    movable, link = step.movable(), Link(machine.write, machine.read)
    found = choose_moves(step, movable, link)
    every = choose_moves(step, movable, link, caution=1.0)
    chosen = transfers(step, prefix(step, scopes(step, movable), link), link)
    theirs = [t for t in chosen if t.wait < t.start]  # the others are handed back while written
    runs = {"planned": found, "unreserved": every, "prefix": theirs}
    return {
        "entry": config.name,
        "machine": machine.name,
        "seconds": step.seconds,
        "kept": int(step.live.max()),
        "bound": least_live(step, movable, link),
        "moved": sum(t.moved.size for t in found),
        **{name: peak_with(step, moves) for name, moves in runs.items()},
        **{f"{name}_stall": stall_with(step, moves, link) for name, moves in runs.items()},
    }


def scopes(step: Timed, movable: Sequence[Movable]) -> list[list[Movable]]:
    """Returns what SSDTrain may move of layers, by its scopes, in the order in which it is made.

    A scope is what an attention makes, or what its layer makes before it or behind it.
    """

    def scope(m: Movable) -> tuple[str, ...]:
        return tuple(step.problem.buffers[m.buffer].where.split(".")[:3])

    def name(m: Movable) -> tuple[str, ...]:
        layer = scope(m)
        return layer if layer[2:] in (("attention",), ("cross",)) else layer[:2]

    of_layers = (m for m in movable if m.size >= LARGE and scope(m)[0] in ("encoder", "decoder"))
    found = [list(group) for _, group in groupby(of_layers, name)]
    return found[:-1]  # its backward follows at once


def _table(rows: Sequence[Result], machine: Machine) -> Table:
    title = f"simulated: {machine.name}; peaks of activations in GiB, stalls in seconds"
    table = Table(title=title, title_justify="left")
    table.add_column("model")
    for column in (
        *("step, s", "kept", "bound", "planned", "less", "stall"),
        *("no reserve", "less", "stall", "prefix", "less", "stall", "moved"),
    ):
        table.add_column(column, justify="right")
    for row in rows:
        cells = [f"{row['seconds']:.2f}", f"{row['kept'] / GIB:.2f}", f"{row['bound'] / GIB:.2f}"]
        for name in ("planned", "unreserved", "prefix"):
            less, stall = 1 - row[name] / row["kept"], row[f"{name}_stall"]
            cells += [f"{row[name] / GIB:.2f}", f"{less:.1%}", f"{stall:.3f}"]
        table.add_row(row["entry"], *cells, f"{row['moved'] / GIB:.2f}")
    return table
