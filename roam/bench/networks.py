"""Plans the irregular networks of `roam bench order --wide`, each as a whole step.

A network is planned twice: "drop-in" (gradients kept) and "whole" (gradients folded inside the
backward). The figure for PyTorch is the drop-in's program order with no result written in place, in
both cases, because PyTorch keeps all gradients to the end of the backward.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from rich.table import Table

from roam.bench.children import Result
from roam.bench.order import capture
from roam.bench.order_zoo import DROP_IN, WHOLE
from roam.core.machine import MIB
from roam.core.problem import Problem
from roam.planner import Settings, plan, replaced_peak


def rows(name: str, seconds: float) -> Iterator[Result]:
    """Captures a network in a new process and plans both of its steps.

    Args:
        name: of IRREGULAR.
        seconds: the work of the planner for one plan, as `Settings.seconds`.

    Raises:
        ContenderError: the process failed.
    """
    problems = {step: capture(name, step) for step in (DROP_IN, WHOLE)}
    dropped_in, _ = problems[DROP_IN]
    pytorch = replaced_peak(dropped_in)
    for step, (problem, captured) in problems.items():
        head = {"network": name, "step": step, "capture_seconds": captured}
        yield head | {"pytorch": pytorch} | run(problem, seconds)


def run(problem: Problem, seconds: float) -> Result:
    """Plans order and layout of one Problem. Peaks are in bytes, seconds those of the CPU."""
    start = time.process_time()
    found = plan(problem, Settings(seconds))
    return {
        "ops": len(problem.ops),
        "peak": found.peak,
        "live_peak": found.live_peak,
        "bound": found.lower_bound,
        "gap": found.gap,
        "seconds": time.process_time() - start,
        "method": found.method,
    }


def line(row: Result) -> str:
    return "{network}, {step}: {ops} ops, gap {gap:.2%}, {seconds:.1f} s, {method}".format(**row)


def table(rows: Sequence[Result]) -> Table:
    """Returns a table of one line a network and step."""
    title = "Transient MiB of a step; CPU seconds of planning. PyTorch: gradients kept"
    shown = Table(title=title, title_justify="left")
    words = ("network", "step", "found by")
    for column in (*words[:2], "ops", "PyTorch", "planned", "bound", "gap", "s", words[2]):
        shown.add_column(column, justify="left" if column in words else "right")
    for row in rows:
        shown.add_row(
            row["network"],
            row["step"],
            f"{row['ops']:,}",
            *(f"{row[key] / MIB:.1f}" for key in ("pytorch", "peak", "bound")),
            f"{row['gap']:.2%}",
            f"{row['seconds']:.1f}",
            row["method"],
        )
    return shown
