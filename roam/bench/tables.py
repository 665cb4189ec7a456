"""`roam bench zoo`: runs every model and prints planned memory, measured memory, and others'."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from roam.bench.children import ContenderError, Result
from roam.bench.contender import run
from roam.core.atomic_write import check_writable, write_file

SHOWN = ("roam", "eager", "inductor")
WIDTH = 150  # columns: a narrower table would be cut to dots
R = TypeVar("R", bound=dict[str, Any] | msgspec.Struct)
Row = dict[str, Any]  # "entry" -> its name, contender -> its Result or {"error": message}


def zoo_bench(
    only: str | None = None,
    json_file: Path | None = None,
    *,
    full: bool = False,
    contenders: Sequence[str] = SHOWN,
    steps: int = 5,
    device: str = "cpu",
    console: Console | None = None,
) -> list[Row]:
    """Runs the zoo, each contender on each model in its own process, and prints the table.

    A contender that fails leaves its error in the row, the table and the file.

    Args:
        only: names of entries of the tiny or the full zoo, separated by commas; None: all of the
            tiny zoo and, with `full`, of the full one.
        json_file: overwritten with one JSON object a row, each as soon as it is done.

    Raises:
        ValueError: `only` has an unknown name.
    """
    from roam.bench.zoo import FULL, TINY

    console = console or Console(width=max(WIDTH, Console().width))
    names = entry_names(only, [*TINY, *(FULL if full else ())])
    rows: list[Row] = []
    if json_file is not None:
        check_writable(json_file)
    with _progress(console) as progress:
        task = progress.add_task("", total=len(names) * len(contenders))
        for name in names:
            row: Row = {"entry": name}
            for contender in contenders:
                progress.update(task, description=f"{name}, {contender}")
                row[contender] = _attempt(name, contender, steps, device)
                progress.advance(task)
            rows.append(row)
            if json_file is not None:
                write_rows(rows, json_file)
    print_rows(rows, console)
    return rows


def entry_names(only: str | None, default: Iterable[str]) -> list[str]:
    """Returns the entries that `only` names, `default` without it. Raises ValueError."""
    from roam.bench.zoo import find

    return list(default) if only is None else [find(n.strip()).name for n in only.split(",")]


def names_of(only: Sequence[str], known: Collection[str], what: str = "model") -> list[str]:
    """Returns the names that were asked for, all if none was. Raises ValueError at a wrong one."""
    if unknown := sorted(set(only).difference(known)):
        raise ValueError(f"no {what} {unknown[0]!r}: there are {', '.join(known)}")
    return [*only] or [*known]


def _attempt(name: str, contender: str, steps: int, device: str) -> Result:
    try:
        return run(name, contender, steps=steps, device=device)
    except ContenderError as error:
        return {"entry": name, "contender": contender, "error": str(error)}


def write_rows(rows: Iterable[Row | msgspec.Struct], file: Path) -> None:
    """Overwrites the file with all rows so far, one JSON object a line."""
    write_file(file, "".join(json.dumps(row, default=msgspec.to_builtins) + "\n" for row in rows))


def gather(parts: Iterable[list[R]], file: Path | None) -> list[R]:
    """Returns the rows of all parts. Writes what there is to the file whenever a part is done."""
    rows: list[R] = []
    for part in parts:
        rows += part
        if file is not None:
            write_rows(rows, file)
    return rows


def print_rows(rows: Sequence[Row], console: Console) -> None:
    """Prints the table, and below it the whole text of every error."""
    console.print(table(rows))
    for row in rows:
        for result in _results(row):
            if "error" in result:
                console.print(result["error"], style="red", markup=False, highlight=False)
            for reason in result.get("reasons", ()):
                console.print(f"{row['entry']}: {reason}", style="yellow", markup=False)


def table(rows: Sequence[Row]) -> Table:
    """Returns the table: one line a model, sizes in MiB, times in seconds, roam's figures first."""
    own = [r for row in rows if (r := row.get("roam")) is not None]
    others = dict.fromkeys(c for row in rows for c in row if c not in ("entry", "roam"))
    columns = [c for c in _ROAM if own] + [f"{c} {what}" for c in others for what in _OTHER]
    shown = Table(title="MiB and seconds; each contender in its own process", title_justify="left")
    shown.add_column("model")
    for column in columns:
        shown.add_column(column, justify="right")
    for row in rows:
        cells = _cells(row.get("roam", {}), _ROAM) if own else []
        for c in others:
            cells += _cells(row.get(c, {}), _OTHER)
        shown.add_row(row["entry"], *cells)
    return shown


def _cells(result: Result, columns: dict[str, tuple[str, str]]) -> list[str]:
    if "error" in result:
        return ["[red]failed[/red]", *[""] * (len(columns) - 1)]
    return [_cell(result.get(key), form) for key, form in columns.values()]


def _cell(value: Any, form: str) -> str:
    if value is None:
        return "-"
    if form == "MiB":
        return f"{value / 2**20:.2f}"
    return format(value, form)


def _results(row: Row) -> list[Result]:
    return [r for c, r in row.items() if c != "entry"]


# heading -> (key of the Result, function that formats it)
_ROAM = {
    "ops": ("ops", "d"),
    "graphs": ("graphs", "d"),
    "planned": ("planned", "MiB"),
    "measured": ("measured", "MiB"),
    "above, B": ("above", "d"),
    "bound": ("bound", "MiB"),
    "gap": ("gap", ".2%"),
    "arena": ("arena", "MiB"),
    "fragm.": ("fragmentation", ".2%"),
    "external": ("external", ".0%"),
    "planning": ("planning_seconds", ".2f"),
    "step": ("median_seconds", ".3f"),
}
_OTHER = {"peak": ("measured", "MiB"), "step": ("median_seconds", ".3f")}


def _progress(console: Console) -> Progress:
    text = TextColumn("{task.description}")
    return Progress(text, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console)
