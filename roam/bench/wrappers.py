"""`roam bench wrappers`: architectures under DistributedDataParallel and fully_shard (FSDP2).

rank 0 ─┐            each trains the same few steps in every way: eager, Inductor, and roam
rank 1 ─┴─ gloo      with ATen's and with Inductor's kernels
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from roam.bench.children import ContenderError, Result
from roam.bench.compiled import mib, why_failed
from roam.bench.tables import entry_names, gather
from roam.bench.teams import team
from roam.core.atomic_write import check_writable

WORKER = "roam.bench.wrappers_worker"
WAYS: dict[str, dict[str, Any]] = {  # by name, the arguments of torch.compile
    "eager": {},
    "inductor": {"backend": "inductor"},
    "roam aten": {"backend": "roam", "options": {"lowering": "aten"}},
    "roam inductor": {"backend": "roam", "options": {"lowering": "inductor"}},
}
WRAPPERS = ("ddp", "fsdp2")
MODELS = (
    *("gpt2", "llama", "bert", "t5", "vit", "resnet"),
    *("mixtral", "gemma2", "qwen3", "bart", "clip", "mamba"),
)


def wrappers_bench(
    only: str | None = None,
    json_file: Path | None = None,
    *,
    ranks: int = 2,
    steps: int = 5,
    seconds: float = 300.0,
    ways: Collection[str] = WAYS,
    console: Console | None = None,
) -> list[Result]:
    """Trains each architecture under each wrapper in every way. Prints a line for each.

    Args:
        only: names of zoo entries, separated by commas; None for `MODELS`.
        json_file: overwritten with one JSON object a row.
        ranks: processes of one thread each.
        steps: of each training.
        seconds: a training that takes longer is ended, with a traceback in its row.
        ways: those to train in, of `WAYS`; the first is eager.
        console: prints the table.

    Returns:
        Rows of entry, wrapper, way, and
        from_eager, from_inductor: the largest difference of a loss on a rank from that of these
            ways, as a share of it. Dropout draws other numbers in Inductor's kernels than in eager.
        peak: bytes that the last step allocates at its worst moment, of the rank that takes most.
        planned, unplanned: graphs on rank 0 that ran by a plan of roam, and without.
        error: in place of these, why the training failed.

    Raises:
        ValueError: `only` has an unknown name.
    """
    console = console or Console()
    names = entry_names(only, MODELS)
    if json_file is not None:
        check_writable(json_file)
    shown = Table("model", "wrapper", "way", "eager", "inductor", "MiB", "plans", "none")

    def rows_of(name: str) -> list[Result]:
        rows: list[Result] = []
        for wrapper in WRAPPERS:
            with console.status(f"{name} under {wrapper} on {ranks} ranks"):
                rows += _compared(_trained(name, wrapper, ranks, steps, seconds, ways))
        for row in rows:
            shown.add_row(*_cells(row))
        return rows

    found = gather(map(rows_of, names), json_file)
    console.print(shown)
    return found


def _trained(
    name: str, wrapper: str, ranks: int, steps: int, seconds: float, ways: Collection[str]
) -> Iterator[tuple[Result, list[Result]]]:
    """Yields a row for each way, with the answers of all ranks."""
    how = ("--steps", str(steps), "--seconds", str(seconds), "--ways", *ways)
    with team(WORKER, name, wrapper, ranks, *how) as members:
        for way in ways:
            row: Result = {"entry": name, "wrapper": wrapper, "way": way}
            try:
                answers = [child.read() for child in members]
            except ContenderError as error:
                yield row, [{"error": str(error)}]
                return
            yield row, answers
            if any("error" in answer for answer in answers):
                return


def _compared(trained: Iterator[tuple[Result, list[Result]]]) -> list[Result]:
    """Returns the rows, with losses compared to those of eager and of Inductor."""
    rows: list[Result] = []
    losses: dict[str, list[list[float]]] = {}
    for row, answers in trained:
        failed = next((answer["error"] for answer in answers if "error" in answer), None)
        if failed is not None:
            rows.append({**row, "error": failed})
            continue
        here = losses[row["way"]] = [answer["losses"] for answer in answers]
        for way in ("eager", "inductor"):
            if way in losses:
                row[f"from_{way}"] = _difference(here, losses[way])
        row["peak"] = max(answer["peak"] for answer in answers)
        rows.append({**row, "planned": answers[0]["planned"], "unplanned": answers[0]["unplanned"]})
    return rows


def _difference(here: Sequence[Sequence[float]], there: Sequence[Sequence[float]]) -> float:
    """Returns the largest relative difference of losses, by rank and step."""
    return max(
        abs(a - b) / abs(b)
        for mine, theirs in zip(here, there, strict=True)
        for a, b in zip(mine, theirs, strict=True)
    )


def _cells(row: Result) -> Sequence[str]:
    names = (row["entry"], row["wrapper"], row["way"])
    if "error" in row:
        return (*names, why_failed(row)[:60])
    apart = (row.get(f"from_{way}") for way in ("eager", "inductor"))
    losses = ("" if share is None else f"{share:.0e}" if share else "bits" for share in apart)
    graphs = (str(row["planned"]), str(row["unplanned"])) if "roam" in row["way"] else ("", "")
    return (*names, *losses, mib(row["peak"]), *graphs)
