"""Draws the tables of `roam bench split`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table

from roam.bench.children import Result
from roam.bench.compiled import (
    blocks,
    contender_table,
    mib,
    percent,
    step_ratio,
    why_failed,
)
from roam.bench.paired_runs import BASE

OWN = "roam"  # the contenders whose names begin so are not the others'
NEAR = 1.1  # peaks up to that of the lowest count as near it


def heads(name: str, rows: Sequence[Result]) -> RenderableType:
    """Returns a table of one line a contender, and a line about the best of the others.

    Beside the transient bytes are those above the gradients, which a step must make in any case.
    """
    title = f"{name}: memory in MiB, times in seconds"
    columns = ("planned", "transient", "", "above gradients", "", "step", "by inductor's")

    def cells(row: Result, base: Result | None) -> list[str]:
        return [
            mib(row["planned"]) if "planned" in row else "",
            mib(row["transient"]),
            percent(row["transient"], base["transient"] if base else None),
            mib(_above(row)),
            percent(_above(row), _above(base) if base else None),
            f"{row['seconds']:.2f}" if "seconds" in row else "",
            step_ratio(row),
            f"{row['compile_seconds']:.1f}",
            blocks(row),
        ]

    shown = contender_table(title, (*columns, "compile", "blocks"), rows, cells)
    return Group(shown, *beside_the_best(rows))


def _above(row: Result) -> int:
    above: int = row["transient"] - row["gradients"]
    return above


def best_of_the_others(rows: Sequence[Result]) -> tuple[Result, Result] | None:
    """Returns the contender of the lowest peak, and the fastest whose peak is within 10 % of it.

    roam is none of them. None if no other contender has a time.
    """
    others = [r for r in rows if not r["contender"].startswith(OWN) and r.get("ratios")]
    if not others:
        return None
    lowest = min(others, key=lambda r: r["transient"])
    near = [r for r in others if r["transient"] <= NEAR * lowest["transient"]]
    return lowest, min(near, key=lambda r: statistics.median(r["ratios"]))


def beside_the_best(rows: Sequence[Result]) -> list[str]:
    """Returns a line for each of roam's contenders: its peak and time by the best of the others."""
    best = best_of_the_others(rows)
    lines: list[str] = []
    for row in rows if best else ():
        if row["contender"].startswith(OWN) and row.get("ratios"):
            assert best is not None
            lowest, fastest = best
            ratio = statistics.median(row["ratios"]) / statistics.median(fastest["ratios"])
            lines.append(
                f"{row['contender']}: {row['transient'] / lowest['transient']:.3f} of the lowest "
                f"peak of the others ({lowest['contender']}), {ratio:.3f} of the time of the "
                f"fastest within 10 % of it ({fastest['contender']})"
            )
    return lines


def losses(rows: Sequence[Result]) -> Table:
    """Returns a table of one line a loss: errors as multiples of Inductor's.

    A contender's line has the relative error of Inductor's, too, in brackets.
    """
    title = "Errors against float64, by inductor's (inductor's own, relative)"
    shown = Table(title=title, title_justify="left")
    for column in ("loss", "contender", "blocks", "of the loss", "of the gradients"):
        shown.add_column(column, justify="right" if column == "blocks" else "left")
    bases = {r["entry"]: r for r in rows if r["contender"] == BASE and "error" not in r}
    for row in rows:
        if row["contender"] == BASE and "error" not in row:
            continue
        names = row["entry"], row["contender"]
        if "error" in row or row["entry"] not in bases:
            shown.add_row(*names, "", why_failed(row) if "error" in row else "no inductor")
            continue
        base: dict[str, float] = bases[row["entry"]]["errors"]
        cells = {
            name: f"{ratio(error, base[name]):.2f} ({base[name]:.0e})"
            for name, error in row["errors"].items()
        }
        of_loss = cells.pop("loss")
        gradients = ", ".join(f"{name} {cell}" for name, cell in cells.items())
        shown.add_row(*names, blocks(row), of_loss, gradients)
    return shown


def ratio(error: float, base: float) -> float:
    """Returns the error as a multiple of the base's; 1 if there is none in either."""
    if base == 0:
        return 1.0 if error == 0 else float("inf")
    return error / base
