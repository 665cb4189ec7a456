"""Compiled steps: Inductor as it is, with what it can do about memory, and with roam.

Each contender runs in a process of its own, with an empty cache of compiled code. For step times it
runs beside Inductor, in turns, so that each ratio is of neighbouring steps. Two processes of one
program differ by some percent for as long as they live: so Inductor runs beside itself too, which
says what a ratio means, and there may be several pairs of them. Or both run in one process, which
leaves less to chance and says less of memory: they share what one of them asked of the machine.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from roam.bench.children import Child, ContenderError, Result, process
from roam.bench.compiled_worker import CONTENDERS
from roam.bench.tables import append_json, entry_names

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
    """One row a model and contender, printed as a table a model.

    only: names of entries, with commas between; None for GPT-2 small at three lengths and the tiny
    zoo. json_file: written anew, one JSON object a row. rounds: timed turns of every process.
    pairs: processes of each contender, to compile and to be timed. together: a pair is timed in
    one process. A contender that fails leaves its error in its row. Raises ValueError for an
    unknown name.
    """
    from roam.bench.zoo import TINY

    console = console or Console()
    names = entry_names(only, (*LARGER, *TINY))
    if json_file is not None:
        json_file.write_text("")
    rows: list[Result] = []
    for name in names:
        with console.status(f"{name}: memory and compile times") as status, ExitStack() as stack:
            caches = {c: stack.enter_context(tempfile.TemporaryDirectory()) for c in contenders}
            of_model = [_measured(name, c, caches[c]) for c in contenders]
            _compile_again(of_model, pairs - 1)
            for row in of_model:
                c = row["contender"]
                if BASE in caches and "error" not in row:
                    status.update(f"{name}: {c} and {BASE} in turns")
                    row["ratios"] = [
                        _ratio(name, c, caches, rounds, together=together) for _ in range(pairs)
                    ]
                if json_file is not None:
                    append_json(row, json_file)
        console.print(table(name, of_model))
        rows += of_model
    return rows


def _measured(entry: str, contender: str, cache: str) -> Result:
    try:
        with process(WORKER, entry, contender, "--cache", cache) as child:
            return child.read()
    except ContenderError as error:
        return {"entry": entry, "contender": contender, "error": str(error)}


def _compile_again(rows: Sequence[Result], times: int) -> None:
    """Makes the seconds of compiling the median of so many more. Raises ContenderError."""
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


def _ratio(
    entry: str, contender: str, caches: dict[str, str], rounds: int, *, together: bool
) -> float:
    """The contender's seconds by Inductor's, of one pair: the median of the rounds.

    Both compile nothing now, and begin a round by turns. Raises ContenderError.
    """
    ratios = []
    with ExitStack() as stack:
        # Inductor first: what a contender sets for its process must not be set for Inductor too
        runs = [[BASE, contender]] if together else [[BASE], [contender]]
        turns: list[Callable[[], Result]] = []
        for names in runs:
            child = stack.enter_context(_timed(entry, *((c, caches[c]) for c in names)))
            for i, _ in enumerate(names):
                child.read()  # warm, before the next one starts
                turns.append(partial(child.ask, str(i)))
        for k in range(rounds):
            order = (1, 0) if k % 2 == 0 else (0, 1)
            seconds = {i: turns[i]()["seconds"] for i in order}
            ratios.append(seconds[1] / seconds[0])
    return statistics.median(ratios)


def _timed(entry: str, *contenders: tuple[str, str]) -> AbstractContextManager[Child]:
    """A process that runs contenders, each with its cache."""
    (first, cache), *others = contenders
    more = (word for c, folder in others for word in ("--contender", c, "--cache", folder))
    return process(WORKER, entry, first, "--cache", cache, *more, "--seconds")


def table(name: str, rows: Sequence[Result]) -> Table:
    """One line a contender. Memory in MiB, with Inductor's as the base of the percentages."""
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
    """The median of the pairs, and between which they lie where there are several."""
    ratios = row.get("ratios", ())
    spread = f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"{statistics.median(ratios):.3f}{spread}" if ratios else ""


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f}"
