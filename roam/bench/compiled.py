"""`roam bench compiled`: compares plain Inductor, Inductor's own memory options, and roam.

Each contender runs in its own process, with an empty cache of compiled code. To compare step times,
a contender and Inductor take turns, so that each ratio is of neighbouring steps. Two processes of
the same program differ by some percent for as long as they live. So Inductor also runs against
itself, which shows how exact a ratio is, and there may be several pairs of processes. With
`together` all contenders run in one process: the ratios are more exact, but they share memory that
one of them has taken from the machine.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from operator import truediv
from pathlib import Path

from rich.console import Console
from rich.table import Table

from roam.bench.children import Child, ContenderError, Result, process
from roam.bench.compiled_worker import CONTENDERS
from roam.bench.tables import entry_names, write_rows
from roam.core.atomic_write import check_writable

LARGER = ("gpt2-small-128", "gpt2-small-512", "gpt2-small")
WORKER = "roam.bench.compiled_worker"
BASE = "inductor"


def compiled_bench(
    only: str | None = None,
    json_file: Path | None = None,
    *,
    contenders: Sequence[str] = CONTENDERS,
    rounds: int = 7,
    pairs: int = 1,
    together: bool = False,
    console: Console | None = None,
) -> list[Result]:
    """Prints a table for each model, and returns a row for each model and contender.

    A contender that fails leaves its error in its row.

    Args:
        only: names of zoo entries, separated by commas; None: GPT-2 small at three lengths and the
            tiny zoo.
        json_file: overwritten with one JSON object a row.
        contenders: rows of the table.
        rounds: timed turns of every contender.
        pairs: how often each contender is compiled, and timed, in new processes.
        together: whether to time all contenders in one process, `pairs` times.
        console: prints the tables.

    Raises:
        ValueError: `only` has an unknown name.
    """
    from roam.bench.zoo import TINY

    console = console or Console()
    names = entry_names(only, (*LARGER, *TINY))
    if json_file is not None:
        check_writable(json_file)
    rows: list[Result] = []
    for name in names:
        with console.status(f"{name}: memory and compile times") as status, ExitStack() as stack:
            caches = {c: stack.enter_context(tempfile.TemporaryDirectory()) for c in contenders}
            of_model = [_measured(name, c, caches[c]) for c in contenders]
            _compile_again(of_model, pairs - 1)
            runs = {row["contender"]: row for row in of_model if "error" not in row}
            groups = [list(runs)] if together else [[c] for c in runs]
            for group in groups if BASE in caches else ():
                status.update(f"{name}: {', '.join(group)} and {BASE} in turns")
                found = [_ratios(name, group, caches, rounds, together) for _ in range(pairs)]
                for c, ratios in zip(group, zip(*found, strict=True), strict=True):
                    runs[c]["ratios"] = ratios
            rows += of_model
            if json_file is not None:
                write_rows(rows, json_file)
        console.print(table(name, of_model))
    return rows


def _measured(entry: str, contender: str, cache: str) -> Result:
    try:
        with process(WORKER, entry, contender, "--cache", cache) as child:
            return child.read()
    except ContenderError as error:
        return {"entry": entry, "contender": contender, "error": str(error)}


def _compile_again(rows: Sequence[Result], times: int) -> None:
    """Compiles `times` more times, and puts the median seconds into the rows.

    Raises ContenderError.
    """
    rows = [row for row in rows if "error" not in row]
    seconds = [[row["compile_seconds"]] for row in rows]
    for _ in range(times):
        for row, found in zip(rows, seconds, strict=True):
            with (
                tempfile.TemporaryDirectory() as cache,
                _timed(row["entry"], (row["contender"], cache)) as child,
            ):
                found.append(child.read()["compile_seconds"])
    for row, found in zip(rows, seconds, strict=True):
        row["compile_seconds"] = statistics.median(found)


def _ratios(
    entry: str, contenders: Sequence[str], caches: dict[str, str], rounds: int, together: bool
) -> list[float]:
    """Returns each contender's step seconds as a ratio to Inductor's: the median over the rounds.

    All code is compiled before. The order changes from round to round, so that no contender always
    follows the same other one. Raises ContenderError.
    """
    names = [BASE, *contenders]
    with ExitStack() as stack:
        turns: list[Callable[[], Result]] = []
        for run in [names] if together else [[c] for c in names]:
            child = stack.enter_context(_timed(entry, *((c, caches[c]) for c in run)))
            for i, _ in enumerate(run):
                child.read()  # warm, before the next one starts
                turns.append(partial(child.ask, str(i)))
        seconds: list[list[float]] = [[] for _ in turns]
        for k in range(rounds):
            forwards = [(i + k // 2) % len(turns) for i in range(len(turns))]
            for i in forwards if k % 2 == 0 else reversed(forwards):
                seconds[i].append(turns[i]()["seconds"])
    base, *others = seconds
    return [statistics.median(map(truediv, found, base)) for found in others]


def _timed(entry: str, *contenders: tuple[str, str]) -> AbstractContextManager[Child]:
    """Starts a process that runs contenders, each with its cache of compiled code."""
    (first, cache), *others = contenders
    more = (word for c, folder in others for word in ("--contender", c, "--cache", folder))
    return process(WORKER, entry, first, "--cache", cache, *more, "--seconds")


def table(name: str, rows: Sequence[Result]) -> Table:
    """Returns a table of one line a contender. Percentages are of Inductor's memory."""
    shown = Table(
        title=f"{name}: memory in MiB, step time by inductor's, compiling in seconds",
        title_justify="left",
    )
    for column in ("contender", "planned", "transient", "", "total", "", "step", "compile"):
        shown.add_column(column, justify="left" if column == "contender" else "right")
    base = next((r for r in rows if r["contender"] == BASE and "error" not in r), None)
    for row in rows:
        if "error" in row:
            shown.add_row(row["contender"], row["error"].strip().splitlines()[-1])
            continue
        cells = [_mib(row["planned"]) if "planned" in row else ""]
        for key in ("transient", "total"):
            cells += [_mib(row[key]), f"{row[key] / base[key] - 1:+.1%}" if base else ""]
        shown.add_row(row["contender"], *cells, _step(row), f"{row['compile_seconds']:.1f}")
    return shown


def _step(row: Result) -> str:
    """Returns the median ratio of the pairs, with their range if there are several."""
    ratios = row.get("ratios", ())
    spread = f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"{statistics.median(ratios):.3f}{spread}" if ratios else ""


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f}"
