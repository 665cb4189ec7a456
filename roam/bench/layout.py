"""`roam bench layout`: packs MiniMalloc's and random instances, exactly and by others' heuristics.

The random instances are strips of memory, cut into buffers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from roam.bench.children import Result
from roam.bench.tables import write_rows
from roam.core.atomic_write import check_writable
from roam.core.errors import OptionError
from roam.solvers.answer import Outcome
from roam.solvers.jit import COMPILED
from roam.solvers.layout.greedy_fits import Rect
from roam.solvers.layout.packing.baselines import BASELINES
from roam.solvers.layout.packing.generate import cut_strip, spoil
from roam.solvers.layout.packing.instance import check_packing, height, max_load, read_csv
from roam.solvers.layout.packing.pack import pack
from roam.solvers.work import Work

STRIP = 2**20  # bytes, the height of the random instances
BUFFERS = (50, 100, 200, 500, 1000, 2000)
LONG = 10**6  # times
STRIPS: dict[str, Callable[[int, int], list[Rect]]] = {  # n buffers and a seed
    "op": lambda n, seed: cut_strip(n, 2 * n, STRIP, seed),
    "continuous": lambda n, seed: cut_strip(n, LONG, STRIP, seed),
    "guillotine": lambda n, seed: cut_strip(n, 2 * n, STRIP, seed, pinwheels=0.0),
    "pinwheel": lambda n, seed: cut_strip(n, 2 * n, STRIP, seed, pinwheels=0.8),
    "coarse": lambda n, seed: cut_strip(n, 2 * n, STRIP, seed, grain=STRIP // 1024),
    "crowded": lambda n, seed: cut_strip(n, 100, STRIP, seed),
    "spoiled": lambda n, seed: spoil(cut_strip(n, 2 * n, STRIP, seed), 0.03, seed),
}
SEEDS = range(2)


def layout_bench(
    json_file: Path | None = None,
    *,
    only: str | None = None,
    data: Path | None = None,
    seconds: float = 20.0,
    console: Console | None = None,
) -> list[Result]:
    """Returns a row an instance: each allocator's height by the largest load, and roam's seconds.

    Args:
        json_file: overwritten with one JSON object a row.
        data: a folder of `NAME.CAPACITY.csv` files; for these the question is whether they fit.
            The random instances, which follow, are minimized.
        only: a prefix of the instances' names.
        seconds: the deadline of an instance.

    Raises:
        OptionError: no instance has that prefix.
    """
    console = console or Console(width=max(120, Console().width))
    prefix = only or ""
    files = [file for file in _files(data) if file[0].startswith(prefix)]
    instances = [*files, *_strips(prefix)]
    if not instances:
        raise OptionError(
            f"no instance is called {only!r}: they come from --data, or are `strip-…`"
        )
    if json_file is not None:
        check_writable(json_file)
    start = time.monotonic()
    pack([Rect(i, i + 3, 3 + i * i % 4) for i in range(6)])  # numba compiles, or finds its cache
    how = "compiled" if COMPILED else "interpreted: numba is not installed"
    console.print(f"first search, {how}: {time.monotonic() - start:.1f} s")
    rows: list[Result] = []
    for name, rects, capacity in instances:
        with console.status(name):
            rows.append(run(name, rects, capacity, seconds))
        if json_file is not None:
            write_rows(rows, json_file)
        console.print(line(rows[-1]))
    console.print(table(rows))
    return rows


def run(name: str, rects: Sequence[Rect], capacity: int | None, seconds: float) -> Result:
    start, cpu = time.monotonic(), time.process_time()
    answer = pack(rects, capacity, work=Work.worth(seconds, patience=1.0))
    took, cpu = time.monotonic() - start, time.process_time() - cpu
    check_packing(rects, answer.found.offsets)
    heights = {}
    for baseline, place in BASELINES.items():
        offsets = place(rects)
        check_packing(rects, offsets)
        heights[baseline] = height(rects, offsets)
    return {
        "instance": name,
        "buffers": len(rects),
        "load": max_load(rects),
        "capacity": capacity,
        "height": answer.value,
        "lower_bound": answer.bound,
        "status": str(answer.status),
        "nodes": answer.work,
        "seconds": took,
        "cpu_seconds": cpu,
        "baselines": heights,
    }


def solved(row: Result) -> bool:
    return row["status"] in (Outcome.OPTIMAL, Outcome.FITS, Outcome.DOES_NOT_FIT)


def line(row: Result) -> str:
    return (
        f"{row['instance']}: {row['status']}, {row['height'] / row['load']:.3f} of the load, "
        f"{row['nodes']:,} nodes, {row['seconds']:.2f} s"
    )


def table(rows: Sequence[Result]) -> Table:
    """Returns the table of heights, each by the largest load: 1.000 is the best possible."""
    shown = Table(
        title=f"Arena by largest load; {sum(map(solved, rows))} of {len(rows)} solved in "
        f"{sum(r['seconds'] for r in rows):.1f} s",
        title_justify="left",
    )
    shown.add_column("instance")
    for column in ("buffers", "roam", "status", "seconds", "CPU", *BASELINES):
        shown.add_column(column, justify="right")
    for row in rows:
        shown.add_row(
            row["instance"],
            str(row["buffers"]),
            f"{row['height'] / row['load']:.3f}",
            row["status"],
            f"{row['seconds']:.2f}",
            f"{row['cpu_seconds']:.2f}",
            *(f"{h / row['load']:.3f}" for h in row["baselines"].values()),
        )
    return shown


def _files(data: Path | None) -> list[tuple[str, Sequence[Rect], int | None]]:
    """Reads NAME.CAPACITY.csv files. Returns (name, buffers, capacity), in the order of names."""
    return [
        (f.name.split(".")[0], read_csv(f.read_text()).rects, int(f.name.split(".")[1]))
        for f in sorted(data.glob("*.*.csv") if data is not None else ())
    ]


def _strips(prefix: str) -> Iterator[tuple[str, Sequence[Rect], int | None]]:
    """Cuts the strips whose names have a prefix: to cut all of them takes seconds."""
    for kind, strip in STRIPS.items():
        for n in BUFFERS:
            for seed in SEEDS:
                if (name := f"strip-{kind}-{n}-{seed}").startswith(prefix):
                    yield name, strip(n, seed), None
