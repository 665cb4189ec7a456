"""`roam bench order`: compares the planned order with the orders of other schedulers.

Every model is planned twice: "drop-in" (gradients kept) and "whole" (gradients folded inside the
backward). The figure for PyTorch is the drop-in's program order with no result written in place,
in both cases, because PyTorch keeps all gradients to the end of the backward.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from roam.bench.children import Result, process
from roam.bench.order_tables import print_rows
from roam.bench.order_zoo import BRANCHING, DROP_IN, IRREGULAR, ORDER, WHOLE
from roam.bench.tables import write_rows
from roam.core.atomic_write import check_writable
from roam.core.files import problem_from_json
from roam.core.lifetime import live_peak
from roam.core.problem import Home, Problem
from roam.planner import Settings, plan, replaced_peak
from roam.solvers.baselines import HEURISTICS, PROGRAMS
from roam.solvers.order.greedy import OrderSolver
from roam.solvers.simulate.caching_allocator import requests, reserved

WORKER = "roam.bench.order_worker"
SYNTHETIC = "synthetic"
SIZES = (1_000, 10_000, 100_000)  # ops of the synthetic graphs

# planning seconds that ROAM's authors state, single-stream, by model (arXiv 2310.19295 and its
# result files)
PUBLISHED = {
    "alexnet": 2.3,
    "vgg11": 3.3,
    "mnasnet": 27.0,
    "mobilenet-v2": 28.0,
    "efficientnet-b0": 379.0,
    "vit-b-16": 86.0,
    "bert-base": 221.0,
    "gpt2-xl": 337.0,
}


def order_bench(
    only: str | None = None,
    json_file: Path | None = None,
    *,
    planning_seconds: float = 20.0,
    program_seconds: float = 10.0,
    sizes: Sequence[int] | None = None,
    console: Console | None = None,
) -> list[Result]:
    """Prints the tables and returns their rows, those of the synthetic graphs last.

    Args:
        only: models, separated by commas: `alexnet` for all of its batch sizes, or `alexnet-b32`.
        json_file: overwritten with one JSON object a row.
        planning_seconds: the deadline of a plan.
        program_seconds: the deadline of an integer program of one phase; 0: none runs.
        sizes: ops of the synthetic graphs. By default SIZES with the whole zoo, none with `only`.

    Raises:
        ValueError: `only` has an unknown model.
        ContenderError: a process failed.
    """
    console = console or Console(width=max(190, Console().width))
    names = order_names(only)
    if sizes is None:
        sizes = SIZES if only is None else ()
    if json_file is not None:
        check_writable(json_file)
    rows: list[Result] = []
    with console.status("capturing") as status:
        for row in _rows(names, sizes, planning_seconds, program_seconds):
            rows.append(row)
            status.update(f"{row['entry']} {row['step']}: done")
            if json_file is not None:
                write_rows(rows, json_file)
    print_rows(rows, console)
    return rows


def order_names(only: str | None) -> list[str]:
    """Returns the entries that `only` names. Raises ValueError."""
    if only is None:
        return list(ORDER)
    known = [*ORDER, *BRANCHING, *IRREGULAR]
    return [name for wish in only.split(",") for name in named(wish.strip(), known)]


def named(wish: str, known: Sequence[str]) -> list[str]:
    """Returns the names that are `wish`, or `wish` with any batch size. Raises ValueError."""
    meant = [n for n in known if wish in (n, _model(n))]
    if not meant:
        raise ValueError(f"the order bench has no {wish!r}, only: {', '.join(known)}")
    return meant


def _model(entry: str) -> str:
    return entry.rpartition("-b")[0]


def _rows(
    names: Sequence[str], sizes: Sequence[int], planning: float, program: float
) -> Iterator[Result]:
    for name in names:
        problems = {step: capture(name, step) for step in (DROP_IN, WHOLE)}
        dropped_in, _ = problems[DROP_IN]
        for step, (problem, seconds) in problems.items():
            head = {"entry": name, "step": step, "capture_seconds": seconds}
            published = {"published_seconds": PUBLISHED.get(_model(name))}
            yield head | published | row(problem, dropped_in, planning, program)
    for size in sizes:
        with process(WORKER, str(size), SYNTHETIC) as child:
            yield {"step": SYNTHETIC, **child.read()}


def capture(entry: str, step: str) -> tuple[Problem, float]:
    """Captures a Problem in a new process. Returns it with the seconds that it took."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "problem.json"
        with process(WORKER, entry, step, "--out", str(file)) as child:
            seconds = child.read()["capture_seconds"]
        return problem_from_json(file.read_bytes()), seconds


def row(problem: Problem, dropped_in: Problem, planning: float, program: float) -> Result:
    """Returns all figures of one Problem: bytes, seconds, and shares.

    Args:
        problem: the step to plan.
        dropped_in: the same step without folds, for PyTorch's figure.
        planning: the deadline of the plan, in seconds.
        program: the deadline of an integer program, in seconds.
    """
    found = plan(problem, Settings(planning))
    pytorch = replaced_peak(dropped_in)
    persistent = problem.persistent
    own = [b.size for b in problem.buffers if b.home is Home.USER]
    at_rest = reserved([], own)
    program_order = requests(dropped_in, range(len(dropped_in.ops)), {}, (), ())
    pytorch_reserved = reserved(program_order, own) - at_rest
    planned = requests(problem, found.order, found.reuse, found.offsets, found.blocks)
    roam_reserved = reserved(planned, own) - at_rest
    return {
        "ops": len(problem.ops),
        "buffers": len(problem.buffers),
        "persistent": persistent,
        "pytorch": pytorch,
        "pytorch_reserved": pytorch_reserved,
        "baselines": baselines(problem, program),
        "peak": found.peak,
        "live_peak": found.live_peak,
        "bound": found.lower_bound,
        "gap": found.gap,
        "status": found.status.value,
        "method": found.method,
        "seconds": found.seconds,
        "reserved": roam_reserved,
        "saved": 1 - found.peak / pytorch,
        "saved_of_all": 1 - found.total / (persistent + pytorch),
        "reserved_saved": 1 - roam_reserved / pytorch_reserved,
        "reserved_saved_of_all": 1 - (at_rest + roam_reserved) / (at_rest + pytorch_reserved),
    }


def baselines(problem: Problem, program_seconds: float) -> dict[str, Result]:
    """Returns peak and seconds of every baseline. All of them may write results in place."""
    solvers: dict[str, OrderSolver] = dict(HEURISTICS)
    if program_seconds > 0:
        for name, solve in PROGRAMS.items():
            solvers[name] = partial(solve, seconds=program_seconds)
    found: dict[str, Result] = {}
    for name, solver in solvers.items():
        start = time.perf_counter()
        order = [i for phase in range(len(problem.phases)) for i in solver(problem, phase)]
        seconds = time.perf_counter() - start
        found[name] = {"peak": live_peak(problem, order), "seconds": seconds}
    return found
