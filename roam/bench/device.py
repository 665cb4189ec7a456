"""`roam bench device`: what roam does on the device at hand, in a few minutes and one table.

rows of one model ── a process on the device ── a row fails? the next one gets a new process
        └── the time is over? what is left is named as not run
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from itertools import groupby
from pathlib import Path
from threading import Timer

from rich.console import Console
from rich.table import Table

from roam.bench.children import Child, ContenderError, Result, process
from roam.bench.compiled import mib, why_failed
from roam.bench.device_rows import PARTS, Row, usual_rows
from roam.bench.tables import WIDTH, write_rows
from roam.core.atomic_write import check_writable

WORKER = "roam.bench.device_worker"
SECONDS = 450.0  # of the whole table
CLOSE = 0.01  # share of the measured peak by which a plan may be off
LATE = "not run: the time was over"

COLUMNS = ("planned", "measured", "reserved", "simulated", "fragments", "ms", "by inductor")


def device_bench(
    device: str | None = None,
    json_file: Path | None = None,
    *,
    only: str | None = None,
    rows: Sequence[Row] = (),
    seconds: float = SECONDS,
    console: Console | None = None,
) -> list[Result]:
    """Measures roam on a device beside eager and Inductor, and prints one table at the end.

    A row that fails has its error in the table, and the next one runs.

    Args:
        device: such as "cuda"; None for the first of CUDA's, or else the CPU, which runs the same
            code with tiny models.
        json_file: overwritten with one JSON object a row, whenever a row is done.
        only: some of `PARTS`, separated by commas.
        rows: what to measure; none for the usual rows of the device.
        seconds: after which no row runs any more.
        console: prints the table.

    Returns:
        The rows: the keys of `Row`, what the functions of `device_worker` return, `took` (seconds),
        and if something is wrong `failed`, why, or `late`, if the time was over.

    Raises:
        ValueError: there is no such device, or no such part.
    """
    where = _device(device)
    parts = _parts(only)
    if json_file is not None:
        check_writable(json_file)
    console = console or Console(width=max(WIDTH, Console().width))
    wanted = [row for row in rows or usual_rows(where.partition(":")[0]) if row.part in parts]
    end = time.monotonic() + seconds
    found: list[Result] = []
    with console.status("") as status:
        for _, same in groupby(wanted, key=lambda row: row.model):
            for result in _measured(list(same), where, end, status.update):
                found.append(result)
                if json_file is not None:
                    write_rows(found, json_file)
    console.print(table(where, found))
    return found


def _device(asked: str | None) -> str:
    import torch

    if asked is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=asked)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises the latter
        [reason, *_] = str(error).splitlines()
        raise ValueError(f"there is no device {asked!r} here: {reason}") from None
    return asked


def _parts(only: str | None) -> list[str]:
    asked = list(PARTS) if only is None else [part.strip() for part in only.split(",")]
    for part in asked:
        if part not in PARTS:
            raise ValueError(f"there is no part {part!r}, only: {', '.join(PARTS)}")
    return asked


def _measured(
    rows: Sequence[Row], device: str, end: float, say: Callable[[str], None]
) -> Iterator[Result]:
    """Measures rows of one model, in one process until a row fails."""
    with ExitStack() as stack:
        child: Child | None = None
        for n, row in enumerate(rows):
            found: Result = row._asdict()
            if time.monotonic() >= end:
                yield found | {"late": LATE}
                continue
            say(", ".join(row))
            begin = time.monotonic()
            try:
                if child is None:
                    child = stack.enter_context(_started(rows, device))
                    _by(end, child, child.read)
                found |= _by(end, child, partial(child.ask, str(n)))
                found["took"] = time.monotonic() - begin
                failed = wrong(found)
                yield found if failed is None else found | {"failed": failed}
            except ContenderError as error:
                child = None
                if time.monotonic() >= end:
                    yield found | {"late": LATE}
                else:
                    found["error"] = str(error)
                    yield found | {"failed": why_failed(found)}


def _started(rows: Sequence[Row], device: str) -> AbstractContextManager[Child]:
    first, *others = (f"{row.part}:{row.contender}" for row in rows)
    more = [word for row in others for word in ("--contender", row)]
    return process(WORKER, rows[0].model, first, *more, "--device", device)


def _by(end: float, child: Child, work: Callable[[], Result]) -> Result:
    """Returns the answer that `work` reads from a process.

    Kills the process at time `end`; `work` then raises ContenderError.
    """
    timer = Timer(end - time.monotonic(), child.process.kill)
    timer.start()
    try:
        return work()
    finally:
        timer.cancel()


def wrong(row: Result) -> str | None:
    """Returns what is wrong with the figures of a row; None if they are as promised."""
    if row.get("unplanned"):
        return f"a graph without a plan: {'; '.join(row['reasons'])}"
    if "planned" in row and abs(row["planned"] / row["transient"] - 1) > CLOSE:
        return f"{row['planned'] / row['transient'] - 1:+.1%} planned"
    if row["part"] == "budget" and "transient" in row and row["transient"] > row["limit"]:
        return f"{row['transient'] / row['limit'] - 1:+.1%} above the budget"
    if row.get("different"):
        return f"{row['different']} of {row['parameters']} gradients have other bits"
    return None


def table(device: str, rows: Sequence[Result]) -> Table:
    """Returns the table. Times are those of an iteration, update included."""
    shown = Table(title=f"{device}: bytes in MiB", title_justify="left")
    for name in ("part", "model", "contender"):
        shown.add_column(name)
    for name in COLUMNS:
        shown.add_column(name, justify="right")
    shown.add_column("")
    base = {r["model"]: r for r in rows if r["contender"] == "inductor" and "seconds" in r}
    for row in rows:
        cells = _cells(row, base.get(row["model"]))
        shown.add_row(row["part"], row["model"], row["contender"], *cells, _remark(row))
    return shown


def _cells(row: Result, base: Result | None) -> list[str]:
    sizes = [mib(row[key]) if row.get(key) is not None else "" for key in _SIZES]
    fragments = f"{1 - row['allocated'] / row['reserved']:.1%}" if row.get("reserved") else ""
    if "seconds" not in row:
        return [*sizes, fragments, "", ""]
    ratio = "" if base is None else f"{row['seconds'] / base['seconds']:.3f}"
    return [*sizes, fragments, f"{1000 * row['seconds']:.1f}", ratio]


_SIZES = ("planned", "transient", "reserved", "simulated")


def _remark(row: Result) -> str:
    if bad := row.get("failed") or row.get("late"):
        return f"[red]{bad[:60]}[/]"
    if "up" in row:
        return f"{row['up'] / 1e9:.1f} GB/s up, {row['down'] / 1e9:.1f} down"
    if "batch" in row:
        return f"batch {row['batch']} trains in {mib(row['limit'])} MiB, {row['refused']} not"
    if "least" in row:
        smallest = "no total" if row["found"] is None else f"{mib(row['found'])} MiB in all"
        return f"refused: {smallest} found, at least {mib(row['least'])}"
    if "limit" in row:
        return f"within {mib(row['limit'])} MiB"
    if "different" in row:
        return f"the bits of {row['parameters']} gradients are aot_eager's"
    return ""
